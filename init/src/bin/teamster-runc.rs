//! What a shim starts in place of runc: it does by itself the two steps of a container's life that are a matter of
//! a few system calls, and for which runc starts a runtime of its own and reads all that it knows. Everything
//! else, and whatever is not exactly as expected, is runc's: it is then started in the place of this one, with
//! the same arguments. This makes no container and confines nothing.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::{FdFlags, fcntl_setfd};
use teamster_init::call::{RuncAction, RuncCall};
use teamster_init::state::FirstProcess;

/// The program that this stands in for.
const RUNC: &str = "runc";

/// Between two looks at whether what is waited for is still alive.
const LOOK_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

fn main() -> ExitCode {
    let call = RuncCall::parse(env::args_os().skip(1));
    let is_done = call.is_some_and(|call| match call.action {
        RuncAction::Start => start(&call.state).unwrap_or(false),
        RuncAction::Delete => delete(&call.state).unwrap_or(false),
    });
    if is_done {
        return ExitCode::SUCCESS;
    }
    let error = Command::new(RUNC).args(env::args_os().skip(1)).exec();
    eprintln(&error);
    ExitCode::FAILURE
}

#[allow(clippy::print_stderr, reason = "the shim reads there why its runc does not start")]
fn eprintln(error: &io::Error) {
    eprintln!("start {RUNC}: {error}");
}

/// Takes what the container's first process says when it may go on. That process waits for somebody to open the
/// pipe; runc leaves it there and takes it away at the start, so of what runs there is none.
fn start(state: &Path) -> io::Result<bool> {
    let Some(first) = FirstProcess::of(state) else { return Ok(false) };
    if first.has_ended()? {
        return Ok(false);
    }
    let path = state.join("exec.fifo");
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
    let fifo = OpenOptions::new().read(true).custom_flags(flags).open(&path)?;
    // Open until this process ends, and in runc if it has to be left to that: what was said must not be lost with
    // the last who listens.
    let mut fifo = ManuallyDrop::new(fifo);
    fcntl_setfd(&*fifo, FdFlags::empty())?;
    while !has_something(&fifo)? {
        if first.has_ended()? && !has_something(&fifo)? {
            return Ok(false);
        }
    }
    if fifo.read(&mut [0; 1])? == 0 {
        return Ok(false);
    }
    fs::remove_file(&path)?;
    Ok(true)
}

/// Whether something comes before it is time to look at other things.
fn has_something(fifo: &File) -> io::Result<bool> {
    let mut waiting = [PollFd::new(fifo, PollFlags::IN)];
    match poll(&mut waiting, Some(&LOOK_INTERVAL)) {
        Err(rustix::io::Errno::INTR) => Ok(false),
        other => other.map(|count| count > 0).map_err(io::Error::from),
    }
}

/// Forgets a container whose first process is dead, and with it, as pid 1, all others. Its cgroups lie in that of
/// the attempt, which the agent removes when it has seen that nobody is left in it.
fn delete(state: &Path) -> io::Result<bool> {
    let Some(first) = FirstProcess::of(state) else { return Ok(false) };
    if !first.has_ended()? {
        return Ok(false);
    }
    fs::remove_dir_all(state)?;
    Ok(true)
}
