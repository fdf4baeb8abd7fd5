//! What a container used, read from its cgroup after its end and before its task is deleted, which removes
//! the cgroup. A figure that the kernel does not keep is left out, never guessed.

use std::fs;
use std::path::Path;

use super::hierarchy::{Hierarchies, Version};
use crate::runtime::{ContainerId, Usage};

/// Ticks per second in `cpuacct.stat`: the kernel's `USER_HZ`, the same on all machines that containerd
/// runs on.
const USER_HZ: u64 = 100;

/// What the container used; none when its cgroup is gone.
pub(in crate::runtime) fn usage(id: ContainerId) -> Option<Usage> {
    let hierarchies = Hierarchies::detect().ok()?;
    let memory = hierarchies.of_controller("memory")?;
    let peak = match memory.version {
        Version::One => "memory.max_usage_in_bytes",
        Version::Two => "memory.peak",
    };
    let mut usage = Usage { peak_memory_bytes: number(&memory.container(id).join(peak)), ..Usage::default() };
    let cpu = hierarchies.of_controller("cpuacct")?;
    let directory = cpu.container(id);
    match cpu.version {
        Version::One => {
            usage.cpu_micros = number(&directory.join("cpuacct.usage"))? / 1000;
            let stat = fs::read_to_string(directory.join("cpuacct.stat")).unwrap_or_default();
            let micros = |key| line(&stat, key).unwrap_or(0) * (1_000_000 / USER_HZ);
            (usage.user_cpu_micros, usage.system_cpu_micros) = (micros("user"), micros("system"));
        }
        Version::Two => {
            let stat = fs::read_to_string(directory.join("cpu.stat")).ok()?;
            usage.cpu_micros = line(&stat, "usage_usec")?;
            usage.user_cpu_micros = line(&stat, "user_usec").unwrap_or(0);
            usage.system_cpu_micros = line(&stat, "system_usec").unwrap_or(0);
        }
    }
    usage.io_bytes = io_bytes(&hierarchies, id);
    usage.refused_processes = refused_processes(&hierarchies, id);
    Some(usage)
}

/// Bytes to and from block devices. What a page cache absorbs, or a network file system carries, is not in it.
fn io_bytes(hierarchies: &Hierarchies, id: ContainerId) -> Option<[u64; 2]> {
    // The two versions have different names for one controller.
    let found = ["blkio", "io"].into_iter().filter_map(|controller| hierarchies.of_controller(controller));
    let place = found.min_by_key(|place| place.version == Version::Two)?;
    let directory = place.container(id);
    match place.version {
        Version::One => fs::read_to_string(directory.join("blkio.throttle.io_service_bytes_recursive"))
            .ok()
            .filter(|text| names_a_device(text))
            .map(|text| ["Read", "Write"].map(|kind| sum_of_devices(&text, kind))),
        Version::Two => fs::read_to_string(directory.join("io.stat"))
            .ok()
            .map(|text| ["rbytes=", "wbytes="].map(|key| sum_of_keys(&text, key))),
    }
}

/// Since Linux 6.10 version 1 counts nothing unless a limit is set, and says `Total 0` then. That is also what
/// a container has which did nothing; nobody can tell the two apart.
fn names_a_device(text: &str) -> bool {
    text.lines().any(|line| line.split(' ').next().is_some_and(|word| word.contains(':')))
}

/// Lines such as `8:0 Read 4096`.
fn sum_of_devices(text: &str, kind: &str) -> u64 {
    let counts = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        words.next().filter(|device| device.contains(':'))?;
        words.next().filter(|word| *word == kind)?;
        words.next()?.parse::<u64>().ok()
    });
    counts.sum()
}

/// Lines such as `8:0 rbytes=4096 wbytes=0 rios=1`.
fn sum_of_keys(text: &str, key: &str) -> u64 {
    text.split_ascii_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
}

/// How often the limit of the attempt was met. Which of the two directories counts it has changed with the
/// kernel's releases: the one that wanted to fork, or the one whose limit it is.
fn refused_processes(hierarchies: &Hierarchies, id: ContainerId) -> u64 {
    let Some(place) = hierarchies.of_controller("pids") else { return 0 };
    let met = |directory: std::path::PathBuf| {
        let text = fs::read_to_string(directory.join("pids.events")).unwrap_or_default();
        line(&text, "max").unwrap_or(0)
    };
    met(place.container(id)).max(met(place.attempt(id.attempt)))
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number behind `key` in a file of lines such as `user_usec 12`.
fn line(text: &str, key: &str) -> Option<u64> {
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    found?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lines_by_their_whole_key() {
        let text = "usage_usec 30\nuser_usec 10\nsystem_usec 20\nnr_periods 0\n";
        assert_eq!(line(text, "user_usec"), Some(10));
        assert_eq!(line(text, "usage_usec"), Some(30));
        assert_eq!(line(text, "user"), None);
        assert_eq!(line("user 3\nsystem 4\n", "system"), Some(4));
    }

    #[test]
    fn adds_up_the_devices_of_both_versions() {
        let one = "8:0 Read 4096\n8:0 Write 1\n8:0 Total 4097\n8:16 Read 4\n8:16 Write 2\nTotal 4103\n";
        assert_eq!(["Read", "Write"].map(|kind| sum_of_devices(one, kind)), [4100, 3]);
        assert!(names_a_device(one) && !names_a_device("Total 0\n"));
        let two = "8:0 rbytes=4096 wbytes=1 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=4 wbytes=2 rios=1\n";
        assert_eq!(["rbytes=", "wbytes="].map(|key| sum_of_keys(two, key)), [4100, 3]);
    }
}
