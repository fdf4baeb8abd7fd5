//! The programs that stand in for containerd's shim program and for runc do what is theirs, and leave everything
//! else to those: here scripts that say what they were asked.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

const RUNC: &str = env!("CARGO_BIN_EXE_teamster-runc");
const SHIM: &str = env!("CARGO_BIN_EXE_teamster-shim");

/// What the script in place of runc ends with, so that nobody else's success is taken for its.
const FROM_RUNC: i32 = 33;

/// A directory with scripts in place of the real programs, and one in which runc remembers containers.
struct Stand {
    home: TempDir,
}

impl Stand {
    fn new() -> Self {
        let stand = Self { home: tempfile::tempdir().unwrap() };
        stand.script("runc", &format!("echo runc \"$@\"; exit {FROM_RUNC}"));
        stand
    }

    fn path(&self) -> &Path {
        self.home.path()
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }

    /// What runc remembers of a container whose first process is this one.
    fn container(&self, process: u32, started: u64) -> PathBuf {
        let state = self.path().join("states/a-1-0");
        fs::create_dir_all(&state).unwrap();
        let text = format!(r#"{{"id":"a-1-0","init_process_pid":{process},"init_process_start":{started}}}"#);
        fs::write(state.join("state.json"), text).unwrap();
        mknodat(CWD, state.join("exec.fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        state
    }

    fn command(&self, program: &str, line: &str) -> Command {
        let mut command = Command::new(program);
        command.args(line.split(' ')).env("PATH", format!("{}:/usr/bin:/bin", self.path().display()));
        command
    }

    fn runc_line(&self, action: &str) -> String {
        format!("--root {}/states --log /log --log-format json {action} a-1-0", self.path().display())
    }

    fn runc(&self, action: &str) -> Output {
        self.command(RUNC, &self.runc_line(action)).output().unwrap()
    }
}

/// Whether the script was asked, and exactly so.
fn was_left_to_runc(output: &Output, line: &str) -> bool {
    output.status.code() == Some(FROM_RUNC) && output.stdout == format!("runc {line}\n").as_bytes()
}

/// A process that lives until it is dropped.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }

    fn started(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap()
    }

    /// Its end, and the number that it had.
    fn end(mut self) -> (u32, u64) {
        let (process, started) = (self.0.id(), self.started());
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        (process, started)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_runcs_is_left_to_runc() {
    let stand = Stand::new();
    for line in ["--version", "--root /r --log /l --log-format json create --bundle /b a", "features"] {
        let output = stand.command(RUNC, line).output().unwrap();
        assert!(was_left_to_runc(&output, line), "{line}: {output:?}");
    }
    for action in ["start", "delete"] {
        let output = stand.runc(action);
        assert!(was_left_to_runc(&output, &stand.runc_line(action)), "no such container: {output:?}");
    }
}

#[test]
fn forgets_a_container_that_is_dead_and_no_other() {
    let stand = Stand::new();
    let sleeper = Sleeper::start();
    let state = stand.container(sleeper.0.id(), sleeper.started());
    let output = stand.runc("delete");
    assert!(was_left_to_runc(&output, &stand.runc_line("delete")), "it lives: {output:?}");
    assert!(state.join("state.json").exists());
    sleeper.end();
    let output = stand.runc("delete");
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(!state.exists() && stand.path().join("states").exists());
}

#[test]
fn a_number_that_has_passed_to_another_process_is_not_taken_for_the_first() {
    let stand = Stand::new();
    let sleeper = Sleeper::start();
    let state = stand.container(sleeper.0.id(), sleeper.started() - 1);
    assert!(stand.runc("delete").status.success());
    assert!(!state.exists());
}

#[test]
fn lets_a_container_begin_that_waits_for_it() {
    let stand = Stand::new();
    let sleeper = Sleeper::start();
    let fifo = stand.container(sleeper.0.id(), sleeper.started()).join("exec.fifo");
    let place = fifo.clone();
    // As runc's own first process does it.
    let first = std::thread::spawn(move || File::options().write(true).open(place).unwrap().write_all(b"0"));
    let output = stand.runc("start");
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    first.join().unwrap().unwrap();
    assert!(!fifo.exists(), "what has begun cannot begin again");
    let output = stand.runc("start");
    assert!(was_left_to_runc(&output, &stand.runc_line("start")), "{output:?}");
}

#[test]
fn a_container_that_died_before_its_start_is_explained_by_runc() {
    let stand = Stand::new();
    let (process, started) = Sleeper::start().end();
    let state = stand.container(process, started);
    let output = stand.runc("start");
    assert!(was_left_to_runc(&output, &stand.runc_line("start")), "{output:?}");
    // The same while it is waited for.
    let sleeper = Sleeper::start();
    fs::remove_dir_all(&state).unwrap();
    stand.container(sleeper.0.id(), sleeper.started());
    let waiting = stand.command(RUNC, &stand.runc_line("start")).stdout(std::process::Stdio::piped()).spawn();
    sleeper.end();
    let output = waiting.unwrap().wait_with_output().unwrap();
    assert!(was_left_to_runc(&output, &stand.runc_line("start")), "{output:?}");
}

#[test]
fn what_is_the_shim_programs_is_left_to_it() {
    let stand = Stand::new();
    // A copy, because it leaves a mark beside itself.
    let shim = stand.path().join("teamster-shim");
    fs::copy(SHIM, &shim).unwrap();
    let shim = shim.to_str().unwrap();
    let common = "-namespace n -address /c.sock -publish-binary /usr/bin/containerd -id a-1-0";
    stand.script("containerd-shim-runc-v2", "echo \"$@\"");
    for line in ["-v", "-info", &format!("{common} -bundle {}/none/a-1-0 delete", stand.path().display())] {
        let output = stand.command(shim, line).output().unwrap();
        assert_eq!(output.stdout, format!("{line}\n").as_bytes(), "{output:?}");
    }
    let start = format!("{common} start");
    stand.script("containerd-shim-runc-v2", r#"echo '{"version":3}'"#);
    for _ in 0..2 {
        let output = stand.command(shim, &start).output().unwrap();
        assert_eq!(output.stdout, b"{\"version\":3}\n", "an answer of another version is passed on");
    }
    stand.script("containerd-shim-runc-v2", "echo reason >&2; exit 5");
    let output = stand.command(shim, &start).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(5), b"reason\n".as_slice()));
    let marks = fs::read_dir(stand.path()).unwrap().flatten();
    assert!(!marks.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("known-")));
}
