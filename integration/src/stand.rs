//! The ground that a whole-system test stands on: a private containerd with the test image in it, and a
//! directory for everything else.

use std::path::Path;

use teamster_agent::runtime::image;

use crate::cluster::{Cluster, Options};
use crate::containerd::{PrivateContainerd, can_run_containers};
use crate::image::TestImage;

/// Name of the image that test tasks run in.
pub const IMAGE: &str = "teamster-test";

/// A containerd of the test's own, and a directory that goes with it.
pub struct Stand {
    /// The containerd.
    pub containerd: PrivateContainerd,
}

impl Stand {
    /// Starts containerd and imports the test image.
    ///
    /// Where real containers cannot run and somebody said that this is fine, the test ends here, loudly.
    pub async fn start() -> Self {
        Self::start_from(None).await
    }

    /// The same on the containerd in the directory `programs`.
    pub async fn start_from(programs: Option<&Path>) -> Self {
        Self::on(|| PrivateContainerd::start_from(programs)).await
    }

    /// The same with everything in `parent`, whose path must be short.
    pub async fn start_in(parent: &Path) -> Self {
        Self::on(|| PrivateContainerd::start_in(parent, None)).await
    }

    async fn on(start: impl FnOnce() -> PrivateContainerd) -> Self {
        if !can_run_containers() {
            std::process::exit(0);
        }
        let containerd = start();
        let archive = TestImage::named(IMAGE).oci_archive();
        image::import(&containerd.socket(), std::io::Cursor::new(archive))
            .await
            .expect("import the test image");
        Self { containerd }
    }

    /// Everything of this test lies below it.
    pub fn dir(&self) -> &Path {
        self.containerd.home()
    }

    /// Starts a coordinator and an agent on this containerd.
    pub async fn cluster(&self, options: &Options) -> Cluster {
        Cluster::start(&self.dir().join("cluster"), &self.containerd.socket(), options).await
    }
}
