//! A containerd of the test's own: own root, state and socket in a short temporary directory. What the test
//! leaves behind when it fails (shims, containers, mounts, cgroups) is cleared away with it, and only that.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
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
        // Short, because the path of a Unix socket must not be longer than 107 bytes.
        let home = tempfile::Builder::new().prefix("tm").tempdir_in("/tmp").expect("a temporary directory");
        let path = home.path().display();
        let config = format!(
            "version = 2\nroot = \"{path}/root\"\nstate = \"{path}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{path}/c.sock\"\n[ttrpc]\naddress = \"{path}/t.sock\"\n"
        );
        fs::write(home.path().join("config.toml"), config).expect("write containerd's configuration");
        let mut containerd = Self { home, child: None, programs: programs.map(Path::to_owned) };
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
        let containers = self.containers();
        self.kill9();
        self.kill_containers(&containers);
        // The kernel's memory of the last boot: a tmpfs on a real machine.
        fs::remove_dir_all(self.home.path().join("state")).expect("remove containerd's state");
    }

    fn kill_containers(&self, containers: &[(Option<i32>, String)]) {
        for pid in self.shims().into_iter().chain(containers.iter().filter_map(|(pid, _)| *pid)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let deadline = Instant::now() + DEADLINE;
        while !self.shims().is_empty() && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
        for mount in self.mounts() {
            let _ = umount2(&mount, MntFlags::MNT_DETACH);
        }
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// The shims that belong to this containerd, by process id.
    pub fn shims(&self) -> Vec<i32> {
        let socket = self.socket();
        processes()
            .filter(|(_, arguments)| {
                let is_shim = arguments.first().is_some_and(|name| name.contains("containerd-shim"));
                is_shim && arguments.iter().any(|argument| Path::new(argument) == socket)
            })
            .map(|(pid, _)| pid)
            .collect()
    }

    /// What is mounted below its directories, innermost first.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut mounts: Vec<PathBuf> = table
            .lines()
            .filter_map(|line| line.split(' ').nth(1).map(PathBuf::from))
            .filter(|path| path.starts_with(self.home.path()))
            .collect();
        mounts.reverse();
        mounts
    }

    /// The first processes of containers that still exist, and the containers' names.
    fn containers(&self) -> Vec<(Option<i32>, String)> {
        let bundles = self.home.path().join("state/io.containerd.runtime.v2.task/teamster");
        let Ok(entries) = fs::read_dir(bundles) else { return Vec::new() };
        entries
            .flatten()
            .map(|entry| {
                let pid = fs::read_to_string(entry.path().join("init.pid")).ok();
                let pid = pid.and_then(|text| text.trim().parse().ok());
                (pid, entry.file_name().to_string_lossy().into_owned())
            })
            .collect()
    }
}

impl Drop for PrivateContainerd {
    fn drop(&mut self) {
        let containers = self.containers();
        self.kill9();
        self.kill_containers(&containers);
        for (_, name) in containers {
            remove_cgroups(&name);
        }
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

/// The cgroups of the attempt that a container was part of: `<task>-<attempt>-<executor>`.
fn remove_cgroups(container: &str) {
    let Some((attempt, executor)) = container.rsplit_once('-') else { return };
    for attempt in attempt_cgroups(attempt) {
        let _ = fs::remove_dir(attempt.join(executor));
        let _ = fs::remove_dir(attempt);
    }
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
