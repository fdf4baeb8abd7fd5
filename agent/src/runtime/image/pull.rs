//! One pull: the documents, what they allow to be said before anything large is fetched, the layers side by
//! side, each unpacked as soon as those below it are, and the name last of all, so that what is half done is
//! never seen. Everything is held by one lease until the image holds it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::services::v1::snapshots::UsageRequest;
use containerd_client::types::Descriptor;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join_all};
use oci_spec::distribution::Reference;
use oci_spec::image::ImageManifest;
use sha2::{Digest, Sha256};
use teamster_values::ByteCount;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::document::{self, CONFIG_BYTES_MAX, MANIFEST_BYTES_MAX, Opened};
use super::fetch::{Failure, Part, Source};
use super::leases::Leases;
use super::progress::{PullProgress, Pulled};
use super::registry::{Document, FetchError, Registry};
use super::rights::CREDENTIALS_LABEL;
use super::store::has_blob;
use super::{disk, publish, tie_together};
use crate::config::ImageSettings;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::{
    Link, SLOW, SNAPSHOTTER, call, digest_text, read_blob, unpack_layer, write_blob,
};

/// Between two looks at how much an image takes unpacked.
const SIZE_LOOK: Duration = Duration::from_secs(2);

/// How much room an image takes while it is pulled, in sizes of what is fetched: itself, and unpacked.
const ROOM_FACTOR: u64 = 3;

/// The label of an image record that came from a registry, and may therefore be removed; it says which.
pub(super) const PULLED_LABEL: &str = "teamster.io/pulled-from";

/// What a manifest or index is when neither it nor the registry says so.
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// An image that is to be pulled.
pub(super) struct Pull {
    pub(super) link: Link,
    pub(super) settings: ImageSettings,
    pub(super) name: Reference,
    /// Stands for the credentials that the registries may be shown.
    pub(super) credentials: Option<String>,
    pub(super) registries: Vec<Arc<Registry>>,
    pub(super) progress: Arc<PullProgress>,
    pub(super) leases: Arc<Leases>,
}

/// A pull that ended well.
struct Done {
    digest: String,
    from: String,
    /// Its name stood for nothing before.
    is_new: bool,
}

/// A document of the registry, by the digest of its bytes.
struct Verified {
    content: Vec<u8>,
    digest: String,
    media_type: String,
}

/// Manifest and, where there is one, the index above it.
struct Documents {
    top: Verified,
    manifest: Option<Verified>,
}

impl Documents {
    fn manifest(&self) -> &Verified {
        self.manifest.as_ref().unwrap_or(&self.top)
    }
}

impl Pull {
    /// Does all of it.
    pub(super) async fn run(self) -> Result<Pulled, RuntimeError> {
        let begun = Instant::now();
        let name = self.name.whole();
        tracing::info!(image = name, "pulling");
        let lease = self.leases.open("pull").await?;
        let deadline = self.settings.pull_timeout;
        let whole = tokio::time::timeout(deadline.0, self.run_under(lease.name())).await;
        // Whatever no image record holds goes with the lease. After a pull that ended well nothing does, unless the
        // name stood for another image before.
        let closed = match &whole {
            Ok(Ok(done)) if done.is_new => lease.close_unneeded().await,
            _ => lease.close().await,
        };
        let in_time = whole.unwrap_or_else(|_| {
            Err(self.passing(format!("it took longer than {deadline} (images.pull_timeout)")))
        });
        let Done { digest, from, .. } =
            in_time.inspect_err(|error| tracing::warn!(image = name, %error, "not pulled"))?;
        closed?;
        let (fetched_bytes, present_bytes) = (self.progress.fetched_bytes(), self.progress.present_bytes());
        let pulled = Pulled { name, digest, from, fetched_bytes, present_bytes, time: begun.elapsed() };
        tracing::info!(image = pulled.name, digest = pulled.digest, "{pulled}");
        Ok(pulled)
    }

    async fn run_under(&self, lease: &str) -> Result<Done, RuntimeError> {
        let source = Source {
            link: self.link.clone(),
            lease: lease.to_owned(),
            registries: self.registries.clone(),
            repository: self.name.repository().to_owned(),
            progress: Arc::clone(&self.progress),
            deadline: self.settings.pull_timeout.0,
        };
        let (documents, registry) = self.documents(&source).await?;
        let opened = self.configuration(&source, &documents).await?;
        tokio::try_join!(self.layers(&source, &opened), self.keep(lease, &documents))?;
        tie_together(&self.link, &documents.top.digest, &opened).await?;
        let target = Descriptor {
            media_type: documents.top.media_type.clone(),
            digest: documents.top.digest.clone(),
            size: i64::try_from(documents.top.content.len()).unwrap_or(i64::MAX),
            ..Descriptor::default()
        };
        let mut labels = HashMap::from([(PULLED_LABEL.to_owned(), registry.host().to_owned())]);
        labels.extend(self.credentials.clone().map(|shown| (CREDENTIALS_LABEL.to_owned(), shown)));
        let is_new = publish(&self.link, &self.name.whole(), target, labels).await?;
        Ok(Done { digest: documents.top.digest, from: registry.host().to_owned(), is_new })
    }

    /// Index and manifest, checked against the digests that name them.
    async fn documents<'a>(&self, source: &'a Source) -> Result<(Documents, &'a Registry), RuntimeError> {
        let wanted = self.name.digest().or(self.name.tag()).unwrap_or("latest");
        let fetched = source.document(wanted, MANIFEST_BYTES_MAX).await;
        let (found, registry) = fetched.map_err(|error| self.refused(error))?;
        let top = self.verify(found, self.name.digest(), registry)?;
        if !document::is_index(&top.content) {
            return Ok((Documents { top, manifest: None }, registry));
        }
        let entry = document::pick_manifest(&top.content).map_err(|reason| self.unusable(reason))?;
        let digest = entry.digest().to_string();
        document::check_digest(&digest).map_err(|reason| self.unusable(reason))?;
        let fetched = source.document(&digest, MANIFEST_BYTES_MAX).await;
        let (found, registry) = fetched.map_err(|error| self.refused(error))?;
        let manifest = self.verify(found, Some(&digest), registry)?;
        Ok((Documents { top, manifest: Some(manifest) }, registry))
    }

    fn verify(
        &self,
        document: Document,
        wanted: Option<&str>,
        registry: &Registry,
    ) -> Result<Verified, RuntimeError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Typed {
            media_type: Option<String>,
        }
        let digest = digest_text(Sha256::new_with_prefix(&document.content));
        if let Some(wanted) = wanted.filter(|wanted| *wanted != digest) {
            let host = registry.host();
            return Err(
                self.unusable(format!("{host} sent something else as {wanted}: its digest is {digest}"))
            );
        }
        let own = serde_json::from_slice(&document.content).ok().and_then(|typed: Typed| typed.media_type);
        let by_shape = if document::is_index(&document.content) { INDEX_TYPE } else { MANIFEST_TYPE };
        let told = document.media_type.filter(|told| told.starts_with("application/vnd."));
        let media_type = own.or(told).unwrap_or_else(|| by_shape.to_owned());
        Ok(Verified { content: document.content, digest, media_type })
    }

    /// Reads manifest and configuration, and looks at the sizes, before anything large is fetched.
    async fn configuration(&self, source: &Source, documents: &Documents) -> Result<Opened, RuntimeError> {
        let manifest = documents.manifest();
        let read = document::read_manifest(&manifest.content).map_err(|reason| self.unusable(reason))?;
        let parts = read.layers().iter().chain([read.config()]);
        let bytes = parts.fold(0_u64, |sum, part| sum.saturating_add(part.size()));
        let limit = self.settings.size_max;
        if bytes > limit.0 {
            let bytes = ByteCount(bytes);
            return Err(self.unusable(format!("it has {bytes}, more than {limit} (images.size_max)")));
        }
        self.check_room(&read).await?;
        self.progress.expect(bytes, read.layers().len());
        let (digest, size_bytes) = (read.config().digest().to_string(), read.config().size());
        let part = Part { digest: digest.clone(), size_bytes };
        source.blob(&part).await.map_err(|failure| self.failed(failure))?;
        let config = read_blob(&self.link, &digest, CONFIG_BYTES_MAX).await?;
        let config = config.ok_or_else(|| self.unusable(format!("its configuration {digest} is gone")))?;
        document::combine(&read, manifest.digest.clone(), &config).map_err(|reason| self.unusable(reason))
    }

    /// Sees that there is room for what is missing and for what it becomes, before it is fetched: a disk that
    /// fills up hurts everybody.
    async fn check_room(&self, manifest: &ImageManifest) -> Result<(), RuntimeError> {
        let missing = manifest.layers().iter().map(async |layer| {
            let is_here = has_blob(&self.link, layer.digest().as_ref()).await?;
            Ok(if is_here { 0 } else { layer.size() })
        });
        let (missing, root) = tokio::try_join!(try_join_all(missing), disk::snapshot_root(&self.link))?;
        let missing = missing.into_iter().fold(0_u64, u64::saturating_add);
        // Where containerd's directory cannot be seen from here, its disk cannot be looked at either.
        let Ok(disk) = disk::look(&root).await else { return Ok(()) };
        let needed = missing.saturating_mul(ROOM_FACTOR);
        if disk.free_bytes < needed {
            let (free, needed) = (ByteCount(disk.free_bytes), ByteCount(needed));
            return Err(self.passing(format!("it needs {needed} on this node's disk, and {free} are free")));
        }
        Ok(())
    }

    /// Fetches layers side by side and unpacks them one upon the other.
    async fn layers(&self, source: &Source, opened: &Opened) -> Result<(), RuntimeError> {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            opened.layers.iter().map(|_| watch::channel(false)).unzip();
        // In the order of the layers, because that is the order in which they are unpacked.
        let turns = Semaphore::new(self.settings.parallel_layers.max(1) as usize);
        let mut fetches: Vec<BoxFuture<'_, Result<(), RuntimeError>>> = Vec::new();
        for (layer, is_here) in opened.layers.iter().zip(senders) {
            let part = Part { digest: layer.digest.clone(), size_bytes: layer.size_bytes };
            fetches.push(self.layer(source, &turns, part, is_here).boxed());
        }
        let fetch = try_join_all(fetches);
        let unpack = self.unpack(&source.lease, opened, receivers);
        // The first that fails ends the other; what has arrived stays for the next try.
        tokio::try_join!(fetch, unpack).map(drop)
    }

    async fn layer(
        &self,
        source: &Source,
        turns: &Semaphore,
        part: Part,
        is_here: watch::Sender<bool>,
    ) -> Result<(), RuntimeError> {
        let _turn = turns.acquire().await.expect("nobody closes the semaphore");
        source.blob(&part).await.map_err(|failure| self.failed(failure))?;
        is_here.send_replace(true);
        Ok(())
    }

    async fn unpack(
        &self,
        lease: &str,
        opened: &Opened,
        arrivals: Vec<watch::Receiver<bool>>,
    ) -> Result<(), RuntimeError> {
        let (mut parent, mut bytes) = (String::new(), 0);
        let limit = self.settings.unpacked_max;
        for (layer, mut is_here) in opened.layers.iter().zip(arrivals) {
            if is_here.wait_for(|is_here| *is_here).await.is_err() {
                // Its fetch has failed; that is what the user must hear of.
                return std::future::pending().await;
            }
            let (chain_id, key) = super::next_chain_id(&parent, layer, lease);
            let watched = async {
                loop {
                    tokio::time::sleep(SIZE_LOOK).await;
                    self.check_unpacked(bytes + self.snapshot_bytes(&key).await)?;
                }
            };
            // Both may be dropped: one only looks, and what is half unpacked goes with the lease.
            tokio::select! {
                done = unpack_layer(&self.link, lease, layer, &parent, &chain_id) => {
                    done.map_err(|error| self.unpacking(error))?;
                }
                too_large = watched => return too_large,
            }
            bytes += self.snapshot_bytes(&chain_id).await;
            self.check_unpacked(bytes)?;
            self.progress.unpacked();
            parent = chain_id;
        }
        tracing::debug!(image = self.name.whole(), bytes, limit = %limit, "unpacked");
        Ok(())
    }

    fn check_unpacked(&self, bytes: u64) -> Result<(), RuntimeError> {
        let limit = self.settings.unpacked_max;
        if bytes <= limit.0 {
            return Ok(());
        }
        Err(self.unusable(format!("unpacked it takes more than {limit} (images.unpacked_max)")))
    }

    /// What a snapshot takes; one that is not there takes nothing.
    async fn snapshot_bytes(&self, key: &str) -> u64 {
        let request = UsageRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
        let usage = self.link.client().snapshots().usage(call(request, SLOW)).await;
        usage.map_or(0, |usage| u64::try_from(usage.into_inner().size).unwrap_or_default())
    }

    /// Puts the documents into the store, byte for byte.
    async fn keep(&self, lease: &str, documents: &Documents) -> Result<(), RuntimeError> {
        for document in [Some(&documents.top), documents.manifest.as_ref()].into_iter().flatten() {
            let upload = format!("{lease}-{}", document.digest);
            let (size, content) = (document.content.len() as u64, &*document.content);
            let written = write_blob(&self.link, lease, &upload, Some(&document.digest), size, content).await;
            written.map_err(|error| RuntimeError::Failed {
                action: "store a manifest".to_owned(),
                reason: error.to_string(),
            })?;
        }
        Ok(())
    }

    fn unusable(&self, reason: String) -> RuntimeError {
        RuntimeError::ImageUnusable { reference: self.name.whole(), reason }
    }

    fn passing(&self, reason: String) -> RuntimeError {
        RuntimeError::PullFailed { reference: self.name.whole(), reason }
    }

    fn refused(&self, error: FetchError) -> RuntimeError {
        super::refused(&self.name.whole(), error)
    }

    fn failed(&self, failure: Failure) -> RuntimeError {
        match failure {
            Failure::Fetch(error) => self.refused(error),
            Failure::Store(error) => error,
            Failure::Locked => self.passing("somebody else is pulling it".to_owned()),
        }
    }

    /// A layer that is what the manifest says, and yet is none.
    fn unpacking(&self, error: RuntimeError) -> RuntimeError {
        match error {
            RuntimeError::Failed { reason, .. } if is_the_layers_fault(&reason) => self.unusable(reason),
            other => other,
        }
    }
}

/// A full or broken disk is the node's fault; a layer that is no archive will be none elsewhere either.
fn is_the_layers_fault(reason: &str) -> bool {
    let words =
        ["it holds ", "archive/tar", "gzip:", "unexpected EOF", "invalid header", "magic number", "breakout"];
    let disk = ["no space left", "input/output error", "read-only file system"];
    words.iter().any(|word| reason.contains(word)) && !disk.iter().any(|word| reason.contains(word))
}
