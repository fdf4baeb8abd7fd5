//! What this node has: CPUs, memory, disk, less what is reserved. Measured once at start. It never counts
//! what tasks use at the moment: that is the coordinator's book-keeping.

use std::fs;
use std::path::Path;

use procfs::Current;

use crate::assignment::Resources;
use crate::config::Config;

/// Why it could not be measured. The texts fit after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum CapacityError {
    /// procfs does not say.
    #[error("read {what} from /proc: {source}; set it in [capacity]")]
    Proc {
        /// What was looked for.
        what: &'static str,
        /// Why not.
        source: procfs::ProcError,
    },
    /// The file system of the data directory does not say.
    #[error("measure the disk of the data directory: {0}; set `disk` in [capacity]")]
    Disk(std::io::Error),
    /// More is reserved than there is.
    #[error(
        "offer anything: {what} is {measured}, of which [reserve] keeps {reserved}; lower it, or set [capacity]"
    )]
    NothingLeft {
        /// Which resource.
        what: &'static str,
        /// How much there is.
        measured: u64,
        /// How much of it is reserved.
        reserved: u64,
    },
}

/// What the node offers: `[capacity]` where it is set, else what is measured less `[reserve]`.
pub fn measure(config: &Config) -> Result<Resources, CapacityError> {
    let wanted = &config.capacity;
    let cpu_milli = match wanted.cpus {
        Some(cpus) => milli(cpus),
        None => less("cpu_milli", cpu_milli()?, milli(config.reserve.cpus))?,
    };
    let memory_bytes = match wanted.memory {
        Some(memory) => memory.0,
        None => less("memory_bytes", memory_bytes()?, config.reserve.memory.0)?,
    };
    let disk_bytes = match wanted.disk {
        Some(disk) => disk.0,
        None => less("disk_bytes", disk_bytes(&config.data_dir)?, config.reserve.disk.0)?,
    };
    Ok(Resources { cpu_milli, memory_bytes, disk_bytes })
}

fn less(what: &'static str, measured: u64, reserved: u64) -> Result<u64, CapacityError> {
    match measured.checked_sub(reserved) {
        Some(left) if left > 0 => Ok(left),
        _ => Err(CapacityError::NothingLeft { what, measured, reserved }),
    }
}

fn milli(cpus: f64) -> u64 {
    (cpus * 1000.0) as u64
}

fn cpu_milli() -> Result<u64, CapacityError> {
    let online = procfs::CpuInfo::current()
        .map_err(|source| CapacityError::Proc { what: "the CPUs", source })?
        .num_cores() as u64;
    let allowed = rustix::thread::sched_getaffinity(None).map_or(u64::MAX, |set| u64::from(set.count()));
    let quota = cgroup_cpu_milli(Path::new("/sys/fs/cgroup")).unwrap_or(u64::MAX);
    Ok((online.min(allowed) * 1000).min(quota))
}

fn memory_bytes() -> Result<u64, CapacityError> {
    let total = procfs::Meminfo::current()
        .map_err(|source| CapacityError::Proc { what: "the memory", source })?
        .mem_total;
    Ok(total.min(cgroup_memory_bytes(Path::new("/sys/fs/cgroup")).unwrap_or(u64::MAX)))
}

/// The space that is free now: what others have on this disk is not ours to offer.
fn disk_bytes(data_dir: &Path) -> Result<u64, CapacityError> {
    let stat = rustix::fs::statvfs(data_dir).map_err(|error| CapacityError::Disk(error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The quota of the topmost cgroup that can be seen. On a whole machine it has none; inside a container
/// that is used as a machine it is what the tasks' own cgroups, which lie below it, can have together.
fn cgroup_cpu_milli(root: &Path) -> Option<u64> {
    let (quota, period) = match fs::read_to_string(root.join("cpu.max")) {
        Ok(text) => {
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?)
        }
        Err(_) => {
            let read = |name: &str| fs::read_to_string(root.join("cpu").join(name)).ok();
            let quota = read("cpu.cfs_quota_us")?.trim().parse::<u64>().ok()?;
            (quota, read("cpu.cfs_period_us")?.trim().parse::<u64>().ok()?)
        }
    };
    quota.checked_mul(1000)?.checked_div(period)
}

fn cgroup_memory_bytes(root: &Path) -> Option<u64> {
    ["memory.max", "memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|name| fs::read_to_string(root.join(name)).ok())?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CapacityOverride, Reserve};
    use teamster_values::ByteCount;

    fn config(capacity: CapacityOverride, reserve: Reserve) -> Config {
        Config { data_dir: "/".into(), capacity, reserve, ..Config::default() }
    }

    #[test]
    fn measures_this_machine_and_keeps_the_reserve() {
        let none = Reserve { cpus: 0.0, memory: ByteCount(0), disk: ByteCount(0) };
        let all = measure(&config(CapacityOverride::default(), none.clone())).unwrap();
        assert!(all.cpu_milli >= 1 && all.memory_bytes > 1 << 20);
        let kept = Reserve { memory: ByteCount(1 << 20), ..none.clone() };
        let rest = measure(&config(CapacityOverride::default(), kept)).unwrap();
        assert_eq!(rest.memory_bytes, all.memory_bytes - (1 << 20));
        let greedy = Reserve { memory: ByteCount(u64::MAX), ..none };
        let text = measure(&config(CapacityOverride::default(), greedy)).unwrap_err().to_string();
        assert!(text.contains("[reserve]"), "{text}");
    }

    #[test]
    fn what_is_configured_is_offered_as_it_is() {
        let capacity =
            CapacityOverride { cpus: Some(2.5), memory: Some(ByteCount(5)), disk: Some(ByteCount(6)) };
        let offered = measure(&config(capacity, Reserve::default())).unwrap();
        assert_eq!(offered, Resources { cpu_milli: 2500, memory_bytes: 5, disk_bytes: 6 });
    }

    #[test]
    fn reads_both_kinds_of_cgroup() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path();
        assert_eq!((cgroup_cpu_milli(path), cgroup_memory_bytes(path)), (None, None));
        fs::create_dir(path.join("cpu")).unwrap();
        fs::create_dir(path.join("memory")).unwrap();
        fs::write(path.join("cpu/cpu.cfs_period_us"), "100000\n").unwrap();
        fs::write(path.join("cpu/cpu.cfs_quota_us"), "-1\n").unwrap();
        assert_eq!(cgroup_cpu_milli(path), None);
        fs::write(path.join("cpu/cpu.cfs_quota_us"), "250000\n").unwrap();
        assert_eq!(cgroup_cpu_milli(path), Some(2500));
        fs::write(path.join("memory/memory.limit_in_bytes"), "4096\n").unwrap();
        assert_eq!(cgroup_memory_bytes(path), Some(4096));
        fs::write(path.join("cpu.max"), "max 100000\n").unwrap();
        fs::write(path.join("memory.max"), "max\n").unwrap();
        assert_eq!((cgroup_cpu_milli(path), cgroup_memory_bytes(path)), (None, None));
        fs::write(path.join("cpu.max"), "50000 100000\n").unwrap();
        assert_eq!(cgroup_cpu_milli(path), Some(500));
    }
}
