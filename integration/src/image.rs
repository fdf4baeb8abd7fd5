//! Small images made on the spot from this machine's static busybox, as archives of both forms.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::pieces::{Packing, Pieces, append_file, archive, hex};

/// An image to be made: busybox with links for all that it can do, in one layer.
#[derive(Debug, Clone)]
pub struct TestImage {
    name: String,
    env: Vec<String>,
    workdir: Option<String>,
    directories: Vec<String>,
    files: Vec<(PathBuf, String)>,
    texts: Vec<(String, String)>,
    set_user_id: Vec<(PathBuf, String)>,
    links: Vec<(String, String)>,
    more_config: Vec<(String, serde_json::Value)>,
}

impl TestImage {
    /// One that is called `name`, with a path of `/bin` and nothing else.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            env: vec!["PATH=/bin".to_owned()],
            workdir: None,
            directories: Vec::new(),
            files: Vec::new(),
            texts: Vec::new(),
            set_user_id: Vec::new(),
            links: Vec::new(),
            more_config: Vec::new(),
        }
    }

    /// One more variable: `KEY=value`.
    pub fn env(mut self, entry: &str) -> Self {
        self.env.push(entry.to_owned());
        self
    }

    /// The working directory that its configuration names; it is not made.
    pub fn workdir(mut self, path: &str) -> Self {
        self.workdir = Some(path.to_owned());
        self
    }

    /// A directory that it has, without a leading slash.
    pub fn directory(mut self, path: &str) -> Self {
        self.directories.push(path.to_owned());
        self
    }

    /// A file of this machine, or a directory with all that is in it, at `path` in the image.
    pub fn copy(mut self, from: &Path, path: &str) -> Self {
        self.files.push((from.to_owned(), path.trim_start_matches('/').to_owned()));
        self
    }

    /// A program that is this text.
    pub fn script(mut self, path: &str, text: &str) -> Self {
        self.texts.push((path.trim_start_matches('/').to_owned(), text.to_owned()));
        self
    }

    /// A program of this machine at `path` in the image, with the libraries that it is linked to.
    ///
    /// # Panics
    /// When `ldd` cannot say which those are.
    pub fn program(mut self, from: &Path, path: &str) -> Self {
        let output = std::process::Command::new("ldd").arg(from).output().expect("run ldd");
        let text = String::from_utf8(output.stdout).expect("paths of libraries are ASCII");
        for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
            self = self.copy(Path::new(library), library);
        }
        self.copy(from, path)
    }

    /// A file of this machine at `path`, owned by root, that runs as its owner for whoever runs it.
    pub fn set_user_id(mut self, from: &Path, path: &str) -> Self {
        self.set_user_id.push((from.to_owned(), path.trim_start_matches('/').to_owned()));
        self
    }

    /// A symbolic link at `path`, instead of what is otherwise there.
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.links.push((path.trim_start_matches('/').to_owned(), target.to_owned()));
        self
    }

    /// A field of its configuration, instead of what it otherwise says.
    pub fn config_field(mut self, name: &str, value: serde_json::Value) -> Self {
        self.more_config.push((name.to_owned(), value));
        self
    }

    /// As an OCI layout.
    ///
    /// # Panics
    /// When this machine has no static busybox.
    pub fn oci_archive(&self) -> Vec<u8> {
        self.pieces(Packing::Plain).oci_archive(&self.name)
    }

    /// In pieces, for tests that make the rest themselves.
    ///
    /// # Panics
    /// When this machine has no static busybox.
    pub fn pieces(&self, packing: Packing) -> Pieces {
        Pieces::new(&[(packing, self.layer())], self.config())
    }

    /// Its only layer, before compression.
    ///
    /// # Panics
    /// When this machine has no static busybox.
    pub fn layer(&self) -> Vec<u8> {
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let busybox = busybox.expect("a static busybox (Debian: busybox-static)");
        let output = std::process::Command::new(busybox).arg("--list").output().expect("run busybox");
        let applets = String::from_utf8(output.stdout).expect("names of applets are ASCII");
        let mut tar = tar::Builder::new(Vec::new());
        let directories = ["bin", "etc", "tmp", "root", "dev", "proc", "sys"].map(str::to_owned);
        let is_link = |path: &str| self.links.iter().any(|(link, _)| link == path);
        for directory in directories.iter().chain(&self.directories).filter(|path| !is_link(path)) {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(if directory == "tmp" { 0o1777 } else { 0o755 });
            header.set_size(0);
            tar.append_data(&mut header, format!("{directory}/"), std::io::empty()).expect("write to memory");
        }
        let program = std::fs::read(busybox).expect("read busybox");
        append_file(&mut tar, "bin/busybox", 0o755, &program);
        if !is_link("etc/passwd") && !is_link("etc") {
            append_file(&mut tar, "etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
        }
        append_file(&mut tar, "bin/not-executable", 0o644, b"text\n");
        for applet in applets.lines().filter(|applet| !applet.is_empty() && *applet != "busybox") {
            append_link(&mut tar, &format!("bin/{applet}"), "busybox");
        }
        for (path, target) in &self.links {
            append_link(&mut tar, path, target);
        }
        for (from, path) in &self.files {
            // Links are followed: what they lead to may not be in the image.
            let metadata = std::fs::metadata(from).expect("what an image is made of is there");
            let added = if metadata.is_dir() {
                tar.append_dir_all(path, from)
            } else {
                tar.append_path_with_name(from, path)
            };
            added.expect("read what an image is made of");
        }
        for (path, text) in &self.texts {
            append_file(&mut tar, path, 0o755, text.as_bytes());
        }
        for (from, path) in &self.set_user_id {
            append_file(
                &mut tar,
                path,
                0o4755,
                &std::fs::read(from).expect("what an image is made of is there"),
            );
        }
        tar.into_inner().expect("write to memory")
    }

    /// As `docker save` writes it.
    ///
    /// # Panics
    /// When this machine has no static busybox.
    pub fn docker_archive(&self) -> Vec<u8> {
        let Pieces { layers, config, .. } = self.pieces(Packing::Plain);
        let config_name = format!("{}.json", hex(&config));
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": ["one/layer.tar"]}])
            .to_string();
        archive(BTreeMap::from([
            (config_name, config),
            ("manifest.json".to_owned(), manifest.into_bytes()),
            ("one/layer.tar".to_owned(), layers.concat()),
        ]))
    }

    /// Its configuration, but for the layers that it has.
    pub fn config(&self) -> serde_json::Value {
        // What must not be obeyed.
        let mut config = json!({"Env": self.env, "WorkingDir": self.workdir, "User": "0:0", "Entrypoint": ["/bin/false"],
                       "Volumes": {"/volume": {}}, "Labels": {"containerd.io/restart.status": "running"}});
        for (name, value) in &self.more_config {
            config[name] = value.clone();
        }
        json!({ "config": config })
    }
}

fn append_link(tar: &mut tar::Builder<Vec<u8>>, path: &str, target: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_mode(0o777);
    header.set_size(0);
    tar.append_link(&mut header, path, target).expect("write to memory");
}
