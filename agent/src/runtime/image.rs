//! Images on this node: from a reference to what containers are made of, pulled where that is wanted. Of an
//! image's configuration only environment, working directory and entry point are read; labels, volumes, user
//! and the rest are never looked at.

mod archive;
mod credentials;
mod disk;
mod document;
mod fetch;
mod import;
mod leases;
mod places;
mod policy;
mod progress;
mod pull;
mod registry;
mod rights;
mod store;
mod sweep;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use jiff::Timestamp;
use oci_spec::distribution::Reference;

pub(super) use self::disk::snapshot_root;
use self::document::Opened;
pub use self::import::{ImportError, ImportedImage, import};
use self::leases::Leases;
pub use self::progress::{PullProgress, Pulled};
use self::pull::Pull;
use self::registry::FetchError;
pub use self::store::{StoredImage, list};
use self::store::{look_up, make_ready, next_chain_id, open, publish, tie_together, unpack_and_keep};
use super::containerd::Link;
use super::{Image, RuntimeError};
use crate::config::{ImageSettings, PullPolicy, RegistrySettings};

/// So many images are remembered; a node that sees more simply looks again.
const CACHE_MAX: usize = 1024;

/// A pull that goes on for as long as anybody waits for it, however many those are.
type RunningPull = Shared<BoxFuture<'static, Result<Pulled, RuntimeError>>>;

/// A pull, and how far it is.
struct Running {
    pull: WeakShared<BoxFuture<'static, Result<Pulled, RuntimeError>>>,
    progress: Arc<PullProgress>,
}

/// The images of this node, and the rules by which others come.
pub(super) struct Images {
    link: Link,
    settings: ImageSettings,
    registry_settings: Vec<RegistrySettings>,
    /// By the digest that a name stands for: content under a digest cannot change, so a warm look asks only
    /// what the name stands for now.
    known: Mutex<HashMap<String, Arc<Opened>>>,
    /// One unpacking at a time: two of the same image would do the work twice.
    unpacking: tokio::sync::Mutex<()>,
    /// By full name: parallel wishes for one image share its pull.
    pulls: Mutex<HashMap<String, Running>>,
    leases: Arc<Leases>,
    /// By full name: when a task last asked for it. Held while one is removed.
    used: tokio::sync::Mutex<HashMap<String, Timestamp>>,
}

/// Pulls an image onto the node whose containerd listens at `socket`, whether it is there already or not:
/// what the name stands for in the registry now. `watch` is called with the progress before anything is
/// fetched.
///
/// # Errors
/// What the registry, the policy or containerd says.
pub async fn pull(
    socket: &Path,
    images: ImageSettings,
    registries: Vec<RegistrySettings>,
    reference: &str,
    watch: impl FnOnce(Arc<PullProgress>),
) -> Result<Pulled, RuntimeError> {
    let link = Link::new(socket);
    let images = Images::with_leases(Leases::of_a_program(link.clone()), link, images, registries);
    let name = images.permitted(reference)?;
    let (pull, progress) = images.pull(&name)?;
    watch(progress);
    pull.await
}

/// The full name behind a reference as users write it: `busybox` is `docker.io/library/busybox:latest`.
pub(super) fn normalise(reference: &str) -> Result<Reference, String> {
    let bare = reference.strip_prefix("docker://").unwrap_or(reference);
    let name = Reference::try_from(bare).map_err(|error| error.to_string())?;
    // Every registry refuses these, so they would only be found here by accident.
    if name.repository().contains(|letter: char| letter.is_ascii_uppercase()) {
        return Err(format!("the name '{}' must be in lower case", name.repository()));
    }
    Ok(name)
}

impl Images {
    /// For the one agent that uses this containerd.
    pub(super) fn new(link: Link, settings: ImageSettings, registries: Vec<RegistrySettings>) -> Self {
        Self::with_leases(Leases::of_the_agent(link.clone()), link, settings, registries)
    }

    fn with_leases(
        leases: Arc<Leases>,
        link: Link,
        settings: ImageSettings,
        registries: Vec<RegistrySettings>,
    ) -> Self {
        Self {
            link,
            settings,
            registry_settings: registries,
            known: Mutex::default(),
            unpacking: tokio::sync::Mutex::default(),
            pulls: Mutex::default(),
            leases,
            used: tokio::sync::Mutex::default(),
        }
    }

    /// The image behind `reference`, pulled if the policy says so, and ready to make containers from.
    pub(super) async fn ensure(&self, reference: &str) -> Result<Image, RuntimeError> {
        let name = self.permitted(reference)?;
        self.touch(&name).await;
        let mut pulled = None;
        let mut found = match self.settings.pull {
            PullPolicy::Always if !self.is_current(&name).await? => None,
            _ => self.find(&name, reference).await?,
        };
        if found.is_none() {
            if self.settings.pull == PullPolicy::Never {
                let reason = "it is not on this node, and nothing is pulled here (images.pull = \"never\"); \
                              import it with `teamster image import FILE`";
                return Err(not_found(reference, reason));
            }
            pulled = Some(self.pull(&name)?.0.await?);
            if let Err(error) = self.give_up_leases().await {
                tracing::debug!(%error, "what pulls left behind is still there; trying again later");
            }
            found = self.find(&name, reference).await?;
        }
        let mut image = found.ok_or_else(|| not_found(reference, "it was removed as soon as it was here"))?;
        image.pulled = pulled;
        Ok(image)
    }

    /// The full name, if tasks may use it here.
    fn permitted(&self, reference: &str) -> Result<Reference, RuntimeError> {
        let name = normalise(reference)
            .map_err(|reason| RuntimeError::ImageUnusable { reference: reference.to_owned(), reason })?;
        policy::check(&self.settings, &name)
            .map_err(|reason| RuntimeError::ImageRefused { reference: reference.to_owned(), reason })?;
        Ok(name)
    }

    /// What this node has under the name, ready; nothing if any part of it is missing.
    async fn find(&self, name: &Reference, reference: &str) -> Result<Option<Image>, RuntimeError> {
        let Some((record, target)) = look_up(&self.link, name).await? else { return Ok(None) };
        let opened = match self.known(&target.digest) {
            Some(opened) => opened,
            None => {
                let opened = match open(&self.link, &target).await? {
                    Ok(opened) => Arc::new(opened),
                    Err(store::Flaw::Missing(_)) if self.settings.pull != PullPolicy::Never => {
                        return Ok(None);
                    }
                    Err(flaw) => {
                        let (reference, reason) = (reference.to_owned(), flaw.to_string());
                        return Err(RuntimeError::ImageUnusable { reference, reason });
                    }
                };
                let _one_at_a_time = self.unpacking.lock().await;
                if !make_ready(&self.link, &self.leases, &opened).await? {
                    return Ok(None);
                }
                self.remember(&target.digest, &opened);
                opened
            }
        };
        self.check_rights(name, &record, &target).await?;
        self.write_use(&record).await;
        Ok(Some(Image {
            name: record.name,
            digest: target.digest,
            chain_id: opened.chain_id(),
            env: opened.env.clone(),
            entrypoint: opened.entrypoint.clone(),
            workdir: opened.workdir.clone(),
            pulled: None,
        }))
    }

    /// The pull of this image that goes on, or a new one.
    fn pull(&self, name: &Reference) -> Result<(RunningPull, Arc<PullProgress>), RuntimeError> {
        let whole = name.whole();
        let registries = self.registries(name).map_err(|error| refused(&whole, error))?;
        let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.retain(|_, running| running.pull.upgrade().is_some());
        if let Some(running) = pulls.get(&whole)
            && let Some(pull) = running.pull.upgrade()
            && pull.peek().is_none()
        {
            return Ok((pull, Arc::clone(&running.progress)));
        }
        let progress = Arc::new(PullProgress::default());
        let pull = Pull {
            link: self.link.clone(),
            settings: self.settings.clone(),
            name: name.clone(),
            credentials: self.fingerprint(name).map_err(|error| refused(&whole, error))?,
            registries,
            progress: Arc::clone(&progress),
            leases: Arc::clone(&self.leases),
        };
        let pull = pull.run().boxed().shared();
        if let Some(weak) = pull.downgrade() {
            pulls.insert(whole, Running { pull: weak, progress: Arc::clone(&progress) });
        }
        Ok((pull, progress))
    }

    /// Gives up what pulls left behind that did not end well, unless one that goes on could still use it.
    async fn give_up_leases(&self) -> Result<(), RuntimeError> {
        let is_pulling = {
            let pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
            let mut pulls = pulls.values().filter_map(|running| running.pull.upgrade());
            pulls.any(|pull| pull.peek().is_none())
        };
        if is_pulling { Ok(()) } else { self.leases.give_up().await }
    }

    /// How far the pull of this image is; none while it is not being pulled.
    pub(super) fn pulling(&self, reference: &str) -> Option<String> {
        let name = normalise(reference).ok()?.whole();
        let pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        let running = pulls.get(&name)?;
        let goes_on = running.pull.upgrade().is_some_and(|pull| pull.peek().is_none());
        goes_on.then(|| running.progress.line(&name))
    }

    fn known(&self, digest: &str) -> Option<Arc<Opened>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    fn remember(&self, digest: &str, opened: &Arc<Opened>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CACHE_MAX {
            known.clear();
        }
        known.insert(digest.to_owned(), Arc::clone(opened));
    }

    /// What was remembered of this image turned out to be no longer so.
    pub(super) fn forget(&self, digest: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }
}

fn not_found(reference: &str, reason: &str) -> RuntimeError {
    RuntimeError::ImageNotFound { reference: reference.to_owned(), reason: reason.to_owned() }
}

/// What a registry's refusal means for whoever wants the image.
fn refused(reference: &str, error: FetchError) -> RuntimeError {
    let (reference, reason) = (reference.to_owned(), error.to_string());
    match error {
        FetchError::Missing(_) => RuntimeError::ImageNotFound { reference, reason },
        FetchError::Unauthorized(_) => RuntimeError::ImageUnauthorized { reference, reason },
        FetchError::Refused(_) => RuntimeError::ImageUnusable { reference, reason },
        FetchError::Passing { .. } => RuntimeError::PullFailed { reference, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_docker_reads_them() {
        let full = |text: &str| normalise(text).map(|name| name.whole());
        assert_eq!(full("busybox").unwrap(), "docker.io/library/busybox:latest");
        assert_eq!(full("docker://ubuntu:22.04").unwrap(), "docker.io/library/ubuntu:22.04");
        assert_eq!(full("quay.io/a/b").unwrap(), "quay.io/a/b:latest");
        assert_eq!(full("localhost:5000/x:1").unwrap(), "localhost:5000/x:1");
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(
            full(&format!("busybox@{digest}")).unwrap(),
            format!("docker.io/library/busybox@{digest}")
        );
        assert!(full("").is_err());
        assert!(full("Upper Case").is_err());
        assert!(full("a/Upper:1").is_err());
        assert!(full("Upper/a:1").unwrap_err().contains("lower case"));
        assert_eq!(full("a/b:Upper").unwrap(), "docker.io/a/b:Upper");
    }
}
