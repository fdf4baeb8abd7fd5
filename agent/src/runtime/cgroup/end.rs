//! The end of an attempt's cgroup: every process in it is killed, it is seen to be empty, and its
//! directories go, in every hierarchy, those that runc made for itself among them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::hierarchy::Hierarchies;
use super::{CgroupError, write};
use crate::assignment::AttemptId;

/// How long killed processes may take to be gone.
const DEADLINE: Duration = Duration::from_secs(30);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Kills everything in the attempt's cgroup and removes it. One that is gone is fine.
pub(in crate::runtime) fn release(id: AttemptId) -> Result<(), CgroupError> {
    let hierarchies = Hierarchies::detect()?;
    let places = hierarchies.iter().map(|place| place.attempt(id));
    // The kernel removes only what is empty, and mostly all of them are by now.
    let places: Vec<PathBuf> = places.filter(|place| !is_removed(place)).collect();
    if places.is_empty() {
        return Ok(());
    }
    kill(&places)?;
    let deadline = Instant::now() + DEADLINE;
    places.iter().try_for_each(|place| remove(place, deadline))
}

/// Every process in the attempt's cgroup; none if there is no such cgroup.
pub(in crate::runtime) fn members(id: AttemptId) -> Vec<i32> {
    let Ok(hierarchies) = Hierarchies::detect() else { return Vec::new() };
    let all: BTreeSet<i32> = hierarchies.iter().flat_map(|place| processes(&place.attempt(id))).collect();
    all.into_iter().collect()
}

/// Whether the directory went at once, with those of containers in it, which are named after their executors.
fn is_removed(place: &Path) -> bool {
    let went = |place: &Path| match fs::remove_dir(place) {
        Ok(()) => Some(true),
        Err(error) => (error.kind() == ErrorKind::NotFound).then_some(false),
    };
    let containers = (0_u32..).map(|executor| went(&place.join(executor.to_string())));
    containers.take_while(|went| *went != Some(false)).all(|went| went.is_some()) && went(place).is_some()
}

/// Whether no process is left in the attempt's cgroup. Every process is somewhere in each hierarchy, and those of a
/// container begin in its place in all of them, which only root can change; so one hierarchy tells, and it is the
/// one that counts processes.
pub(in crate::runtime) fn is_empty(id: AttemptId) -> Result<bool, CgroupError> {
    let hierarchies = Hierarchies::detect()?;
    let place = hierarchies.of_controller("pids").ok_or(CgroupError::NoController("pids"))?;
    Ok(processes(&place.attempt(id)).is_empty())
}

fn kill(places: &[PathBuf]) -> Result<(), CgroupError> {
    for place in places {
        // Nothing can fork any more; where there is no such file, another hierarchy has it.
        let _ = write_if_there(&place.join("pids.max"), "0");
        let _ = write_if_there(&place.join("cgroup.kill"), "1");
    }
    let deadline = Instant::now() + DEADLINE;
    loop {
        let alive: BTreeSet<i32> = places.iter().flat_map(|place| processes(place)).collect();
        if alive.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(CgroupError::StillAlive(alive.into_iter().collect()));
        }
        for pid in alive {
            kill_member(pid, places);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Kills `pid` if it is still the process that the cgroup lists: between the look and the kill the number
/// may have passed to a stranger, so the handle comes first and the second look after it.
fn kill_member(pid: i32, places: &[PathBuf]) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    if places.iter().any(|place| processes(place).contains(&pid.as_raw_nonzero().get())) {
        // It may have ended by now, which is as good.
        let _ = pidfd_send_signal(&handle, Signal::KILL);
    }
}

/// Every process in the directory and below. A directory that is gone has none.
fn processes(directory: &Path) -> Vec<i32> {
    let mut found: Vec<i32> = fs::read_to_string(directory.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    found.extend(children(directory).iter().flat_map(|child| processes(child)));
    found
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes a directory and those below it, waiting while the kernel still calls one busy.
fn remove(directory: &Path, deadline: Instant) -> Result<(), CgroupError> {
    for child in children(directory) {
        remove(&child, deadline)?;
    }
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if is_busy(&error) && Instant::now() < deadline => std::thread::sleep(PAUSE),
            Err(source) => {
                return Err(CgroupError::Io { action: "remove", path: directory.to_owned(), source });
            }
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::BUSY)
}

fn write_if_there(path: &Path, value: &str) -> Result<(), CgroupError> {
    if path.exists() { write(path, value) } else { Ok(()) }
}
