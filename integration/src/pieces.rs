//! An image in pieces, as registries and archives hold it: layers, a configuration, a manifest, and perhaps an
//! index above several of them. What the layers hold is others' business.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What a manifest is.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// What an index is.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// How a layer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    Plain,
    /// By gzip, at its fastest.
    Gzip,
    /// By zstd.
    Zstd,
}

impl Packing {
    fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// # Panics
    /// When this machine has no such program.
    fn pack(self, content: &[u8]) -> Vec<u8> {
        let program = match self {
            Self::Plain => return content.to_vec(),
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        };
        let mut command = Command::new(program);
        let command = command.args(["-1", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        let mut stdin = child.stdin.take().expect("it was asked for");
        std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(content).expect("it reads to the end"));
            child.wait_with_output().expect("it ends").stdout
        })
    }
}

/// The pieces of an image for one kind of machine.
#[derive(Debug, Clone)]
pub struct Pieces {
    /// As they are stored, lowest first.
    pub layers: Vec<Vec<u8>>,
    /// Its configuration.
    pub config: Vec<u8>,
    /// What ties them together.
    pub manifest: Value,
}

impl Pieces {
    /// An image of these tar archives, lowest first. What `config` lacks is filled in for this machine.
    ///
    /// # Panics
    /// When `config` is no object.
    pub fn new(archives: &[(Packing, Vec<u8>)], mut config: Value) -> Self {
        let fields = config.as_object_mut().expect("a configuration is an object");
        fields.entry("os").or_insert("linux".into());
        fields.entry("architecture").or_insert(architecture().into());
        let diff_ids: Vec<_> = archives.iter().map(|(_, archive)| digest(archive)).collect();
        fields.entry("rootfs").or_insert(json!({"type": "layers", "diff_ids": diff_ids}));
        let config = config.to_string().into_bytes();
        let layers: Vec<_> = archives.iter().map(|(packing, archive)| packing.pack(archive)).collect();
        let entries: Vec<_> = archives
            .iter()
            .zip(&layers)
            .map(|((packing, _), layer)| descriptor(packing.media_type(), layer))
            .collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config), "layers": entries});
        Self { layers, config, manifest }
    }

    /// The manifest as it is stored.
    pub fn manifest_bytes(&self) -> Vec<u8> {
        self.manifest.to_string().into_bytes()
    }

    /// The entry of an index that this is for such a machine.
    pub fn for_machine(&self, architecture: &str, variant: Option<&str>) -> Value {
        let mut entry = descriptor(MANIFEST, &self.manifest_bytes());
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        if let Some(variant) = variant {
            entry["platform"]["variant"] = json!(variant);
        }
        entry
    }

    /// Layers and configuration.
    pub fn blobs(&self) -> Vec<&[u8]> {
        self.layers.iter().chain([&self.config]).map(Vec::as_slice).collect()
    }

    /// As an OCI layout that calls it `name`.
    pub fn oci_archive(&self, name: &str) -> Vec<u8> {
        let manifest = self.manifest_bytes();
        let mut entry = descriptor(MANIFEST, &manifest);
        entry["annotations"] = json!({"io.containerd.image.name": name});
        let mut files = BTreeMap::from([
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index(&[entry]).to_string().into_bytes()),
        ]);
        for blob in self.blobs().into_iter().chain([&*manifest]) {
            files.insert(format!("blobs/sha256/{}", hex(blob)), blob.to_vec());
        }
        archive(files)
    }
}

/// An index of these entries.
pub fn index(entries: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
}

/// What images call this machine's processor.
pub fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// How one document names another.
pub fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
}

/// `sha256:` and the digest of the content.
pub fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex(content))
}

pub(crate) fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tar archive of files.
pub(crate) fn archive(files: BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        append_file(&mut tar, &name, 0o644, &content);
    }
    tar.into_inner().expect("write to memory")
}

pub(crate) fn append_file(tar: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, name, content).expect("write to memory");
}
