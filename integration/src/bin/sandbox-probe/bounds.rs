//! How much a task can take of what the kernel counts for the whole machine or for a user. Each probe gives
//! back what it took.

use std::fs::{File, OpenOptions};
use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use crate::raw::call;
use crate::say;

/// More than any bound that is asked for here.
const TRIES: usize = 5000;

pub(crate) fn all() {
    let terminals =
        take(|_| OpenOptions::new().read(true).write(true).open("/dev/ptmx").map(drop_later).ok());
    say("bound-terminals", terminals);
    say("bound-inotify", take(|_| descriptor(call(libc::SYS_inotify_init1, [0]))));
    say("bound-queues", take(queue));
    say("bound-open-files", take_open_files());
    say("bound-locked-memory", locked_memory());
}

/// How often something is given before it is refused.
fn take(mut give: impl FnMut(usize) -> Option<OwnedFd>) -> usize {
    (0..TRIES).map_while(&mut give).collect::<Vec<_>>().len()
}

fn drop_later(file: File) -> OwnedFd {
    file.into()
}

fn queue(number: usize) -> Option<OwnedFd> {
    let name = std::ffi::CString::new(format!("bound-{number}")).expect("no NUL in it");
    let flags = (libc::O_CREAT | libc::O_RDWR) as usize;
    let opened = descriptor(call(libc::SYS_mq_open, [name.as_ptr() as usize, flags, 0o600, 0]));
    // It lives on until its descriptor is closed.
    let _ = call(libc::SYS_mq_unlink, [name.as_ptr() as usize]);
    opened
}

#[allow(unsafe_code, reason = "a number becomes a descriptor that is closed at its end")]
fn descriptor(answer: Result<usize, Errno>) -> Option<OwnedFd> {
    let number = i32::try_from(answer.ok()?).expect("descriptors are small");
    // SAFETY: the kernel has just made it, and nobody else has it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whether open files end somewhere.
fn take_open_files() -> bool {
    let mut limit = [0_u64; 2];
    let address = limit.as_mut_ptr() as usize;
    let asked = call(libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as usize, 0, address]);
    asked.is_ok() && limit[1] <= 1 << 20
}

/// Whether a gigabyte can be locked.
fn locked_memory() -> String {
    let size = 1_usize << 30;
    let (protection, flags) = (libc::PROT_NONE as usize, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize);
    match call(libc::SYS_mmap, [0, size, protection, flags, usize::MAX, 0]) {
        Ok(address) => crate::result(&call(libc::SYS_mlock, [address, size])),
        Err(errno) => format!("{errno:?}"),
    }
}
