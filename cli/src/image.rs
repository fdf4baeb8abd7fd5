//! `teamster image …`: the images of the node that this is run on. It speaks to that node's containerd, not
//! to the coordinator; `pull` also speaks to registries, as the agent's configuration says.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use teamster_agent::config::Config;
use teamster_agent::runtime::image::{self, PullProgress};
use teamster_values::ByteCount;

use crate::args::{Format, FormatArgs, UsageError};
use crate::{FINE, service, table};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Bring an image from a file onto this node
    #[command(after_help = "\
Examples:
  docker save busybox -o busybox.tar && teamster image import busybox.tar
  teamster image import --containerd /var/lib/teamster/up/containerd.sock busybox.tar

Takes what `docker save` writes and OCI image layouts, as one tar file.")]
    Import {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Pull an image from its registry onto this node
    #[command(after_help = "\
Examples:
  teamster image pull quay.io/biocontainers/samtools:1.21--h50ea8bc_0
  teamster image pull --config /etc/teamster/agent.toml busybox

Credentials, mirrors and what is allowed are the agent's: name its configuration.")]
    Pull {
        /// The image
        reference: String,
        /// The agent's configuration
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// List the images that tasks on this node can use
    List {
        #[command(flatten)]
        format: FormatArgs,
        #[command(flatten)]
        socket: SocketArgs,
    },
}

/// Which containerd is meant.
#[derive(Debug, Args)]
pub(crate) struct SocketArgs {
    /// containerd's socket; the one of `teamster up` is DATA_DIR/containerd.sock
    #[arg(
        long,
        env = "TEAMSTER_CONTAINERD",
        default_value = "/run/containerd/containerd.sock",
        value_name = "SOCKET"
    )]
    containerd: PathBuf,
}

/// Does what was asked.
pub(crate) async fn run(command: ImageCommand) -> anyhow::Result<u8> {
    match command {
        ImageCommand::Import { file, socket } => {
            let context = || format!("import {}", file.display());
            let archive = File::open(&file).with_context(context)?;
            let images = image::import(&socket.containerd, archive).await.with_context(context)?;
            images.iter().for_each(|image| table::say(&image.name));
        }
        ImageCommand::Pull { reference, config, socket } => pull(&reference, config, &socket).await?,
        ImageCommand::List { format, socket } => {
            let images = image::list(&socket.containerd).await.context("list the images")?;
            if format.format == Format::Json {
                let documents: Vec<_> = images
                    .iter()
                    .map(|i| json!({"name": i.name, "digest": i.digest, "size_bytes": i.size_bytes}))
                    .collect();
                table::print_json(&documents)?;
                return Ok(FINE);
            }
            let rows: Vec<[String; 3]> = images
                .into_iter()
                .map(|image| [image.name, ByteCount(image.size_bytes).to_string(), image.digest])
                .collect();
            table::print(["IMAGE", "SIZE", "DIGEST"], &rows);
        }
    }
    Ok(FINE)
}

/// How often the progress bar is drawn.
const REDRAW: Duration = Duration::from_millis(100);

async fn pull(reference: &str, config: Option<PathBuf>, socket: &SocketArgs) -> anyhow::Result<()> {
    let config: Config = service::read(config.as_deref())?;
    config.check().map_err(|error| UsageError(format!("configuration: {error}")))?;
    // On anything but a terminal it draws nothing.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = "{spinner} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is a constant"));
    let seen: Arc<OnceLock<Arc<PullProgress>>> = Arc::default();
    let shown = Arc::clone(&seen);
    let watch = move |progress| drop(shown.set(progress));
    let pull = image::pull(&socket.containerd, config.images, config.registry, reference, watch);
    let mut pull = std::pin::pin!(pull);
    let pulled = loop {
        // Cancel safe: the pull is polled by reference, the timer is made anew.
        tokio::select! {
            done = &mut pull => break done,
            () = tokio::time::sleep(REDRAW) => {
                if let Some(progress) = seen.get() {
                    bar.set_length(progress.total_bytes());
                    bar.set_position(progress.done_bytes());
                }
            }
        }
    };
    bar.finish_and_clear();
    let pulled = pulled.with_context(|| format!("pull {reference}"))?;
    table::say(&pulled.to_string());
    table::say(&pulled.digest);
    Ok(())
}
