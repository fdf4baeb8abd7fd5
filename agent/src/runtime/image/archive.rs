//! What an image archive says of itself: which images it holds and of which files they are made. Two forms
//! exist: an OCI layout (`index.json`) and what `docker save` writes (`manifest.json`). Pure; the archive
//! comes from anybody, so every word of it is checked.

use std::collections::HashMap;

use oci_spec::image::{Descriptor, ImageIndex};
use serde::Deserialize;

/// One image of an archive.
#[derive(Debug, PartialEq)]
pub(super) struct ArchivedImage {
    /// As the archive names it, not normalised.
    pub(super) name: String,
    pub(super) parts: Parts,
}

/// What an image is made of.
#[derive(Debug, PartialEq)]
pub(super) enum Parts {
    /// A manifest or index, in the archive by its digest.
    Manifest { media_type: String, digest: String, size_bytes: u64 },
    /// Files of the archive; the manifest is still to be written.
    Files { config: String, layers: Vec<String> },
}

/// One entry of `docker save`'s `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Reads whichever of the two documents there is; newer archives have both, and then the index has digests.
pub(super) fn images(index: Option<&[u8]>, manifest: Option<&[u8]>) -> Result<Vec<ArchivedImage>, String> {
    let mut found = Vec::new();
    if let Some(index) = index {
        found = of_layout(index)?;
    }
    if found.is_empty()
        && let Some(manifest) = manifest
    {
        found = of_docker(manifest)?;
    }
    if !found.is_empty() {
        return Ok(found);
    }
    Err(match (index, manifest) {
        (None, None) => {
            "it is neither an OCI layout (no index.json) nor made by docker save (no manifest.json)"
        }
        _ => "it does not say what its images are called; save it by name and tag",
    }
    .to_owned())
}

fn of_layout(index: &[u8]) -> Result<Vec<ArchivedImage>, String> {
    let index: ImageIndex =
        serde_json::from_slice(index).map_err(|error| format!("its index.json cannot be read: {error}"))?;
    Ok(index.manifests().iter().filter_map(|entry| Some((name_of(entry)?, entry))).map(of_entry).collect())
}

fn of_entry((name, entry): (String, &Descriptor)) -> ArchivedImage {
    let parts = Parts::Manifest {
        media_type: entry.media_type().to_string(),
        digest: entry.digest().to_string(),
        size_bytes: entry.size(),
    };
    ArchivedImage { name, parts }
}

/// containerd's own annotation holds a full name. The general one may, or may hold a bare tag, of which no
/// name can be made.
fn name_of(entry: &Descriptor) -> Option<String> {
    let annotations = entry.annotations().as_ref()?;
    if let Some(name) = annotations.get("io.containerd.image.name") {
        return Some(name.clone());
    }
    annotations.get("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':'])).cloned()
}

fn of_docker(manifest: &[u8]) -> Result<Vec<ArchivedImage>, String> {
    let images: Vec<DockerImage> = serde_json::from_slice(manifest)
        .map_err(|error| format!("its manifest.json cannot be read: {error}"))?;
    Ok(images
        .into_iter()
        .flat_map(|image| {
            let names = image.repo_tags.unwrap_or_default();
            let (config, layers) = (image.config, image.layers);
            names.into_iter().map(move |name| ArchivedImage {
                name,
                parts: Parts::Files { config: config.clone(), layers: layers.clone() },
            })
        })
        .collect())
}

/// A path of the archive in its one form: no leading `./`, no empty or dot components. `None` for a path
/// that leads out of the archive.
pub(super) fn plain_path(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Follows links of the archive from `path`; `docker save` links layers that images share.
pub(super) fn follow<'a>(links: &'a HashMap<String, String>, path: &'a str) -> &'a str {
    let mut path = path;
    // No archive chains links; the bound is against circles.
    for _ in 0..8 {
        match links.get(path) {
            Some(target) => path = target,
            None => break,
        }
    }
    path
}

/// The digest that a path in an OCI layout promises: `blobs/sha256/<hex>`.
pub(super) fn promised_digest(path: &str) -> Option<String> {
    let hex = path.strip_prefix("blobs/sha256/")?;
    let is_hex = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| format!("sha256:{hex}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(annotations: &str) -> Vec<u8> {
        format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "digest":"sha256:{}","size":7,"annotations":{{{annotations}}}}}]}}"#,
            "a".repeat(64)
        )
        .into_bytes()
    }

    #[test]
    fn a_layout_names_its_images() {
        let full =
            layout(r#""org.opencontainers.image.ref.name":"1","io.containerd.image.name":"docker.io/a/b:1""#);
        assert_eq!(images(Some(&full), None).unwrap()[0].name, "docker.io/a/b:1");
        let tag = layout(r#""org.opencontainers.image.ref.name":"latest""#);
        assert!(images(Some(&tag), None).unwrap_err().contains("name"));
        let named = layout(r#""org.opencontainers.image.ref.name":"a/b:1""#);
        assert_eq!(images(Some(&named), None).unwrap()[0].name, "a/b:1");
    }

    #[test]
    fn docker_archives_are_read_also_beside_a_nameless_index() {
        let docker = br#"[{"Config":"c.json","RepoTags":["a:1","a:2"],"Layers":["x/layer.tar"]}]"#;
        let found = images(Some(&layout("")), Some(docker)).unwrap();
        assert_eq!(found.iter().map(|image| image.name.as_str()).collect::<Vec<_>>(), ["a:1", "a:2"]);
        assert!(images(None, Some(br#"[{"Config":"c","RepoTags":null,"Layers":[]}]"#)).is_err());
        assert!(images(None, None).unwrap_err().contains("index.json"));
        assert!(images(None, Some(b"nonsense")).unwrap_err().contains("manifest.json"));
    }

    #[test]
    fn paths_have_one_form_and_stay_inside() {
        assert_eq!(plain_path("./blobs//sha256/x").unwrap(), "blobs/sha256/x");
        assert_eq!(plain_path("a/../b").unwrap(), "b");
        assert_eq!(plain_path("../etc"), None);
        assert_eq!(promised_digest("blobs/sha256/short"), None);
        let links = HashMap::from([("a".to_owned(), "b".to_owned()), ("b".to_owned(), "a".to_owned())]);
        follow(&links, "a");
    }
}
