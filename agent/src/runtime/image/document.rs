//! What the documents of an image say: index, manifest, configuration. Pure. They come from anybody, so every
//! word that is obeyed is checked; labels, volumes, user and the rest of a configuration are never read.

use oci_spec::image::{Arch, Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;
use teamster_values::AbsolutePath;

use crate::runtime::containerd::{Layer, chain_ids};

/// The largest manifest or index that is read.
pub(super) const MANIFEST_BYTES_MAX: usize = 4 << 20;

/// The largest configuration that is read.
pub(super) const CONFIG_BYTES_MAX: usize = 8 << 20;

/// The most layers that an image may have; overlayfs takes no more either.
const LAYERS_MAX: usize = 128;

/// The most that environment, entrypoint and command of an image may take each: the kernel would refuse
/// more when the command is started, with a message that nobody understands.
const STRINGS_BYTES_MAX: usize = 1 << 20;

/// What layers may be made of. Others (layers that lie elsewhere, block images) are none that we unpack.
const LAYER_TYPES: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

/// An image's manifest and configuration, as far as we obey them.
#[derive(Debug)]
pub(in crate::runtime) struct Opened {
    pub(super) layers: Vec<Layer>,
    pub(super) config_digest: String,
    pub(super) manifest_digest: String,
    pub(super) size_bytes: u64,
    pub(super) env: Vec<String>,
    pub(super) entrypoint: Vec<String>,
    pub(super) workdir: Option<AbsolutePath>,
}

/// The part of an image's configuration that is read.
#[derive(Deserialize)]
struct ImageConfig {
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    config: Option<RunConfig>,
    rootfs: RootfsConfig,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RunConfig {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    working_dir: Option<String>,
}

#[derive(Deserialize)]
struct RootfsConfig {
    diff_ids: Vec<String>,
}

impl Opened {
    /// The snapshot that containers of this image are made from.
    pub(super) fn chain_id(&self) -> String {
        let chain = chain_ids(self.layers.iter().map(|layer| layer.diff_id.as_str()));
        chain.into_iter().last().expect("an image without layers is refused when it is opened")
    }
}

/// Whether this is an index of manifests.
pub(super) fn is_index(document: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Shape {
        manifests: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Shape>(document).is_ok_and(|shape| shape.manifests.is_some())
}

/// What images call this machine's processor.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Variants of this machine's processor for which images may be made, the best first. "" is one that does not
/// say.
fn variants() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let has_v3 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("fma");
        let has_v2 = is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("popcnt");
        // What everybody builds comes first: the others are rarer and less tried.
        let mut variants = vec!["", "v1"];
        variants.extend(has_v2.then_some("v2"));
        variants.extend((has_v2 && has_v3).then_some("v3"));
        variants
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        vec!["v8", ""]
    }
}

/// The manifest for this machine in an index.
pub(super) fn pick_manifest(index: &[u8]) -> Result<Descriptor, String> {
    pick(index, architecture(), &variants())
}

fn pick(index: &[u8], architecture: &str, variants: &[&str]) -> Result<Descriptor, String> {
    let index: ImageIndex =
        serde_json::from_slice(index).map_err(|error| format!("its index cannot be read: {error}"))?;
    let rank = |entry: &&Descriptor| match entry.platform() {
        Some(platform) if platform.os().to_string() != "linux" => None,
        Some(platform) if platform.architecture() != &Arch::from(architecture) => None,
        Some(platform) => {
            let variant = platform.variant().as_deref().unwrap_or_default();
            variants.iter().position(|known| *known == variant)
        }
        None => (index.manifests().len() == 1).then_some(0),
    };
    let best = index.manifests().iter().filter(|entry| rank(entry).is_some()).min_by_key(rank);
    best.cloned().ok_or_else(|| {
        let mut made_for: Vec<String> = index
            .manifests()
            .iter()
            .filter_map(|entry| entry.platform().as_ref())
            .map(|platform| {
                let variant = platform.variant().as_deref().map(|variant| format!("/{variant}"));
                format!("{}/{}{}", platform.os(), platform.architecture(), variant.unwrap_or_default())
            })
            .filter(|platform| !platform.starts_with("unknown/"))
            .take(16)
            .collect();
        made_for.dedup();
        format!("it is not made for linux/{architecture}, only for {}", made_for.join(", "))
    })
}

/// Reads a manifest and refuses what could never be unpacked.
pub(super) fn read_manifest(document: &[u8]) -> Result<ImageManifest, String> {
    if is_index(document) {
        return Err("its index holds another index".to_owned());
    }
    let manifest: ImageManifest =
        serde_json::from_slice(document).map_err(|error| format!("its manifest cannot be read: {error}"))?;
    if manifest.layers().is_empty() {
        return Err("it has no layers".to_owned());
    }
    if manifest.layers().len() > LAYERS_MAX {
        return Err(format!("it has {} layers, more than {LAYERS_MAX}", manifest.layers().len()));
    }
    for layer in manifest.layers() {
        let media_type = layer.media_type().to_string();
        if layer.urls().as_ref().is_some_and(|urls| !urls.is_empty()) {
            return Err(format!("its layer {} lies outside of the registry (urls)", layer.digest()));
        }
        if !LAYER_TYPES.contains(&media_type.as_str()) {
            return Err(format!("its layer {} is of the unknown type '{media_type}'", layer.digest()));
        }
    }
    for part in manifest.layers().iter().chain([manifest.config()]) {
        check_digest(part.digest().as_ref())?;
    }
    if manifest.config().size() > CONFIG_BYTES_MAX as u64 {
        return Err(format!("its configuration has more than {CONFIG_BYTES_MAX} bytes"));
    }
    Ok(manifest)
}

/// Other digests than SHA-256 exist on paper; containerd's store here knows this one.
pub(super) fn check_digest(digest: &str) -> Result<(), String> {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    let is_hex = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex { Ok(()) } else { Err(format!("'{digest}' is no SHA-256 digest")) }
}

/// What manifest and configuration say together.
pub(super) fn combine(
    manifest: &ImageManifest,
    manifest_digest: String,
    config: &[u8],
) -> Result<Opened, String> {
    let config: ImageConfig = serde_json::from_slice(config)
        .map_err(|error| format!("its configuration cannot be read: {error}"))?;
    let made_for = |value: &Option<String>, here: &str| {
        value.as_ref().is_none_or(|value| value.is_empty() || value == here)
    };
    if !made_for(&config.os, "linux") || !made_for(&config.architecture, architecture()) {
        let (os, made_for) = (config.os.unwrap_or_default(), config.architecture.unwrap_or_default());
        return Err(format!("it is made for {os}/{made_for}, and this node is linux/{}", architecture()));
    }
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
    let entrypoint = strings("entry point", run.entrypoint)?;
    // No program can be given such an argument; containerd would call it a fault of this node.
    if entrypoint.iter().any(|argument| argument.contains('\0'))
        || entrypoint.first().is_some_and(String::is_empty)
    {
        return Err("its entry point is no command".to_owned());
    }
    let mut env = strings("environment", run.env)?;
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
    let layer_bytes = layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size_bytes));
    Ok(Opened {
        layers,
        config_digest: manifest.config().digest().to_string(),
        manifest_digest,
        size_bytes: layer_bytes.saturating_add(manifest.config().size()),
        env,
        entrypoint,
        workdir,
    })
}

/// As many strings as a process can be given.
fn strings(what: &str, strings: Option<Vec<String>>) -> Result<Vec<String>, String> {
    let strings = strings.unwrap_or_default();
    if strings.iter().map(|text| text.len() + 1).sum::<usize>() > STRINGS_BYTES_MAX {
        return Err(format!("its {what} has more than {STRINGS_BYTES_MAX} bytes"));
    }
    Ok(strings)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn entry(digest: &str, os: &str, architecture: &str, variant: Option<&str>) -> Value {
        let mut platform = json!({"os": os, "architecture": architecture});
        if let Some(variant) = variant {
            platform["variant"] = json!(variant);
        }
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{}", digest.repeat(64)), "size": 1, "platform": platform})
    }

    fn index(entries: Vec<Value>) -> Vec<u8> {
        serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": entries})).unwrap()
    }

    fn picked(index: &[u8], architecture: &str, variants: &[&str]) -> Result<char, String> {
        let found = pick(index, architecture, variants)?;
        Ok(found.digest().to_string().chars().last().unwrap())
    }

    #[test]
    fn the_manifest_for_this_machine_is_picked() {
        let here = architecture();
        let found = index(vec![
            entry("a", "windows", here, None),
            entry("b", "unknown", "unknown", None),
            entry("c", "linux", here, None),
        ]);
        assert_eq!(pick_manifest(&found).unwrap().digest().to_string(), format!("sha256:{}", "c".repeat(64)));
        let error = pick_manifest(&index(vec![entry("a", "linux", "s390x", None)])).unwrap_err();
        assert!(error.contains("linux/s390x") && error.contains(here), "{error}");
        assert!(is_index(&index(Vec::new())));
        assert!(pick_manifest(&index(Vec::new())).is_err());
    }

    #[test]
    fn the_variant_counts() {
        let arm = index(vec![
            entry("a", "linux", "arm", Some("v7")),
            entry("b", "linux", "arm64", Some("v9")),
            entry("c", "linux", "arm64", Some("v8")),
        ]);
        assert_eq!(picked(&arm, "arm64", &["v8", ""]).unwrap(), 'c');
        let amd = index(vec![
            entry("a", "linux", "amd64", Some("v4")),
            entry("b", "linux", "amd64", Some("v3")),
            entry("c", "linux", "amd64", None),
        ]);
        assert_eq!(picked(&amd, "amd64", &["", "v1", "v2", "v3"]).unwrap(), 'c');
        let new = index(vec![entry("b", "linux", "amd64", Some("v3"))]);
        assert_eq!(picked(&new, "amd64", &["", "v1", "v2", "v3"]).unwrap(), 'b');
        assert!(picked(&new, "amd64", &["", "v1"]).unwrap_err().contains("linux/amd64/v3"));
    }

    fn manifest(layer: Value) -> Result<ImageManifest, String> {
        let digest = format!("sha256:{}", "a".repeat(64));
        let config =
            json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 2});
        let mut whole =
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": 1});
        for (key, value) in layer.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let document = json!({"schemaVersion": 2, "config": config, "layers": [whole]});
        read_manifest(document.to_string().as_bytes())
    }

    #[test]
    fn what_could_never_be_unpacked_is_refused() {
        manifest(json!({})).unwrap();
        assert!(manifest(json!({"urls": ["http://169.254.169.254/x"]})).unwrap_err().contains("urls"));
        let foreign = json!({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"});
        assert!(manifest(foreign).unwrap_err().contains("foreign"));
        assert!(manifest(json!({"mediaType": "application/vnd.erofs"})).unwrap_err().contains("erofs"));
        assert!(manifest(json!({"digest": format!("sha512:{}", "a".repeat(128))})).is_err());
        assert!(manifest(json!({"digest": "sha256:../../etc"})).is_err());
        assert!(read_manifest(&index(Vec::new())).unwrap_err().contains("another index"));
    }

    #[test]
    fn of_a_configuration_only_what_is_known_is_read() {
        let manifest = manifest(json!({})).unwrap();
        let config = |run: Value, architecture: &str| {
            let document = json!({"os": "linux", "architecture": architecture, "config": run,
                "rootfs": {"type": "layers", "diff_ids": ["sha256:aa"]}});
            combine(&manifest, "m".into(), document.to_string().as_bytes())
        };
        let here = architecture();
        let hostile = json!({"User": "4294967296", "Volumes": {"/../../etc": {}}, "Env": ["A=b", "B=\0"],
            "Labels": {"containerd.io/restart.loguri": "binary:///bin/sh"}, "Entrypoint": ["/e"], "Cmd": ["c"]});
        let opened = config(hostile, here).unwrap();
        assert_eq!((opened.env, opened.entrypoint), (vec!["A=b".to_owned()], vec!["/e".to_owned()]));
        assert!(config(json!({"Entrypoint": ["a\0b"]}), here).unwrap_err().contains("no command"));
        assert!(config(json!({"Entrypoint": [""]}), here).unwrap_err().contains("no command"));
        assert!(
            config(json!({"Env": ["x".repeat(STRINGS_BYTES_MAX)]}), here)
                .unwrap_err()
                .contains("environment")
        );
        assert!(config(json!({"WorkingDir": "not/absolute"}), here).is_err());
        assert!(config(json!({}), "riscv64").unwrap_err().contains("riscv64"));
    }
}
