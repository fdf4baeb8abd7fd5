//! `teamster up` with its real children: they come, come back, and go.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Far more than anything here takes; who waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(90);

/// Why this machine cannot start containerd, unless it can.
fn is_skipped() -> bool {
    let containerd = ["/usr/bin/containerd", "/usr/sbin/containerd", "/usr/local/bin/containerd"];
    let reason =
        match (nix::unistd::geteuid().is_root(), containerd.iter().any(|file| Path::new(file).exists())) {
            (true, true) => return false,
            (false, _) => "this is not root",
            (true, false) => "containerd is not installed",
        };
    let wanted = std::env::var_os("TEAMSTER_SKIP_REAL").is_some_and(|value| value == "1");
    assert!(wanted, "this test starts containerd: {reason}; TEAMSTER_SKIP_REAL=1 skips it");
    // Past the test harness's capture, so that it is seen also when the test passes.
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED: a test of `teamster up`: {reason}");
    true
}

/// A running `up` that dies with the test.
struct Up {
    process: Child,
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Up {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().try_into().unwrap())
    }

    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("it ends", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Process ids of its children of this name.
    fn children(&self, name: &str) -> Vec<i32> {
        let parent = self.pid().to_string();
        let is_child = |pid: &i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The second field is the program's name in brackets and may hold anything.
            let after_name = stat.rsplit_once(") ").map(|(_, fields)| fields.to_owned()).unwrap_or_default();
            let mut fields = after_name.split(' ');
            let state = fields.next();
            state != Some("Z") && fields.next() == Some(parent.as_str())
        };
        processes().filter(is_child).filter(|pid| words(*pid).iter().any(|word| word == name)).collect()
    }
}

fn processes() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn words(pid: i32) -> Vec<String> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split('\0').map(str::to_owned).collect()
}

/// Whether any process has the data directory among its arguments.
fn is_in_use(data_dir: &Path) -> bool {
    let text = data_dir.to_str().unwrap();
    processes()
        .filter(|pid| u32::try_from(*pid).ok() != Some(std::process::id()))
        .any(|pid| words(pid).iter().any(|word| word.contains(text)))
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < DEADLINE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn command(data_dir: &Path) -> Command {
    // All are held until all are known, so that they differ. Each process has an address on loopback to itself,
    // so that nobody else is given their ports before they are used.
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, high | 0x80, middle, low);
    let free = [(); 3].map(|()| TcpListener::bind((own, 0)).unwrap());
    let [http, grpc, agents] = free.each_ref().map(|listener| listener.local_addr().unwrap().to_string());
    let mut command = Command::new(env!("CARGO_BIN_EXE_teamster"));
    command.arg("up").arg("--data-dir").arg(data_dir).args(["--http", &http]);
    command.args(["--grpc", &grpc, "--agents", &agents]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(data_dir: &Path) -> Up {
    let mut process = command(data_dir).stderr(Stdio::inherit()).spawn().unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let up = Up { process };
    let (sender, told) = mpsc::channel();
    // The thread ends with the pipe, that is, with the process.
    thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let started = Instant::now();
    loop {
        let left = DEADLINE.saturating_sub(started.elapsed());
        let line = told.recv_timeout(left).expect("`teamster up` says that it is up");
        if line.contains("Ctrl-C stops it") {
            return up;
        }
    }
}

#[test]
fn children_come_back_and_nothing_is_left() {
    if is_skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut up = start(folder.path());
    for name in ["containerd", "coordinator", "agent"] {
        let before = up.children(name);
        assert_eq!(before.len(), 1, "{name}");
        kill(Pid::from_raw(before[0]), Signal::SIGKILL).unwrap();
        eventually(name, || up.children(name).first().is_some_and(|pid| *pid != before[0]));
    }
    kill(up.pid(), Signal::SIGTERM).unwrap();
    assert!(up.wait().success());
    assert!(!is_in_use(folder.path()));
}

#[test]
fn a_second_one_leaves_the_first_alone() {
    if is_skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut up = start(folder.path());
    let config = folder.path().join("coordinator.toml");
    let before = std::fs::read_to_string(&config).unwrap();
    let second = command(folder.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let stderr = String::from_utf8(second.stderr).unwrap();
    assert!(stderr.contains("--data-dir"), "{stderr}");
    assert_eq!(std::fs::read_to_string(&config).unwrap(), before);
    kill(up.pid(), Signal::SIGINT).unwrap();
    assert!(up.wait().success());
}

#[test]
fn the_children_end_with_it_however_it_ends() {
    if is_skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut up = start(folder.path());
    kill(up.pid(), Signal::SIGKILL).unwrap();
    assert!(!up.wait().success());
    eventually("the children are gone", || !is_in_use(folder.path()));
}
