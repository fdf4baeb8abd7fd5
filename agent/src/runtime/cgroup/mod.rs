//! The cgroup of an attempt: `/teamster/<task>-<attempt>` in every hierarchy, with the limits, and below it
//! a child per executor that runc makes. Always an absolute path, so that nothing which ends the agent or
//! its pod ends a task. Everything here blocks for a short time and belongs on a thread that may.

mod end;
mod hierarchy;
mod usage;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(super) use self::end::{is_empty, members, release};
use self::hierarchy::{Hierarchies, Hierarchy, Version};
pub(super) use self::usage::usage;
use super::ContainerId;
use crate::assignment::{AttemptId, Resources};
use crate::config::OciRuntime;

/// The period over which the CPU quota is counted, in microseconds: the kernel's default.
pub(super) const CPU_PERIOD_MICROS: u64 = 100_000;

/// The least quota that the kernel takes, in microseconds.
const CPU_QUOTA_MICROS_MIN: u64 = 1_000;

/// The controllers that limits need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// What each controller is for, in the words of one who has to do without.
const WITHOUT: [(&str, &str); 4] = [
    ("cpu", "no task can be started"),
    ("memory", "no task can be started"),
    ("pids", "no task can be started"),
    ("io", "what tasks read and write is not counted"),
];

/// Why a cgroup could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CgroupError {
    /// The mount table cannot be read.
    #[error("read the mount table: {0}")]
    MountTable(String),
    /// The kernel or its mounts lack a controller without which nothing may run.
    #[error("find the cgroup controller '{0}': this machine does not offer it")]
    NoController(&'static str),
    /// A file or directory of the hierarchy.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// Processes that do not end, for example because they hang in a dead file system.
    #[error("end the processes {0:?}: they were killed and are still there")]
    StillAlive(Vec<i32>),
}

/// Makes the attempt's cgroup and sets its limits; sets them again if it exists.
pub(super) fn prepare(id: AttemptId, limits: &Resources) -> Result<(), CgroupError> {
    let hierarchies = Hierarchies::detect()?;
    for controller in CONTROLLERS {
        let place = hierarchies.of_controller(controller).ok_or(CgroupError::NoController(controller))?;
        let directory = place.attempt(id);
        fs::create_dir_all(&directory).map_err(|source| CgroupError::Io {
            action: "make",
            path: directory.clone(),
            source,
        })?;
        if place.version == Version::Two {
            // From the root down: a cgroup offers what its parent passes on.
            for level in [&place.mount, &place.top(), &directory] {
                write(&level.join("cgroup.subtree_control"), &format!("+{controller}"))
                    .map_err(|_| CgroupError::NoController(controller))?;
            }
        }
        match controller {
            "cpu" => limit_cpu(place, &directory, limits.cpu_milli)?,
            "memory" => limit_memory(place, &directory, limits.memory_bytes)?,
            _ => {}
        }
    }
    count_io(&hierarchies, id);
    Ok(())
}

/// Version 2 counts bytes only where it is asked to. Nothing depends on it.
fn count_io(hierarchies: &Hierarchies, id: AttemptId) {
    for place in hierarchies.iter().filter(|place| place.version == Version::Two) {
        for level in [&place.mount, &place.top(), &place.attempt(id)] {
            let _ = fs::write(level.join("cgroup.subtree_control"), "+io");
        }
    }
}

/// Caps the processes and threads of the whole attempt.
pub(super) fn limit_pids(id: AttemptId, pids_max: u64) -> Result<(), CgroupError> {
    let hierarchies = Hierarchies::detect()?;
    let place = hierarchies.of_controller("pids").ok_or(CgroupError::NoController("pids"))?;
    write(&place.attempt(id).join("pids.max"), &pids_max.to_string())
}

/// The container's cgroup, as runc takes it.
pub(super) fn container_path(id: ContainerId) -> PathBuf {
    hierarchy::container_path(id)
}

/// Whether version 2 is all that this machine has; a container may then be shown its own part.
pub(super) fn is_unified() -> bool {
    Hierarchies::detect().is_ok_and(|hierarchies| hierarchies.is_unified())
}

/// `v1`, `v2` or `hybrid`; none where there are no cgroups.
pub(super) fn layout() -> Option<&'static str> {
    Hierarchies::detect().ok()?.layout()
}

/// Why the chosen program cannot make containers here.
#[derive(Debug, thiserror::Error)]
#[error(
    "use crun: it does not work where both versions of cgroups are mounted, as here; set runtime = \"runc\", or \
     boot this machine with cgroup version 2 alone"
)]
pub struct OciRuntimeUnusable;

/// Whether the program can work with the cgroups of this machine. Whether it is there only containerd knows.
pub fn check_oci_runtime(runtime: OciRuntime) -> Result<(), OciRuntimeUnusable> {
    if runtime == OciRuntime::Crun && layout() == Some("hybrid") { Err(OciRuntimeUnusable) } else { Ok(()) }
}

/// What is missing here that tasks could need, and what follows from it.
pub(super) fn lacks() -> Vec<String> {
    let hierarchies = match Hierarchies::detect() {
        Ok(hierarchies) => hierarchies,
        Err(error) => return vec![format!("cgroups: failed to {error}")],
    };
    let unified = hierarchies.iter().find(|hierarchy| hierarchy.version == Version::Two);
    let controllers =
        unified.and_then(|place| fs::read_to_string(place.mount.join("cgroup.controllers")).ok());
    let controllers = controllers.unwrap_or_default();
    WITHOUT
        .iter()
        .filter(|(controller, _)| !hierarchies.offers(controller, &controllers))
        .map(|(controller, so)| format!("cgroup controller {controller} ({so})"))
        .collect()
}

/// The CPU quota for this many thousandths of a CPU, in microseconds per [`CPU_PERIOD_MICROS`].
pub(super) fn cpu_quota_micros(cpu_milli: u64) -> u64 {
    (cpu_milli.saturating_mul(CPU_PERIOD_MICROS) / 1000).max(CPU_QUOTA_MICROS_MIN)
}

/// Whether the kernel killed something in this container for memory. Must be asked before the container's
/// task is deleted; a cgroup that is gone says no.
pub(super) fn has_oom_kill(id: ContainerId) -> bool {
    let Ok(hierarchies) = Hierarchies::detect() else { return false };
    let Some(place) = hierarchies.of_controller("memory") else { return false };
    let file = match place.version {
        Version::One => "memory.oom_control",
        Version::Two => "memory.events",
    };
    fs::read_to_string(place.container(id).join(file)).is_ok_and(|text| oom_kills(&text) > 0)
}

/// Reads the count out of either file: both have it in a line of its own.
fn oom_kills(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

fn limit_cpu(place: &Hierarchy, directory: &Path, cpu_milli: u64) -> Result<(), CgroupError> {
    let quota = cpu_quota_micros(cpu_milli);
    match place.version {
        Version::One => {
            write(&directory.join("cpu.cfs_period_us"), &CPU_PERIOD_MICROS.to_string())?;
            write(&directory.join("cpu.cfs_quota_us"), &quota.to_string())
        }
        Version::Two => write(&directory.join("cpu.max"), &format!("{quota} {CPU_PERIOD_MICROS}")),
    }
}

fn limit_memory(place: &Hierarchy, directory: &Path, bytes: u64) -> Result<(), CgroupError> {
    let bytes = bytes.to_string();
    match place.version {
        Version::One => {
            let (memory, both) =
                (directory.join("memory.limit_in_bytes"), directory.join("memory.memsw.limit_in_bytes"));
            if !both.exists() {
                return write(&memory, &bytes);
            }
            // Memory alone may never exceed memory and swap together, so which goes first depends on
            // whether the limit rises or falls.
            if write(&memory, &bytes).is_err() {
                write(&both, &bytes)?;
                write(&memory, &bytes)?;
            }
            write(&both, &bytes)
        }
        Version::Two => {
            write(&directory.join("memory.max"), &bytes)?;
            let swap = directory.join("memory.swap.max");
            // Absent where the kernel has no swap at all.
            if swap.exists() { write(&swap, "0") } else { Ok(()) }
        }
    }
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(path, value).map_err(|source| CgroupError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_count_of_both_versions() {
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(oom_kills("oom_kill_disable 1\nunder_oom 0\n"), 0);
    }

    #[test]
    fn cpu_quota_is_exact_and_never_too_small() {
        assert_eq!(cpu_quota_micros(1500), 150_000);
        assert_eq!(cpu_quota_micros(1), CPU_QUOTA_MICROS_MIN);
    }
}
