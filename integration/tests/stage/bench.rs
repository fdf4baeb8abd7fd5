//! One attempt on a bench: a data directory, a storage, and a task whose files the test writes itself.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, Metadata};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags};
use teamster_agent::assignment::{
    Assignment, AttemptId, Executor, FileKind, Input, InputSource, Output, Resources, Wildcards,
};
use teamster_agent::attempt_dir::AttemptDir;
use teamster_agent::config::{Sandbox, StorageConfig, StorageKind};
use teamster_agent::runtime::Image;
use teamster_agent::stage::{StageError, Stager};
use teamster_agent::task::plan::{Plan, plan};
use teamster_values::{AbsolutePath, PathPattern, TaskId};

/// Whom the task runs as: nobody in particular, who owns nothing else.
pub(crate) const UID: u32 = 64321;

pub(crate) struct Bench {
    root: tempfile::TempDir,
    pub(crate) task: Assignment,
    pub(crate) dir: AttemptDir,
    pub(crate) config: Vec<StorageConfig>,
    pub(crate) stager: Stager,
}

impl Bench {
    /// Nothing where this is not root and somebody has said that this is as it should be.
    pub(crate) fn new() -> Option<Self> {
        if !is_root() {
            return None;
        }
        let root = tempfile::tempdir().unwrap();
        let id = AttemptId { task: TaskId::from_bytes([3; 16]), attempt: 1 };
        let dir = AttemptDir::new(&root.path().join("data"), id);
        DirBuilder::new().recursive(true).mode(0o700).create(dir.logs()).unwrap();
        let storage = root.path().join("shared");
        std::fs::create_dir(&storage).unwrap();
        std::fs::set_permissions(&storage, PermissionsExt::from_mode(0o777)).unwrap();
        let path = at(storage.to_str().unwrap());
        Some(Self {
            root,
            task: task(id),
            dir,
            config: vec![StorageConfig { name: "shared".into(), kind: StorageKind::Directory, path }],
            stager: Stager::new(program()),
        })
    }

    pub(crate) fn plan(&self) -> Plan {
        let sandbox = Sandbox { uid: UID, gid: UID, ..Sandbox::default() };
        plan(&self.task, &sandbox, &self.config, &self.dir).unwrap()
    }

    pub(crate) async fn stage_in(&self) -> Result<(), StageError> {
        self.stager.stage_in(&self.plan()).await
    }

    pub(crate) async fn release(&self) -> Result<(), StageError> {
        self.stager.release(&self.dir).await
    }

    pub(crate) fn storage(&self) -> PathBuf {
        self.root.path().join("shared")
    }

    /// A bare path as a storage URL.
    pub(crate) fn url(&self, relative: &str) -> String {
        self.storage().join(relative).to_str().unwrap().to_owned()
    }

    /// Puts a file on the storage, in directories that everybody may write, as engines do.
    pub(crate) fn store(&self, relative: &str, text: &str) {
        let path = self.storage().join(relative);
        let mut directory = self.storage();
        for component in Path::new(relative).parent().unwrap().components() {
            directory.push(component);
            if !directory.is_dir() {
                std::fs::create_dir(&directory).unwrap();
                std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o777)).unwrap();
            }
        }
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn stored(&self, relative: &str) -> Metadata {
        std::fs::symlink_metadata(self.storage().join(relative)).unwrap()
    }

    pub(crate) fn read(&self, relative: &str) -> String {
        std::fs::read_to_string(self.storage().join(relative)).unwrap()
    }

    /// Where a path of the container lies on the host.
    pub(crate) fn on_host(&self, path: &str) -> PathBuf {
        let path = at(path);
        let binds = self.plan().container(0, image(), 1 << 20).binds;
        let bind = binds.iter().rfind(|bind| path.starts_with(&bind.destination)).expect("it is mounted");
        let below = path.strip_prefix(&bind.destination).unwrap();
        if below.as_os_str().is_empty() { bind.source.clone() } else { bind.source.join(below) }
    }

    /// What the task would do.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let (directory, _) = path.rsplit_once('/').unwrap();
        self.make_directory(directory);
        let path = self.on_host(path);
        std::fs::write(&path, text).unwrap();
        chown(&path, Some(UID), Some(UID)).unwrap();
    }

    pub(crate) fn make_directory(&self, path: &str) {
        let path = self.on_host(path);
        let missing: Vec<_> = path.ancestors().take_while(|path| !path.exists()).collect();
        for directory in missing.iter().rev() {
            std::fs::create_dir(directory).unwrap();
            chown(directory, Some(UID), Some(UID)).unwrap();
        }
    }

    pub(crate) fn link(&self, to: &str, path: &str) {
        std::os::unix::fs::symlink(to, self.on_host(path)).unwrap();
    }

    /// What the runtime would have written to `stdout` or `stderr`.
    pub(crate) fn captured(&self, name: &str, text: &str) {
        std::fs::write(self.dir.logs().join(format!("0.{name}")), text).unwrap();
    }

    /// What is mounted below the bench now.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        points.filter(|point| Path::new(point).starts_with(self.root.path())).map(str::to_owned).collect()
    }
}

impl Drop for Bench {
    /// A failed test must not leave mounts, nor have the temporary directory deleted through them.
    fn drop(&mut self) {
        for point in self.mounts().iter().rev() {
            let _ = nix::mount::umount2(Path::new(point), MntFlags::MNT_DETACH);
        }
        if !self.mounts().is_empty() {
            self.root.disable_cleanup(true);
        }
    }
}

fn is_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("TEAMSTER_SKIP_REAL").is_some_and(|value| value == "1"),
        "this test stages as root; TEAMSTER_SKIP_REAL=1 skips it"
    );
    eprintln!("SKIPPED: a test of staging: it needs root");
    false
}

/// The program under test, built beside the tests.
pub(crate) fn program() -> PathBuf {
    teamster_integration::cluster::teamster()
}

pub(crate) fn at(text: &str) -> AbsolutePath {
    AbsolutePath::parse(text).unwrap()
}

fn kind(path: &str) -> FileKind {
    if path.ends_with('/') { FileKind::Directory } else { FileKind::File }
}

/// A path with a slash at its end is a directory.
pub(crate) fn input(path: &str, url: &str) -> Input {
    Input { path: at(path), kind: kind(path), source: InputSource::Url(url.into()) }
}

pub(crate) fn content(path: &str, text: &str) -> Input {
    Input { path: at(path), kind: FileKind::File, source: InputSource::Content(text.into()) }
}

pub(crate) fn output(path: &str, url: &str) -> Output {
    Output { path: at(path), kind: kind(path), url: url.into(), wildcards: None }
}

/// An output with wildcards.
pub(crate) fn matching(pattern: &str, prefix: &str, url: &str) -> Output {
    let pattern = PathPattern::parse(pattern).unwrap();
    let path = pattern.directory();
    let wildcards = Some(Wildcards { pattern, prefix: at(prefix) });
    Output { path, kind: FileKind::File, url: url.into(), wildcards }
}

pub(crate) fn bind(source: &Path, target: &Path) {
    nix::mount::mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

pub(crate) fn unmount(target: &Path) {
    nix::mount::umount2(target, MntFlags::MNT_DETACH).unwrap();
}

fn image() -> Image {
    Image::default()
}

fn task(id: AttemptId) -> Assignment {
    let executor = Executor {
        image: "busybox".into(),
        command: vec!["true".into()],
        workdir: None,
        stdin: None,
        stdout: None,
        stderr: None,
        env: BTreeMap::new(),
        ignore_error: false,
    };
    Assignment {
        id,
        executors: vec![executor],
        inputs: Vec::new(),
        outputs: Vec::new(),
        volumes: Vec::new(),
        limits: Resources::default(),
        lease: Duration::from_secs(60),
        network: None,
        time_limit: None,
        image_entrypoint: false,
    }
}
