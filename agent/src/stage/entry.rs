//! The staging child's own `main`: the outer process. It starts as root, pins directories, opens the files
//! that the agent keeps, leaves the agent's namespaces and forks the inner process, which becomes the task's
//! user and does the work ([`view`]). Until the inner one has ended it watches whether the agent still lives.
//! It reads no file of a task.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, Mode};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::view;
use super::work::{Direction, Request, StageError, StagedOut, Work};
use super::{pin, work};
use crate::storage::directory;

/// Serves `teamster stage`. It must be called before the process has a second thread.
pub fn main() -> ! {
    let check = std::env::args_os().nth(2).is_some_and(|argument| argument == directory::CHECK);
    let result = if check { directory::answer_check() } else { serve() };
    if let Err(error) = result {
        // Whoever reads this is the parent; there is nobody else to tell.
        let _ = writeln!(io::stderr(), "{error}");
        std::process::exit(1);
    }
    std::process::exit(0)
}

fn serve() -> io::Result<()> {
    let mut line = Vec::new();
    io::stdin().lock().read_until(b'\n', &mut line)?;
    let request: Request = serde_json::from_slice(&line)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // Held until both processes have ended: the inner one inherits it.
    let _lock = lock(&request.lock)?;
    for pin in &request.pins {
        if let Err(error) = pin::attach(pin, request.identity) {
            return answer(&Err(error));
        }
    }
    let Some(work) = request.work.as_ref() else {
        return answer(&Ok(StagedOut::default()));
    };
    let kept = open_kept(work)?;
    nix::sched::unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWNET,
    )?;
    let outer = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    match fork()? {
        ForkResult::Child => view::serve(&request, work, kept, &outer),
        ForkResult::Parent { child } => watch(child),
    }
}

/// The only answer on standard output.
pub(super) fn answer(answer: &Result<StagedOut, StageError>) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    io::stdout().write_all(&line)?;
    io::stdout().flush()
}

#[allow(unsafe_code, reason = "fork has no safe form; this process has one thread, so the copy is complete")]
fn fork() -> io::Result<ForkResult> {
    // SAFETY: `main` is called before any thread is made, and nothing on the way here makes one.
    Ok(unsafe { nix::unistd::fork() }?)
}

fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    // The parent's deadline ends this wait.
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// Opens the agent's ends of standard streams, while this process is root. They lie where no task can go.
fn open_kept(work: &Work) -> io::Result<Vec<File>> {
    let Work::Streams(streams) = work else {
        return Ok(Vec::new());
    };
    let open = |stream: &work::Stream| match stream.direction {
        Direction::Capture => {
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&stream.kept)
        }
        Direction::Install => File::open(&stream.kept),
    };
    streams.iter().map(open).collect()
}

/// Waits for the inner process; kills it when the agent is gone.
fn watch(inner: Pid) -> io::Result<()> {
    let pid = rustix::process::Pid::from_raw(inner.as_raw()).ok_or(io::ErrorKind::InvalidInput)?;
    let process: OwnedFd = pidfd_open(pid, PidfdFlags::empty())?;
    let stdin = io::stdin();
    loop {
        let mut watched = [
            PollFd::new(&process, PollFlags::IN),
            PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::empty()),
        ];
        match poll(&mut watched, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        if watched[1].revents().intersects(PollFlags::HUP | PollFlags::ERR) && watched[0].revents().is_empty()
        {
            // One that has just ended by itself is fine.
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
        if !watched[0].revents().is_empty() || watched[1].revents().contains(PollFlags::HUP) {
            break;
        }
    }
    match waitpid(inner, None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        other => Err(io::Error::other(format!("the staging process ended: {other:?}"))),
    }
}
