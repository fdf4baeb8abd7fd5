//! Images on this node: from a reference to what containers are made of. Of an image's configuration only
//! environment, working directory and entry point are read; labels, volumes, user and the rest are never looked at.

mod archive;
mod import;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use containerd_client::services::v1::{GetImageRequest, ListImagesRequest};
use containerd_client::types::Descriptor;
use oci_spec::distribution::Reference;
use oci_spec::image::{ImageIndex, ImageManifest};
use serde::Deserialize;
use teamster_values::AbsolutePath;

pub use self::import::{ImportError, ImportedImage, import};
use super::containerd::{
    Layer, Link, QUICK, SNAPSHOTTER, call, chain_ids, close_lease, failure, has_snapshot, label_blob,
    open_lease, or_missing, read_blob, unpack,
};
use super::{Image, RuntimeError};

/// The largest manifest or index that is read.
const MANIFEST_BYTES_MAX: usize = 4 << 20;

/// The largest configuration that is read.
const CONFIG_BYTES_MAX: usize = 8 << 20;

/// The most layers that an image may have; overlayfs takes no more either.
const LAYERS_MAX: usize = 128;

/// So many images are remembered; a node that sees more simply looks again.
const CACHE_MAX: usize = 1024;

/// An image of containerd's store, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Full name.
    pub name: String,
    /// Digest of what the name stands for.
    pub digest: String,
    /// Bytes of its manifest, configuration and layers as stored; 0 if it is not whole.
    pub size_bytes: u64,
}

/// What is remembered of images, by the digest that the name stands for: content under a digest cannot
/// change, so a warm look asks only what the name stands for now.
#[derive(Default)]
pub(super) struct ImageCache {
    known: Mutex<HashMap<String, Arc<Opened>>>,
    /// One unpacking at a time: two of the same image would do the work twice.
    unpacking: tokio::sync::Mutex<()>,
}

/// An image's manifest and configuration, as far as we obey them.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) layers: Vec<Layer>,
    pub(super) config_digest: String,
    pub(super) manifest_digest: String,
    size_bytes: u64,
    env: Vec<String>,
    workdir: Option<AbsolutePath>,
    entrypoint: Vec<String>,
}

/// The part of an image's configuration that is read.
#[derive(Deserialize)]
struct ImageConfig {
    #[serde(default)]
    config: Option<RunConfig>,
    rootfs: RootfsConfig,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RunConfig {
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    entrypoint: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RootfsConfig {
    diff_ids: Vec<String>,
}

/// The images that the containerd at `socket` has for us, by name.
///
/// # Errors
/// When containerd does not answer.
pub async fn list(socket: &Path) -> Result<Vec<StoredImage>, RuntimeError> {
    let link = Link::new(socket);
    let request = call(ListImagesRequest { filters: Vec::new() }, QUICK);
    let answer = link.client().images().list(request).await;
    let images = answer.map_err(|status| failure("list images", &status))?.into_inner().images;
    let mut found = Vec::with_capacity(images.len());
    for image in images {
        let Some(target) = image.target else { continue };
        let size_bytes = match open(&link, &target).await? {
            Ok(opened) => opened.size_bytes,
            Err(_) => 0,
        };
        found.push(StoredImage { name: image.name, digest: target.digest, size_bytes });
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
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

/// The image behind `reference`, unpacked and ready to make containers from.
pub(super) async fn resolve(link: &Link, cache: &ImageCache, reference: &str) -> Result<Image, RuntimeError> {
    let unusable = |reason: String| RuntimeError::ImageUnusable { reference: reference.to_owned(), reason };
    let name = normalise(reference).map_err(unusable)?;
    let Some((name, target)) = look_up(link, &name).await? else {
        return Err(RuntimeError::ImageNotFound { reference: reference.to_owned() });
    };
    let opened = match cache.get(&target.digest) {
        Some(opened) => opened,
        None => {
            let opened = Arc::new(open(link, &target).await?.map_err(unusable)?);
            make_ready(link, cache, &opened).await?;
            cache.put(&target.digest, Arc::clone(&opened));
            opened
        }
    };
    Ok(Image {
        name,
        digest: target.digest,
        chain_id: opened.chain_id(),
        env: opened.env.clone(),
        workdir: opened.workdir.clone(),
        entrypoint: opened.entrypoint.clone(),
    })
}

/// What the name stands for now, and under which name it was found.
async fn look_up(link: &Link, name: &Reference) -> Result<Option<(String, Descriptor)>, RuntimeError> {
    let get = async |name: String| {
        let request = call(GetImageRequest { name: name.clone() }, QUICK);
        or_missing(link.client().images().get(request).await)
            .map(|found| found?.into_inner().image?.target.map(|target| (name, target)))
            .map_err(|status| failure("look for the image", &status))
    };
    if let Some(found) = get(name.whole()).await? {
        return Ok(Some(found));
    }
    // With a digest as well, the tag is only a hint where to look.
    let (Some(digest), Some(tag)) = (name.digest(), name.tag()) else { return Ok(None) };
    let tagged = format!("{}/{}:{tag}", name.registry(), name.repository());
    Ok(get(tagged).await?.filter(|(_, target)| target.digest == digest))
}

/// Reads manifest and configuration. The inner error says what is wrong with the image.
pub(super) async fn open(link: &Link, target: &Descriptor) -> Result<Result<Opened, String>, RuntimeError> {
    let Some(mut manifest) = read_blob(link, &target.digest, MANIFEST_BYTES_MAX).await? else {
        return Ok(Err(format!("its manifest {} is not on this node, or too large", target.digest)));
    };
    let mut manifest_digest = target.digest.clone();
    if is_index(&manifest) {
        manifest_digest = match pick_manifest(&manifest) {
            Ok(digest) => digest,
            Err(reason) => return Ok(Err(reason)),
        };
        manifest = match read_blob(link, &manifest_digest, MANIFEST_BYTES_MAX).await? {
            Some(manifest) => manifest,
            None => return Ok(Err(format!("its manifest {manifest_digest} is not on this node"))),
        };
    }
    let manifest: ImageManifest = match serde_json::from_slice(&manifest) {
        Ok(manifest) => manifest,
        Err(error) => return Ok(Err(format!("its manifest cannot be read: {error}"))),
    };
    let config_digest = manifest.config().digest().to_string();
    let Some(config) = read_blob(link, &config_digest, CONFIG_BYTES_MAX).await? else {
        return Ok(Err(format!("its configuration {config_digest} is not on this node, or too large")));
    };
    Ok(combine(&manifest, manifest_digest, &config))
}

fn is_index(document: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Shape {
        manifests: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Shape>(document).is_ok_and(|shape| shape.manifests.is_some())
}

/// The digest of the manifest for this machine.
fn pick_manifest(index: &[u8]) -> Result<String, String> {
    let index: ImageIndex =
        serde_json::from_slice(index).map_err(|error| format!("its index cannot be read: {error}"))?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let fits = index.manifests().iter().find(|manifest| match manifest.platform() {
        Some(platform) => {
            platform.os().to_string() == "linux" && platform.architecture().to_string() == architecture
        }
        None => index.manifests().len() == 1,
    });
    fits.map(|manifest| manifest.digest().to_string())
        .ok_or_else(|| format!("it is not made for linux/{architecture}"))
}

fn combine(manifest: &ImageManifest, manifest_digest: String, config: &[u8]) -> Result<Opened, String> {
    let config: ImageConfig = serde_json::from_slice(config)
        .map_err(|error| format!("its configuration cannot be read: {error}"))?;
    let diff_ids = config.rootfs.diff_ids;
    if diff_ids.is_empty() {
        return Err("it has no layers".to_owned());
    }
    if diff_ids.len() != manifest.layers().len() || diff_ids.len() > LAYERS_MAX {
        let stored = manifest.layers().len();
        return Err(format!("it describes {} layers and has {stored}, at most {LAYERS_MAX}", diff_ids.len()));
    }
    let run = config.config.unwrap_or_default();
    let workdir = run.working_dir.filter(|path| !path.is_empty()).map(|path| AbsolutePath::parse(&path));
    let workdir = workdir.transpose().map_err(|error| format!("its working directory {error}"))?;
    let entrypoint = run.entrypoint.unwrap_or_default();
    // No program can be given such an argument; containerd would call it a fault of this node.
    if entrypoint.iter().any(|argument| argument.contains('\0'))
        || entrypoint.first().is_some_and(String::is_empty)
    {
        return Err("its entry point is no command".to_owned());
    }
    let mut env = run.env.unwrap_or_default();
    env.retain(|entry| !entry.contains('\0'));
    let layers: Vec<Layer> = manifest
        .layers()
        .iter()
        .zip(diff_ids)
        .map(|(layer, diff_id)| Layer {
            media_type: layer.media_type().to_string(),
            digest: layer.digest().to_string(),
            size_bytes: layer.size(),
            diff_id,
        })
        .collect();
    let layer_bytes: u64 = layers.iter().map(|layer| layer.size_bytes).sum();
    Ok(Opened {
        layers,
        config_digest: manifest.config().digest().to_string(),
        manifest_digest,
        size_bytes: layer_bytes + manifest.config().size(),
        env,
        workdir,
        entrypoint,
    })
}

/// Sees that the snapshot of the image is there, from the layers in the store if need be.
async fn make_ready(link: &Link, cache: &ImageCache, opened: &Opened) -> Result<(), RuntimeError> {
    let _one_at_a_time = cache.unpacking.lock().await;
    if has_snapshot(link, &opened.chain_id()).await? {
        return Ok(());
    }
    let lease = open_lease(link, "unpack").await?;
    let result = unpack_and_keep(link, &lease, opened).await;
    close_lease(link, lease).await?;
    result
}

/// Unpacks an image and ties the snapshot to its configuration, so that it stays as long as the image does.
pub(super) async fn unpack_and_keep(link: &Link, lease: &str, opened: &Opened) -> Result<(), RuntimeError> {
    let chain_id = unpack(link, lease, &opened.layers).await?;
    let label = (format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"), chain_id);
    label_blob(link, &opened.config_digest, HashMap::from([label])).await
}

impl Opened {
    /// The snapshot that containers of this image are made from.
    fn chain_id(&self) -> String {
        let chain = chain_ids(self.layers.iter().map(|layer| layer.diff_id.as_str()));
        chain.into_iter().last().expect("an image without layers is refused when it is opened")
    }
}

impl ImageCache {
    fn get(&self, digest: &str) -> Option<Arc<Opened>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    fn put(&self, digest: &str, opened: Arc<Opened>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CACHE_MAX {
            known.clear();
        }
        known.insert(digest.to_owned(), opened);
    }

    /// What was remembered of this image turned out to be no longer so.
    pub(super) fn forget(&self, digest: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
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

    #[test]
    fn an_index_without_this_machine_is_refused() {
        let entry = |digest: &str, os: &str, architecture: &str| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": format!("sha256:{}", digest.repeat(64)), "size": 1,
                "platform": {"os": os, "architecture": architecture}
            })
        };
        let index = |entries: Vec<serde_json::Value>| {
            serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": entries})).unwrap()
        };
        let here = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
        let found = pick_manifest(&index(vec![entry("a", "windows", here), entry("b", "linux", here)]));
        assert_eq!(found.unwrap(), format!("sha256:{}", "b".repeat(64)));
        let error = pick_manifest(&index(vec![entry("a", "linux", "s390x")])).unwrap_err();
        assert!(error.contains("linux/"), "{error}");
        assert!(is_index(&index(Vec::new())));
    }
}
