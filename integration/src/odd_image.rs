//! Images that nobody would make on purpose, entry by entry and layer by layer: without `/etc` or `/tmp`, with
//! links and files where directories belong, with names that are no text.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::json;

use crate::pieces::{Packing, Pieces};

/// An image of these layers, lowest first.
#[derive(Debug, Clone)]
pub struct OddImage {
    name: String,
    layers: Vec<Vec<(Vec<u8>, Entry)>>,
    config: serde_json::Value,
}

#[derive(Debug, Clone)]
enum Entry {
    Directory(u32),
    File(u32, Vec<u8>),
    Link(String),
}

impl OddImage {
    /// One that holds this machine's static busybox as `/busybox`, and nothing else.
    ///
    /// # Panics
    /// When this machine has no static busybox.
    pub fn named(name: &str) -> Self {
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let program = std::fs::read(busybox.expect("a static busybox")).expect("read busybox");
        let image = Self { name: name.to_owned(), layers: vec![Vec::new()], config: json!({}) };
        image.add(b"busybox", Entry::File(0o755, program))
    }

    fn add(mut self, path: &[u8], entry: Entry) -> Self {
        self.layers.last_mut().expect("there is a layer").push((path.to_vec(), entry));
        self
    }

    /// A directory, without a leading slash.
    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.add(path.as_bytes(), Entry::Directory(mode))
    }

    /// A file of any name.
    pub fn file(self, path: &[u8], content: &str) -> Self {
        self.add(path, Entry::File(0o644, content.into()))
    }

    /// A symbolic link.
    pub fn link(self, path: &str, target: &str) -> Self {
        self.add(path.as_bytes(), Entry::Link(target.to_owned()))
    }

    /// What comes now lies in a layer over what came before.
    pub fn layer(mut self) -> Self {
        self.layers.push(Vec::new());
        self
    }

    /// A field of its configuration.
    pub fn config(mut self, name: &str, value: serde_json::Value) -> Self {
        self.config[name] = value;
        self
    }

    /// As an OCI layout.
    pub fn oci_archive(&self) -> Vec<u8> {
        let layers: Vec<_> = self.layers.iter().map(|layer| (Packing::Plain, tarred(layer))).collect();
        Pieces::new(&layers, json!({ "config": self.config })).oci_archive(&self.name)
    }
}

fn tarred(entries: &[(Vec<u8>, Entry)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, entry) in entries {
        let path = Path::new(OsStr::from_bytes(path));
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        match entry {
            Entry::Directory(mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                tar.append_data(&mut header, path, std::io::empty()).expect("write to memory");
            }
            Entry::File(mode, content) => {
                header.set_mode(*mode);
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, path, content.as_slice()).expect("write to memory");
            }
            Entry::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                tar.append_link(&mut header, path, target).expect("write to memory");
            }
        }
    }
    tar.into_inner().expect("write to memory")
}
