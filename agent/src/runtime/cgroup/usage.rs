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
    Some(usage)
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
}
