//! What tests leave behind whose containerd does not clean up after itself: those that fail, and those that were
//! killed. Everything is found by the directory that it belongs to, and nothing else is touched.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{FlockOperation, flock};

use super::{DEADLINE, PAUSE, attempt_cgroups, processes};

/// Where the directories of tests lie.
pub(super) const PARENT: &str = "/tmp";

/// How their names begin.
pub(super) const PREFIX: &str = "tm";

/// The file that whoever owns a directory holds locked for as long as it lives.
const OWNER: &str = "owner";

/// Where OCI runtimes keep their state, whichever containerd uses them.
const RUNTIME_STATES: [&str; 2] = ["/run/containerd/runc/teamster", "/run/containerd/crun/teamster"];

/// In which file there the bundle stands.
const STATE_FILES: [&str; 2] = ["state.json", "status"];

/// What tests start with paths of their directory among the arguments.
const PROGRAMS: [&str; 4] = ["containerd", "teamster", "runc", "crun"];

/// Says that a directory is this process's.
pub(super) fn claim(home: &Path) -> File {
    let new = home.join("owner.new");
    let file = File::create(&new).expect("a file in a directory of our own");
    // Before it has its name, so that nobody finds it free.
    flock(&file, FlockOperation::NonBlockingLockExclusive).expect("nobody else knows it");
    fs::rename(&new, home.join(OWNER)).expect("rename a file in a directory of our own");
    file
}

/// Clears away what tests left that were killed.
pub(super) fn clear_away() {
    for entry in fs::read_dir(PARENT).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(owner) = File::open(entry.path().join(OWNER)) else { continue };
        if flock(&owner, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let home = entry.path();
            kill_programs(&home);
            clear(&home);
            let _ = fs::remove_dir_all(home);
        }
    }
}

/// Kills what was started with a path of the directory, other than containers.
fn kill_programs(home: &Path) {
    let is_ours = |(_, words): &(i32, Vec<String>)| {
        let program = words.first().and_then(|word| word.rsplit('/').next()).unwrap_or_default();
        PROGRAMS.iter().any(|name| program.starts_with(name))
            && words.iter().any(|word| Path::new(word).starts_with(home))
    };
    for (pid, _) in processes().filter(is_ours) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Ends what runs in the containers of a containerd that is gone, and takes away their shims, mounts, cgroups and
/// what their OCI runtime remembers of them.
pub(super) fn clear(home: &Path) {
    let names = containers(home);
    let deadline = std::time::Instant::now() + DEADLINE;
    loop {
        let shims = shims(home);
        let members = names.iter().flat_map(|name| members(name));
        let alive: Vec<i32> = shims.into_iter().chain(members).collect();
        for pid in &alive {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if alive.is_empty() || std::time::Instant::now() > deadline {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    for mount in mounts(home) {
        let _ = umount2(&mount, MntFlags::MNT_DETACH);
    }
    for name in &names {
        remove_cgroups(name);
    }
    for state in runtime_states(home) {
        let _ = fs::remove_dir_all(state);
    }
}

/// The shims of the containerd in this directory, by process id.
pub(super) fn shims(home: &Path) -> Vec<i32> {
    let socket = home.join("c.sock");
    processes()
        .filter(|(_, arguments)| {
            let is_shim = arguments.first().is_some_and(|name| name.contains("containerd-shim"));
            is_shim && arguments.iter().any(|argument| Path::new(argument) == socket)
        })
        .map(|(pid, _)| pid)
        .collect()
}

/// What is mounted below the directory, innermost first.
pub(super) fn mounts(home: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(1).map(PathBuf::from));
    let mut mounts: Vec<PathBuf> = points.filter(|path| path.starts_with(home)).collect();
    mounts.reverse();
    mounts
}

/// The names of containers that containerd, or what ran them, still knows.
fn containers(home: &Path) -> Vec<String> {
    let bundles = home.join("state/io.containerd.runtime.v2.task/teamster");
    let bundles = fs::read_dir(bundles).into_iter().flatten().flatten().map(|entry| entry.path());
    let paths = bundles.chain(runtime_states(home));
    let mut names: Vec<String> =
        paths.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Directories of OCI runtimes for containers whose bundle lies in this one.
fn runtime_states(home: &Path) -> Vec<PathBuf> {
    let of_us = format!("{}/", home.display());
    let entries = RUNTIME_STATES.iter().flat_map(|state| fs::read_dir(state).into_iter().flatten().flatten());
    let is_ours = |path: &PathBuf| {
        let texts = STATE_FILES.iter().filter_map(|name| fs::read_to_string(path.join(name)).ok());
        texts.into_iter().any(|text| text.contains(&of_us))
    };
    entries.map(|entry| entry.path()).filter(is_ours).collect()
}

/// The cgroups of a container, `<task>-<attempt>-<executor>`: its own, and that of its attempt.
fn cgroups(container: &str) -> Vec<PathBuf> {
    let Some((attempt, executor)) = container.rsplit_once('-') else { return Vec::new() };
    attempt_cgroups(attempt).into_iter().flat_map(|of_all| [of_all.join(executor), of_all]).collect()
}

/// The processes in them.
fn members(container: &str) -> Vec<i32> {
    let lists = cgroups(container).into_iter().map(|cgroup| cgroup.join("cgroup.procs"));
    let texts = lists.filter_map(|list| fs::read_to_string(list).ok());
    texts.flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>()).collect()
}

fn remove_cgroups(container: &str) {
    for cgroup in cgroups(container) {
        let _ = fs::remove_dir(cgroup);
    }
}
