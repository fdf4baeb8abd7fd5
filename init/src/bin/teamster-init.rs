//! Pid 1 of every container, as the task's user and with no more rights than the task: it feeds standard
//! input, starts the command with its exact arguments, passes signals on, reaps, and at the end of the command
//! kills what is left and tells the keeper how it ended. It runs nothing without a keeper. It opens no file
//! that the task can change, and the task can neither kill nor trace it.

use std::env;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, killpg, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execve, fork, setpgid};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use teamster_init::record::Status;
use teamster_init::{GO, INSIDE, SOCKET, STDIN, TALK, lookup};

/// What init ends with when it cannot do its work. Nobody takes it for the command's: there is no record then.
const EXIT_UNABLE: u8 = 125;

/// How long the keeper may take for an answer.
const KEEPER_DEADLINE: Duration = Duration::from_secs(60);

/// What the command has left running may end by itself within this time. Scripts of engines end while the `tee`s that
/// write their output have its last lines still to read, and on a busy node these would be lost.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    match live() {
        Ok(code) => ExitCode::from(code),
        Err(_) => ExitCode::from(EXIT_UNABLE),
    }
}

fn live() -> io::Result<u8> {
    // The task is the same user: nothing of this process shall be open to it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let all = SigSet::all();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None)?;
    let signals = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut keeper = meet_keeper()?;
    let status = match start()? {
        Ok(child) => attend(child, &signals, &keeper)?,
        Err(reason) => Status::Unusable(reason),
    };
    keeper.write_all(status.to_string().as_bytes())?;
    // It is on record before the end of this process can be seen.
    let _ = keeper.read(&mut [0; 1]);
    Ok(status.code())
}

/// The keeper takes the first connection only, and answers when it knows this process.
fn meet_keeper() -> io::Result<UnixStream> {
    let mut keeper = UnixStream::connect(Path::new(INSIDE).join(TALK).join(SOCKET))?;
    keeper.set_read_timeout(Some(KEEPER_DEADLINE))?;
    keeper.set_write_timeout(Some(KEEPER_DEADLINE))?;
    let mut answer = [0; 1];
    keeper.read_exact(&mut answer)?;
    if answer[0] == GO { Ok(keeper) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Starts the command; the inner error is why it cannot be executed.
fn start() -> io::Result<Result<Pid, String>> {
    let words: Vec<OsString> = env::args_os().skip(1).collect();
    let word = words.first().cloned().unwrap_or_default();
    let unusable = |why: &str| Ok(Err(format!("exec: \"{}\": {why}", word.to_string_lossy())));
    let path = match lookup::find(&word, env::var_os("PATH").as_deref()) {
        Ok(path) => c_string(path.into_os_string())?,
        Err(why) => return unusable(why),
    };
    let arguments = words.into_iter().map(c_string).collect::<io::Result<Vec<_>>>()?;
    let variables = env::vars_os()
        .map(|(name, value)| c_string(OsString::from_vec([name.as_bytes(), b"=", value.as_bytes()].concat())))
        .collect::<io::Result<Vec<_>>>()?;
    let stdin = match File::open(Path::new(INSIDE).join(TALK).join(STDIN)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other?),
    };
    let (mut trouble, to_parent) = io::pipe()?;
    match divide()? {
        ForkResult::Child => {
            let error = become_command(stdin.as_ref(), &path, &arguments, &variables);
            let _ = (&to_parent).write_all(&(error as i32).to_ne_bytes());
            std::process::exit(i32::from(EXIT_UNABLE));
        }
        ForkResult::Parent { child } => {
            drop(to_parent);
            let mut error = [0; 4];
            // The pipe is closed by the execution of the command.
            if trouble.read_exact(&mut error).is_err() {
                return Ok(Ok(child));
            }
            waitpid(child, None)?;
            unusable(&Errno::from_raw(i32::from_ne_bytes(error)).desc().to_lowercase())
        }
    }
}

#[allow(
    unsafe_code,
    reason = "there is no safe fork; this process has one thread, so all that the child \
                               finds is in order"
)]
fn divide() -> nix::Result<ForkResult> {
    unsafe { fork() }
}

/// The command in place of this process; returns why not.
fn become_command(
    stdin: Option<&File>,
    path: &CString,
    arguments: &[CString],
    variables: &[CString],
) -> Errno {
    let prepare = || {
        // Its own group, so that a signal reaches what it has started in the foreground too.
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        if let Some(stdin) = stdin {
            rustix::stdio::dup2_stdin(stdin).map_err(|error| Errno::from_raw(error.raw_os_error()))?;
        }
        default_pipe_signal()?;
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
    };
    match prepare() {
        Ok(()) => execve(path, arguments, variables).err().unwrap_or(Errno::UnknownErrno),
        Err(error) => error,
    }
}

#[allow(
    unsafe_code,
    reason = "changing a signal's disposition is unsafe for the handlers that one may \
                               install; the default is none"
)]
fn default_pipe_signal() -> nix::Result<()> {
    // Rust's start-up ignores it, and a command would inherit that.
    unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigDfl) }.map(drop)
}

fn c_string(text: OsString) -> io::Result<CString> {
    CString::new(text.into_vec()).map_err(io::Error::other)
}

/// Passes signals on and reaps until the command has ended and nothing else is left. What it leaves is killed: after a
/// moment for last words, or at once where somebody has asked for the end. A keeper that dies ends everything: nobody
/// would keep the logs any more, and nobody the lease.
fn attend(child: Pid, signals: &SignalFd, keeper: &UnixStream) -> io::Result<Status> {
    let mut was_signalled = false;
    let mut ended: Option<(Status, Instant)> = None;
    loop {
        if is_keeper_gone(signals, keeper, ended.as_ref().map(|(_, deadline)| *deadline))? {
            end_all()?;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        while let Some(signal) = signals.read_signal()? {
            let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
            match Signal::try_from(number) {
                Ok(Signal::SIGCHLD) | Err(_) => {}
                Ok(signal) => {
                    was_signalled = true;
                    // Between fork and setpgid there is no such group yet; the command itself is there.
                    let _ = killpg(child, signal).or_else(|_| kill(child, signal));
                }
            }
        }
        let (status, is_alone) = reap(child, WaitPidFlag::WNOHANG)?;
        if let Some(status) = status {
            ended = Some((status, Instant::now() + LAST_WORDS));
        }
        if let Some((status, deadline)) = &ended
            && (is_alone || was_signalled || Instant::now() >= *deadline)
        {
            end_all()?;
            return Ok(status.clone());
        }
    }
}

/// Waits for a signal, until the deadline if there is one; whether the keeper has died.
fn is_keeper_gone(signals: &SignalFd, keeper: &UnixStream, deadline: Option<Instant>) -> io::Result<bool> {
    let mut waiting = [
        PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(keeper.as_fd(), PollFlags::IN),
    ];
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let left = left.and_then(|left| rustix::event::Timespec::try_from(left).ok());
    match poll(&mut waiting, left.as_ref()) {
        Err(rustix::io::Errno::INTR) => Ok(false),
        other => other.map(|_| !waiting[1].revents().is_empty()).map_err(io::Error::from),
    }
}

/// Reaps whatever has ended: the status of the command, once it is among it, and whether nothing else is left.
fn reap(child: Pid, flags: WaitPidFlag) -> io::Result<(Option<Status>, bool)> {
    let mut ended = None;
    loop {
        let (pid, status) = match waitpid(None, Some(flags)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, Status::Exited(code.to_le_bytes()[0])),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                (pid, Status::Signaled((signal as i32).to_le_bytes()[0]))
            }
            Ok(WaitStatus::StillAlive) => return Ok((ended, false)),
            Err(Errno::ECHILD) => return Ok((ended, true)),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if pid == child {
            ended = Some(status);
        }
    }
}

/// Kills and reaps all that is left in the container.
fn end_all() -> io::Result<()> {
    match kill(Pid::from_raw(-1), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => return Err(error.into()),
    }
    reap(Pid::from_raw(0), WaitPidFlag::empty()).map(drop)
}
