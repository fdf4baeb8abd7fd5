//! An image archive into containerd: blobs as they stream by, then the snapshots, and the name last of all,
//! so that what is half done is never seen.

use std::collections::HashMap;
use std::io::{self, Cursor, Read};
use std::path::Path;

use containerd_client::types::Descriptor;
use serde_json::json;

use super::archive::{self, ArchivedImage, Parts};
use crate::runtime::containerd::{Link, WriteError, Written, close_lease, open_lease, write_blob};
use crate::runtime::{RuntimeError, image};

/// The largest `index.json` or `manifest.json`.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// The most entries of an archive.
const ENTRIES_MAX: usize = 100_000;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image that is now on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedImage {
    /// Full name.
    pub name: String,
    /// Digest of what the name stands for.
    pub digest: String,
}

/// Why an archive was not imported. The texts fit after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The source gave up.
    #[error("read the archive: {0}")]
    Read(#[from] io::Error),
    /// It is no image archive, or one that contradicts itself.
    #[error("import the archive: {0}")]
    Archive(String),
    /// containerd.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// The files of an archive, by their path in it.
#[derive(Default)]
struct Files {
    blobs: HashMap<String, Written>,
    links: HashMap<String, String>,
    index: Option<Vec<u8>>,
    manifest: Option<Vec<u8>>,
}

/// Imports all images of a tar archive, an OCI layout or one made by `docker save`, into the containerd at
/// `socket`, and unpacks them. A name that exists stands for the new image afterwards.
///
/// # Errors
/// When the archive is bad, nothing of it is there afterwards.
pub async fn import(
    socket: &Path,
    archive: impl Read + Send + 'static,
) -> Result<Vec<ImportedImage>, ImportError> {
    let link = Link::new(socket);
    let lease = open_lease(&link, "import", None).await?;
    let (import_link, import_lease) = (link.clone(), lease.clone());
    let runtime = tokio::runtime::Handle::current();
    // Reading a tar archive blocks, and blobs are streamed while it is read: a thread that may block.
    let work = move || runtime.block_on(import_all(&import_link, &import_lease, archive));
    let result = tokio::task::spawn_blocking(work).await.map_err(io::Error::from);
    // Whatever no image record holds goes with the lease.
    let closed = close_lease(&link, lease, false).await;
    let imported = result??;
    closed?;
    Ok(imported)
}

async fn import_all(link: &Link, lease: &str, archive: impl Read) -> Result<Vec<ImportedImage>, ImportError> {
    let files = store_files(link, lease, archive).await?;
    let images = archive::images(files.index.as_deref(), files.manifest.as_deref());
    let mut ready = Vec::new();
    for image in images.map_err(ImportError::Archive)? {
        ready.push(make_ready(link, lease, &files, image).await?);
    }
    let mut imported = Vec::new();
    for (name, target) in ready {
        let digest = target.digest.clone();
        image::publish(link, &name, target, HashMap::new()).await?;
        imported.push(ImportedImage { name, digest });
    }
    Ok(imported)
}

/// Streams every file of the archive into the content store.
async fn store_files(link: &Link, lease: &str, mut archive: impl Read) -> Result<Files, ImportError> {
    let mut magic = Vec::new();
    archive.by_ref().take(2).read_to_end(&mut magic)?;
    if magic == [0x1f, 0x8b] {
        return Err(ImportError::Archive("it is compressed; decompress it first (gunzip)".to_owned()));
    }
    let mut tar = tar::Archive::new(Cursor::new(magic).chain(archive));
    let mut files = Files::default();
    let not_tar = |error: io::Error| ImportError::Archive(format!("it is not a tar archive: {error}"));
    for (count, entry) in tar.entries()?.enumerate() {
        let entry = entry.map_err(not_tar)?;
        if count >= ENTRIES_MAX {
            return Err(ImportError::Archive(format!("it has more than {ENTRIES_MAX} entries")));
        }
        store_entry(link, lease, &mut files, count, entry).await?;
    }
    Ok(files)
}

async fn store_entry<R: Read>(
    link: &Link,
    lease: &str,
    files: &mut Files,
    count: usize,
    mut entry: tar::Entry<'_, R>,
) -> Result<(), ImportError> {
    let Some(path) = entry.path()?.to_str().and_then(archive::plain_path) else { return Ok(()) };
    let kind = entry.header().entry_type();
    if kind.is_symlink() || kind.is_hard_link() {
        let target = entry.link_name()?.and_then(|target| target.to_str().map(str::to_owned));
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let base = if kind.is_symlink() { folder } else { "" };
        if let Some(target) = target.and_then(|target| archive::plain_path(&format!("{base}/{target}"))) {
            files.links.insert(path, target);
        }
        return Ok(());
    }
    if !kind.is_file() {
        return Ok(());
    }
    match path.as_str() {
        "index.json" => files.index = Some(read_document(&mut entry, &path)?),
        "manifest.json" => files.manifest = Some(read_document(&mut entry, &path)?),
        _ => {
            let expected = archive::promised_digest(&path);
            let upload = format!("{lease}-{count}");
            let size = entry.size();
            let written = write_blob(link, lease, &upload, expected.as_deref(), size, entry).await;
            let written = written.map_err(|error| match error {
                WriteError::Read(error) => ImportError::Read(error),
                WriteError::Digest { .. } => ImportError::Archive(format!("{path} is damaged: {error}")),
                WriteError::Runtime(error) => ImportError::Runtime(error),
            })?;
            files.blobs.insert(path, written);
        }
    }
    Ok(())
}

fn read_document(entry: &mut impl Read, path: &str) -> Result<Vec<u8>, ImportError> {
    let mut content = Vec::new();
    entry.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(ImportError::Archive(format!("{path} is too large")));
    }
    Ok(content)
}

/// Ties the blobs of an image together and unpacks it.
async fn make_ready(
    link: &Link,
    lease: &str,
    files: &Files,
    image: ArchivedImage,
) -> Result<(String, Descriptor), ImportError> {
    let bad = |reason: String| ImportError::Archive(format!("image '{}': {reason}", image.name));
    let name = image::normalise(&image.name).map_err(bad)?.whole();
    let target = match &image.parts {
        Parts::Manifest { media_type, digest, size_bytes } => descriptor(media_type, digest, *size_bytes),
        Parts::Files { config, layers } => {
            let manifest = manifest(files, config, layers).map_err(bad)?;
            let upload = format!("{lease}-manifest-{}", archive_key(&name));
            let written = write_blob(link, lease, &upload, None, manifest.len() as u64, &*manifest).await;
            let written = written.map_err(|error| bad(error.to_string()))?;
            descriptor(MANIFEST_TYPE, &written.digest, written.size_bytes)
        }
    };
    let opened = image::open(link, &target).await?.map_err(|flaw| bad(flaw.to_string()))?;
    let is_stored = |digest: &str| files.blobs.values().any(|blob| blob.digest == digest);
    if let Some(layer) = opened.layers.iter().find(|layer| !is_stored(&layer.digest)) {
        return Err(bad(format!("its layer {} is not in the archive", layer.digest)));
    }
    image::unpack_and_keep(link, lease, &opened).await?;
    image::tie_together(link, &target.digest, &opened).await?;
    Ok((name, target))
}

/// A manifest for an archive that has none.
fn manifest(files: &Files, config: &str, layers: &[String]) -> Result<Vec<u8>, String> {
    let blob = |path: &str| {
        let path = archive::plain_path(path).unwrap_or_default();
        let path = archive::follow(&files.links, &path);
        files.blobs.get(path).ok_or_else(|| format!("'{path}' is not in the archive"))
    };
    let entry = |media_type: &str, blob: &Written| json!({"mediaType": media_type, "digest": blob.digest, "size": blob.size_bytes});
    let layers = layers
        .iter()
        .map(|layer| {
            let blob = blob(layer)?;
            let suffix = if blob.is_gzip { "+gzip" } else { "" };
            Ok(entry(&format!("{LAYER_TYPE}{suffix}"), blob))
        })
        .collect::<Result<Vec<_>, String>>()?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": entry(CONFIG_TYPE, blob(config)?),
        "layers": layers,
    });
    Ok(manifest.to_string().into_bytes())
}

/// A name as part of an upload's name.
fn archive_key(name: &str) -> String {
    name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect()
}

fn descriptor(media_type: &str, digest: &str, size_bytes: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.to_owned(),
        size: i64::try_from(size_bytes).unwrap_or(i64::MAX),
        ..Descriptor::default()
    }
}
