//! A containerd of the test's own: own root, state and socket in a short temporary directory. What the test
//! leaves behind when it fails (shims, containers, mounts, cgroups) is cleared away with it, and only that. What a
//! test left that was killed itself is cleared away by the next one.

mod leftovers;

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::skip;

/// How long containerd may take to answer, and what it started to be gone.
const DEADLINE: Duration = Duration::from_secs(30);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Whether real containers can be run here. Where they cannot, the test fails, unless somebody has said with
/// `TEAMSTER_SKIP_REAL=1` that this is as it should be.
///
/// # Panics
/// When this is not root or containerd is not installed, and nobody has said that.
pub fn can_run_containers() -> bool {
    let reason = if !geteuid().is_root() {
        "it needs root"
    } else if !has_program("containerd") || !has_program("runc") {
        "it needs containerd and runc"
    } else {
        return true;
    };
    if std::env::var_os("TEAMSTER_SKIP_REAL").is_some_and(|value| value == "1") {
        skip::skipped("a test with real containers", reason);
        return false;
    }
    panic!("this test runs real containers: {reason}; TEAMSTER_SKIP_REAL=1 skips it");
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

/// A containerd that ends with this value.
pub struct PrivateContainerd {
    home: TempDir,
    _owner: File,
    child: Option<Child>,
    programs: Option<PathBuf>,
}

impl PrivateContainerd {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// When it does not come up; the end of its log is in the message.
    pub fn start() -> Self {
        Self::start_from(None)
    }

    /// The same with the containerd and the shim in the directory `programs`.
    pub fn start_from(programs: Option<&Path>) -> Self {
        Self::start_in(Path::new(leftovers::PARENT), programs)
    }

    /// The same with its directory in `parent`.
    pub fn start_in(parent: &Path, programs: Option<&Path>) -> Self {
        // Short, because the path of a Unix socket must not be longer than 107 bytes.
        leftovers::clear_away();
        let home = tempfile::Builder::new().prefix(leftovers::PREFIX).tempdir_in(parent);
        let home = home.expect("a temporary directory");
        let owner = leftovers::claim(home.path());
        let path = home.path().display();
        let config = format!(
            "version = 2\nroot = \"{path}/root\"\nstate = \"{path}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{path}/c.sock\"\n[ttrpc]\naddress = \"{path}/t.sock\"\n"
        );
        fs::write(home.path().join("config.toml"), config).expect("write containerd's configuration");
        let mut containerd =
            Self { home, _owner: owner, child: None, programs: programs.map(Path::to_owned) };
        containerd.restart();
        containerd
    }

    /// Its directory.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Its process, while it runs.
    pub fn process(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("c.sock")
    }

    /// Kills it as a crash would. Its shims and their containers go on.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill containerd");
            child.wait().expect("see containerd end");
        }
    }

    /// Starts it again (after killing it, if it runs) and waits until it answers.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart(&mut self) {
        self.kill9();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.home.path().join("log"))
            .expect("containerd's log");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let first = self.programs.iter().cloned();
        let path = std::env::join_paths(first.chain(std::env::split_paths(&path))).expect("a search path");
        let program = self.programs.as_deref().map_or("containerd".into(), |at| at.join("containerd"));
        let child = Command::new(program)
            .env("PATH", path)
            .arg("--config")
            .arg(self.home.path().join("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn()
            .expect("start containerd");
        self.child = Some(child);
        let deadline = Instant::now() + DEADLINE;
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < deadline, "containerd did not come up:\n{}", self.log());
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends containerd and everything that runs in its containers, as a loss of power does. What is on
    /// disk stays.
    pub fn lose_everything_that_runs(&mut self) {
        self.kill9();
        leftovers::clear(self.home.path());
        // The kernel's memory of the last boot: a tmpfs on a real machine.
        fs::remove_dir_all(self.home.path().join("state")).expect("remove containerd's state");
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// The shims that belong to this containerd, by process id.
    pub fn shims(&self) -> Vec<i32> {
        leftovers::shims(self.home.path())
    }

    /// What is mounted below its directories, innermost first.
    pub fn mounts(&self) -> Vec<PathBuf> {
        leftovers::mounts(self.home.path())
    }
}

impl Drop for PrivateContainerd {
    fn drop(&mut self) {
        self.kill9();
        leftovers::clear(self.home.path());
    }
}

/// All processes with their arguments.
fn processes() -> impl Iterator<Item = (i32, Vec<String>)> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let arguments = line.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
        Some((pid, arguments.collect()))
    })
}

/// The directories that an attempt has in the cgroup hierarchies of this machine.
pub fn attempt_cgroups(attempt: &str) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
            kind.starts_with("cgroup").then(|| Path::new(path).join("teamster").join(attempt))
        })
        .filter(|path| path.exists())
        .collect()
}
