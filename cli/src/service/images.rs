//! The flags of `[images]`, a table of the agent's configuration.

use std::path::PathBuf;

use clap::Args;
use teamster_agent::config::{ImageSettings, PullPolicy};
use teamster_values::{ByteCount, Period};

use super::overlay;

/// Which images tasks may use and how they come onto the node.
#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    /// When a registry is asked for an image: always, if-missing or never
    #[arg(long, env = "TEAMSTER_IMAGES_PULL", value_name = "WHEN", value_parser = pull_policy)]
    images_pull: Option<PullPolicy>,
    /// Take images by digest only
    #[arg(long, env = "TEAMSTER_IMAGES_REQUIRE_DIGEST", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    images_require_digest: Option<bool>,
    /// A docker config.json with credentials for registries
    #[arg(long, env = "TEAMSTER_IMAGES_DOCKER_CONFIG", value_name = "FILE")]
    images_docker_config: Option<PathBuf>,
    /// The most that the layers of an image may take compressed
    #[arg(long, env = "TEAMSTER_IMAGES_SIZE_MAX", value_name = "SIZE")]
    images_size_max: Option<ByteCount>,
    /// The most that an image may take unpacked
    #[arg(long, env = "TEAMSTER_IMAGES_UNPACKED_MAX", value_name = "SIZE")]
    images_unpacked_max: Option<ByteCount>,
    /// How long the pull of an image may take in all
    #[arg(long, env = "TEAMSTER_IMAGES_PULL_TIMEOUT", value_name = "TIME")]
    images_pull_timeout: Option<Period>,
    /// How long a registry may be silent before the connection is made again
    #[arg(long, env = "TEAMSTER_IMAGES_STALL_TIMEOUT", value_name = "TIME")]
    images_stall_timeout: Option<Period>,
    /// How many layers of an image are fetched at one time
    #[arg(long, env = "TEAMSTER_IMAGES_PARALLEL_LAYERS", value_name = "N")]
    images_parallel_layers: Option<u32>,
    /// How full the disk of images may be before those used least recently are removed
    #[arg(long, env = "TEAMSTER_IMAGES_DISK_HIGH_PERCENT", value_name = "N")]
    images_disk_high_percent: Option<u8>,
    /// How full the disk of images may be when that is over
    #[arg(long, env = "TEAMSTER_IMAGES_DISK_LOW_PERCENT", value_name = "N")]
    images_disk_low_percent: Option<u8>,
    /// Remove images that nothing has used for so long; 0s for never
    #[arg(long, env = "TEAMSTER_IMAGES_UNUSED_MAX", value_name = "TIME")]
    images_unused_max: Option<Period>,
    /// Never remove an image that was used in the last so long
    #[arg(long, env = "TEAMSTER_IMAGES_IDLE_MIN", value_name = "TIME")]
    images_idle_min: Option<Period>,
}

impl ImageArgs {
    pub(super) fn apply(&self, images: &mut ImageSettings) {
        overlay! {
            images.pull => self.images_pull,
            images.require_digest => self.images_require_digest,
            images.docker_config => self.images_docker_config.clone().map(Some),
            images.size_max => self.images_size_max,
            images.unpacked_max => self.images_unpacked_max,
            images.pull_timeout => self.images_pull_timeout,
            images.stall_timeout => self.images_stall_timeout,
            images.parallel_layers => self.images_parallel_layers,
            images.disk_high_percent => self.images_disk_high_percent,
            images.disk_low_percent => self.images_disk_low_percent,
            images.unused_max => self.images_unused_max,
            images.idle_min => self.images_idle_min,
        }
    }
}

fn pull_policy(text: &str) -> Result<PullPolicy, String> {
    serde_json::from_value(text.into()).map_err(|_| "must be 'always', 'if-missing' or 'never'".to_owned())
}
