//! CPU time of single processes, so that whatever else the machine does is not counted.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// What a process has used that still runs, with what it started and has seen end.
///
/// # Panics
/// When there is no such process.
pub fn of_process(process: u32) -> Duration {
    let pid = i32::try_from(process).expect("process ids are small");
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).expect("the process runs");
    let own = clock_gettime(clock).expect("the process runs");
    let stat =
        procfs::process::Process::new(pid).and_then(|process| process.stat()).expect("the process runs");
    let ticks = stat.cutime.unsigned_abs() + stat.cstime.unsigned_abs();
    Duration::from(own) + Duration::from_millis(ticks * 1000 / procfs::ticks_per_second())
}

/// What all children of this process have used that it has seen end.
pub fn of_ended_children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("a process may ask for its children");
    let micros = [usage.user_time(), usage.system_time()]
        .map(|time| time.tv_sec().unsigned_abs() * 1_000_000 + time.tv_usec().unsigned_abs());
    Duration::from_micros(micros.iter().sum())
}
