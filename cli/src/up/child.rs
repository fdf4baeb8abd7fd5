//! One child process of `teamster up`: start it, watch it, start it again when it dies, stop it. What the
//! child is for is not known here.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getppid};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::machine::search_path;
use crate::table;

/// The prefix of environment variables that configure this program. They speak to `up`, which has said in
/// its children's configurations what it made of them.
const OWN_VARIABLES: &str = "TEAMSTER_";
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A child that lived so long had started well: its next end is a new one, not the last one again.
const STEADY_AFTER: Duration = Duration::from_secs(60);
/// How long a child has to end after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// A longer log is put aside when its child starts.
const LOG_BYTES: u64 = 16 << 20;
const TAIL_BYTES: u64 = 8 << 10;
const TAIL_LINES: usize = 8;

/// What to run, and where it writes.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
    /// What `ps` calls it, because a program may be started as /proc/self/exe.
    pub(super) called: &'static str,
    pub(super) arguments: Vec<OsString>,
    pub(super) log: PathBuf,
}

/// A child that ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[error("{name} ended ({status}); the end of {}:\n{tail}", log.display())]
pub(super) struct Died {
    name: &'static str,
    status: ExitStatus,
    log: PathBuf,
    tail: String,
}

/// A running child.
#[derive(Debug)]
pub(super) struct Running {
    recipe: Recipe,
    process: Child,
    started: Instant,
}

impl Recipe {
    /// Starts it. Call this on the main thread: the child is told to end when the *thread* that made it does.
    pub(super) fn start(&self) -> anyhow::Result<Running> {
        put_aside(&self.log)?;
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command.arg0(self.called);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A Ctrl-C at the terminal is for us; the children are stopped one by one, in order.
        command.process_group(0).env("PATH", search_path());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(OWN_VARIABLES) {
                command.env_remove(name);
            }
        }
        end_with_parent(&mut command);
        let process = command.spawn().with_context(|| format!("start {}", self.program.display()))?;
        Ok(Running { recipe: self.clone(), process, started: Instant::now() })
    }
}

impl Running {
    /// Waits for its end, which nobody wants.
    pub(super) async fn died(&mut self) -> anyhow::Result<Died> {
        let status = self.process.wait().await.with_context(|| format!("wait for {}", self.recipe.name))?;
        let Recipe { name, log, .. } = &self.recipe;
        Ok(Died { name, status, log: log.clone(), tail: tail(log) })
    }

    /// Keeps it running until `stop` says otherwise, then ends it.
    pub(super) async fn keep(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut pause = FIRST_PAUSE;
        loop {
            // Cancel safe: both can be waited for again.
            let died = tokio::select! {
                () = stop.cancelled() => return self.stop().await,
                died = self.died() => died?,
            };
            pause = if self.started.elapsed() > STEADY_AFTER { FIRST_PAUSE } else { pause };
            table::write_error(&format!("teamster: {died}\nteamster: starting it again in {pause:?}\n"));
            loop {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
                match self.recipe.start() {
                    Ok(running) => {
                        self = running;
                        break;
                    }
                    Err(error) => table::write_error(&format!("teamster: {error:#}\n")),
                }
            }
        }
    }

    /// Asks it to end, and sees to it that it does.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let Some(pid) = self.process.id().and_then(|pid| i32::try_from(pid).ok()) else { return Ok(()) };
        // Not reaped yet, so the number still means this child.
        kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("stop {}", self.recipe.name))?;
        if timeout(STOP_DEADLINE, self.process.wait()).await.is_err() {
            let name = self.recipe.name;
            table::write_error(&format!("teamster: {name} did not end in {STOP_DEADLINE:?}; it is killed\n"));
            self.process.kill().await.with_context(|| format!("kill {name}"))?;
        }
        Ok(())
    }
}

/// Has the child end when we do, however we do.
#[allow(
    unsafe_code,
    reason = "code between fork and exec; both calls are single, async-signal-safe syscalls"
)]
fn end_with_parent(command: &mut Command) {
    let parent = getpid();
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGTERM)?;
            // We may have ended before the child could say so.
            if getppid() == parent { Ok(()) } else { Err(std::io::ErrorKind::BrokenPipe.into()) }
        });
    }
}

fn put_aside(log: &Path) -> anyhow::Result<()> {
    if std::fs::metadata(log).is_ok_and(|file| file.len() > LOG_BYTES) {
        std::fs::rename(log, log.with_extension("log.1"))
            .with_context(|| format!("put {} aside", log.display()))?;
    }
    Ok(())
}

/// The last lines of a log, or why they cannot be shown.
pub(super) fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| format!("  {line}\n")).collect()
        }
        Err(error) => format!("  (cannot be read: {error})\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(folder: &Path, script: &str) -> Recipe {
        let arguments = vec!["-c".into(), script.into()];
        let log = folder.join("child.log");
        Recipe { name: "child", program: "/bin/sh".into(), called: "sh", arguments, log }
    }

    #[tokio::test]
    async fn an_end_is_told_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = shell(folder.path(), "echo because >&2; exit 3").start().unwrap();
        let died = child.died().await.unwrap().to_string();
        assert!(died.contains("because") && died.contains('3'), "{died}");
    }

    #[tokio::test]
    async fn a_dead_child_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let marks = folder.path().join("marks");
        let script = format!("echo x >> {0}; [ $(wc -l < {0}) -gt 1 ] && exec sleep 1000", marks.display());
        let child = shell(folder.path(), &script).start().unwrap();
        let stop = CancellationToken::new();
        let twice = async {
            while std::fs::read_to_string(&marks).unwrap_or_default().lines().count() < 2 {
                sleep(Duration::from_millis(10)).await;
            }
            stop.cancel();
        };
        let (kept, ()) = tokio::join!(child.keep(stop.clone()), twice);
        kept.unwrap();
    }

    #[test]
    fn a_tail_is_short() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::write(&log, "line\n".repeat(10_000)).unwrap();
        assert_eq!(tail(&log).lines().count(), TAIL_LINES);
        assert!(tail(&folder.path().join("none")).contains("cannot be read"));
    }
}
