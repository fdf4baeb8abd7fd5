//! Files that processes of a task hold open, or have mapped, after their last name was removed: no walk finds
//! them, and they fill the disk all the same. Whether a file lies on the disk in question is found out from
//! what `/proc` tells as text; only then is it asked for its size, because asking a file on a network file
//! system may hang.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::Stat;

/// What the kernel puts behind the path of a file without a name.
const MARK: &str = " (deleted)";

/// So many descriptors are looked at in all, so that a task cannot keep the watch busy.
const LOOKS_MAX: usize = 200_000;

/// Nameless files of these processes on these devices, some perhaps more than once.
pub(super) fn open_files(processes: &[i32], devices: &HashSet<u64>) -> Vec<Stat> {
    let mut looks = LOOKS_MAX;
    let mut found = Vec::new();
    for pid in processes {
        let process = PathBuf::from(format!("/proc/{pid}"));
        found.extend(descriptors(&process, devices, &mut looks));
        found.extend(mappings(&process, devices, &mut looks));
        if looks == 0 {
            break;
        }
    }
    found
}

fn descriptors(process: &Path, devices: &HashSet<u64>, looks: &mut usize) -> Vec<Stat> {
    let mut found = Vec::new();
    let mut mounts = None;
    // A process that has ended holds nothing.
    let Ok(entries) = fs::read_dir(process.join("fd")) else { return found };
    for entry in entries.flatten() {
        if *looks == 0 {
            break;
        }
        *looks -= 1;
        let is_nameless = fs::read_link(entry.path())
            .is_ok_and(|target| target.as_os_str().as_encoded_bytes().ends_with(MARK.as_bytes()));
        if !is_nameless {
            continue;
        }
        let mounts = mounts.get_or_insert_with(|| mounts_of(process));
        let described = process.join("fdinfo").join(entry.file_name());
        let mount = fs::read_to_string(described).ok().and_then(|text| mount_id(&text));
        if mount.and_then(|id| mounts.get(&id)).is_some_and(|device| devices.contains(device)) {
            found.extend(rustix::fs::stat(entry.path()).ok().filter(|stat| stat.st_nlink == 0));
        }
    }
    found
}

/// Of lines such as `mnt_id: 29`.
fn mount_id(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// Devices of the mounts that the process sees, by the mounts' numbers.
fn mounts_of(process: &Path) -> HashMap<u64, u64> {
    let text = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.split(' ');
        let id = words.next()?.parse().ok()?;
        let (major, minor) = words.nth(1)?.split_once(':')?;
        Some((id, rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?)))
    };
    text.lines().filter_map(line).collect()
}

fn mappings(process: &Path, devices: &HashSet<u64>, looks: &mut usize) -> Vec<Stat> {
    let text = fs::read(process.join("maps")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut found = Vec::new();
    let mut last = None;
    for line in text.lines().filter(|line| line.ends_with(MARK)) {
        let Some((range, device, number)) = mapping(line) else { continue };
        // One file is mapped in many pieces, side by side.
        if !devices.contains(&device) || last.replace((device, number)) == Some((device, number)) {
            continue;
        }
        if *looks == 0 {
            break;
        }
        *looks -= 1;
        let file = process.join("map_files").join(range);
        found.extend(rustix::fs::stat(file).ok().filter(|stat| stat.st_nlink == 0));
    }
    found
}

/// Of lines such as `7f00-7f10 r--p 00000000 fd:01 12345 /tmp/x (deleted)`: the range, the device and the
/// file's number.
fn mapping(line: &str) -> Option<(&str, u64, u64)> {
    let mut words = line.split_ascii_whitespace();
    let range = words.next()?;
    let (major, minor) = words.nth(2)?.split_once(':')?;
    let device =
        rustix::fs::makedev(u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    Some((range, device, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_proc_says() {
        let line = "7f0a1000-7f0a2000 r--p 00000000 fd:01 12345                      /tmp/x (deleted)";
        assert_eq!(mapping(line), Some(("7f0a1000-7f0a2000", rustix::fs::makedev(0xfd, 1), 12345)));
        assert_eq!(mapping("7f0a1000-7f0a2000 rw-p"), None);
        assert_eq!(mount_id("pos:\t0\nflags:\t0100002\nmnt_id:\t29\n"), Some(29));
        let own = mounts_of(Path::new("/proc/self"));
        let root = rustix::fs::stat("/").unwrap().st_dev;
        assert!(own.values().any(|device| *device == root));
    }
}
