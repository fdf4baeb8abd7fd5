//! What the tests of pulled images stand on: an image, a registry that has it, and a containerd with
//! the rules of a node.

use std::path::Path;
use std::process::Command;

use teamster_agent::config::{ImageSettings, RegistrySettings};
use teamster_agent::runtime::{Containerd, Image, Runtime, RuntimeError, image};
use teamster_integration::containerd::{PrivateContainerd, can_run_containers};
use teamster_integration::image::TestImage;
use teamster_integration::odd_registry::OddRegistry;
use teamster_integration::pieces::{Packing, Pieces};

/// busybox in one layer.
pub(crate) fn pieces() -> Pieces {
    TestImage::named("unused").env("PULLED=yes").pieces(Packing::Gzip)
}

/// The rules for a registry without TLS.
pub(crate) fn plain_http(host: &str) -> RegistrySettings {
    RegistrySettings { host: host.to_owned(), plain_http: true, ..Default::default() }
}

/// A containerd, and rules that know of one registry without TLS.
pub(crate) struct Puller {
    pub(crate) containerd: PrivateContainerd,
    pub(crate) settings: ImageSettings,
    pub(crate) registry: RegistrySettings,
}

impl Puller {
    pub(crate) fn new(host: &str) -> Option<Self> {
        Self::on(host, None)
    }

    /// With another containerd than the one that is installed.
    pub(crate) fn on(host: &str, programs: Option<&Path>) -> Option<Self> {
        if !can_run_containers() {
            return None;
        }
        let (containerd, settings) = (PrivateContainerd::start_from(programs), ImageSettings::default());
        Some(Self { containerd, settings, registry: plain_http(host) })
    }

    pub(crate) fn runtime(&self) -> Containerd {
        let (settings, registry) = (self.settings.clone(), self.registry.clone());
        Containerd::pulling(&self.containerd.socket(), settings, vec![registry])
    }

    pub(crate) async fn image(&self, reference: &str) -> Result<Image, RuntimeError> {
        self.runtime().image(reference).await
    }

    pub(crate) async fn is_empty(&self) -> bool {
        let images = image::list(&self.containerd.socket()).await.unwrap();
        let ctr = |words: &[&str]| {
            let socket = self.containerd.socket();
            let mut command = Command::new("ctr");
            command.arg("--address").arg(socket).args(["--namespace", "teamster"]).args(words);
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        images.is_empty()
            && ctr(&["leases", "list", "-q"]).is_empty()
            && ctr(&["content", "list", "-q"]).is_empty()
    }
}

/// The odd registry with a good image at `lab/tool:1`.
pub(crate) async fn odd() -> (OddRegistry, Pieces) {
    let (registry, pieces) = (OddRegistry::start().await, pieces());
    registry.put_image("lab/tool", "1", &pieces);
    (registry, pieces)
}

impl Puller {
    /// The names of all images that the node has.
    pub(crate) async fn names(&self) -> Vec<String> {
        let images = image::list(&self.containerd.socket()).await.unwrap();
        images.into_iter().map(|image| image.name).collect()
    }
}
