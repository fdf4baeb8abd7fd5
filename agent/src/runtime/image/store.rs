//! Images as containerd's store has them: names, documents, snapshots, and what ties them together for its
//! garbage collector. It asks no registry.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use containerd_client::services::v1::{
    CreateImageRequest, GetImageRequest, Image as Record, InfoRequest, ListImagesRequest, UpdateImageRequest,
};
use containerd_client::types::Descriptor;
use oci_spec::distribution::Reference;
use prost_types::FieldMask;

use super::document::{
    CONFIG_BYTES_MAX, MANIFEST_BYTES_MAX, Opened, combine, is_index, pick_manifest, read_manifest,
};
use super::leases::Leases;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::{
    Layer, Link, QUICK, SNAPSHOTTER, call, chain_ids, failure, has_snapshot, label_blob, or_exists,
    or_missing, read_blob, unpack,
};

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

/// What is wrong with an image in the store.
#[derive(Debug, thiserror::Error)]
pub(super) enum Flaw {
    /// A part of it is not there.
    #[error("{0}")]
    Missing(String),
    /// It is no good, here or elsewhere.
    #[error("{0}")]
    Unusable(String),
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

/// The record of what the name stands for now, and what it stands for.
pub(super) async fn look_up(
    link: &Link,
    name: &Reference,
) -> Result<Option<(Record, Descriptor)>, RuntimeError> {
    let get = async |name: String| {
        let request = call(GetImageRequest { name }, QUICK);
        or_missing(link.client().images().get(request).await)
            .map(|found| {
                let record = found?.into_inner().image?;
                record.target.clone().map(|target| (record, target))
            })
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
pub(super) async fn open(link: &Link, target: &Descriptor) -> Result<Result<Opened, Flaw>, RuntimeError> {
    let missing = |what: &str, digest: &str| {
        Ok(Err(Flaw::Missing(format!("its {what} {digest} is not on this node, or too large"))))
    };
    let unusable = |reason: String| Ok(Err(Flaw::Unusable(reason)));
    let Some(mut document) = read_blob(link, &target.digest, MANIFEST_BYTES_MAX).await? else {
        return missing("manifest", &target.digest);
    };
    let mut manifest_digest = target.digest.clone();
    if is_index(&document) {
        manifest_digest = match pick_manifest(&document) {
            Ok(entry) => entry.digest().to_string(),
            Err(reason) => return unusable(reason),
        };
        document = match read_blob(link, &manifest_digest, MANIFEST_BYTES_MAX).await? {
            Some(document) => document,
            None => return missing("manifest", &manifest_digest),
        };
    }
    let manifest = match read_manifest(&document) {
        Ok(manifest) => manifest,
        Err(reason) => return unusable(reason),
    };
    let config_digest = manifest.config().digest().to_string();
    let Some(config) = read_blob(link, &config_digest, CONFIG_BYTES_MAX).await? else {
        return missing("configuration", &config_digest);
    };
    Ok(combine(&manifest, manifest_digest, &config).map_err(Flaw::Unusable))
}

/// Sees that the snapshot of the image is there, from the layers in the store if need be. False when a layer
/// that is needed is not in the store.
pub(super) async fn make_ready(
    link: &Link,
    leases: &Arc<Leases>,
    opened: &Opened,
) -> Result<bool, RuntimeError> {
    if has_snapshot(link, &opened.chain_id()).await? {
        return Ok(true);
    }
    for layer in &opened.layers {
        if !has_blob(link, &layer.digest).await? {
            return Ok(false);
        }
    }
    let lease = leases.open("unpack").await?;
    let result = unpack_and_keep(link, lease.name(), opened).await;
    lease.close().await?;
    result.map(|()| true)
}

/// Whether the store has this blob.
pub(super) async fn has_blob(link: &Link, digest: &str) -> Result<bool, RuntimeError> {
    let request = call(InfoRequest { digest: digest.to_owned() }, QUICK);
    let info = or_missing(link.client().content().info(request).await);
    info.map(|info| info.is_some()).map_err(|status| failure("look for a layer", &status))
}

/// Unpacks an image and ties the snapshot to its configuration, so that it stays as long as the image does.
pub(super) async fn unpack_and_keep(link: &Link, lease: &str, opened: &Opened) -> Result<(), RuntimeError> {
    unpack(link, lease, &opened.layers).await?;
    keep_snapshot(link, opened).await
}

async fn keep_snapshot(link: &Link, opened: &Opened) -> Result<(), RuntimeError> {
    let label = (format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"), opened.chain_id());
    label_blob(link, &opened.config_digest, HashMap::from([label])).await
}

/// Ties the blobs of an unpacked image together, so that whoever holds the first holds all.
pub(super) async fn tie_together(
    link: &Link,
    target_digest: &str,
    opened: &Opened,
) -> Result<(), RuntimeError> {
    keep_snapshot(link, opened).await?;
    let reference = |name: String| format!("containerd.io/gc.ref.content.{name}");
    let mut labels = HashMap::from([(reference("config".to_owned()), opened.config_digest.clone())]);
    for (index, layer) in opened.layers.iter().enumerate() {
        labels.insert(reference(format!("l.{index}")), layer.digest.clone());
    }
    label_blob(link, &opened.manifest_digest, labels).await?;
    if opened.manifest_digest != target_digest {
        let label = (reference("m.0".to_owned()), opened.manifest_digest.clone());
        label_blob(link, target_digest, HashMap::from([label])).await?;
    }
    Ok(())
}

/// The name that the snapshot of this layer upon `parent` has, and the one under which it is made.
pub(super) fn next_chain_id(parent: &str, layer: &Layer, lease: &str) -> (String, String) {
    let chain = chain_ids([parent, &layer.diff_id].into_iter().filter(|id| !id.is_empty()));
    let chain_id = chain.into_iter().last().expect("a layer has a diff id");
    let key = format!("{lease}-{chain_id}");
    (chain_id, key)
}

/// Sets one label of an image's record. The target goes along although it stays as it is: containerd 1.7 and 2
/// look at it before they look at what is to be changed, and end when there is none.
pub(super) async fn set_label(
    link: &Link,
    record: &Record,
    label: &str,
    value: String,
) -> Result<(), tonic::Status> {
    let labels = HashMap::from([(label.to_owned(), value)]);
    let target = record.target.clone();
    let image = Record { name: record.name.clone(), target, labels, ..Record::default() };
    let update_mask = Some(FieldMask { paths: vec![format!("labels.{label}")] });
    let request = UpdateImageRequest { image: Some(image), update_mask, ..UpdateImageRequest::default() };
    link.client().images().update(call(request, QUICK)).await.map(drop)
}

/// Makes the name stand for the image; from here on it can be used. Tells whether it stood for nothing before.
pub(super) async fn publish(
    link: &Link,
    name: &str,
    target: Descriptor,
    labels: HashMap<String, String>,
) -> Result<bool, RuntimeError> {
    let record = Record { name: name.to_owned(), target: Some(target), labels, ..Record::default() };
    let mut images = link.client().images();
    let request = CreateImageRequest { image: Some(record.clone()), ..CreateImageRequest::default() };
    let created = or_exists(images.create(call(request, QUICK)).await)
        .map_err(|status| failure("name the image", &status))?;
    if created.is_none() {
        let request = UpdateImageRequest { image: Some(record), ..UpdateImageRequest::default() };
        let updated = images.update(call(request, QUICK)).await;
        updated.map_err(|status| failure("rename the image", &status))?;
    }
    Ok(created.is_some())
}
