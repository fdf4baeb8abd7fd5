//! Where the cgroup hierarchies of this machine are mounted, and where an attempt has its place in them.
//! Three layouts exist: version 2 alone, version 1 with one hierarchy per controller, and both side by side
//! with the controllers in version 1. Pure but for `detect`, which reads the mount table.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use procfs::process::{MountInfo, Process};

use super::{CONTROLLERS, CgroupError};
use crate::assignment::AttemptId;
use crate::runtime::ContainerId;

/// The one directory in each hierarchy under which everything of ours lies.
const TOP: &str = "teamster";

/// The two versions of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) mount: PathBuf,
    pub(super) version: Version,
    /// Version 1 only: what its mount options name, controllers among them, in order.
    options: Vec<String>,
}

/// All hierarchies of the machine, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchies(Vec<Hierarchy>);

impl Hierarchies {
    /// Those of this machine. They are mounted when it starts and stay, so once all that tasks need is there
    /// the mount table, which grows with every container, is not read again.
    pub(super) fn detect() -> Result<Arc<Self>, CgroupError> {
        static FOUND: OnceLock<Arc<Hierarchies>> = OnceLock::new();
        if let Some(found) = FOUND.get() {
            return Ok(Arc::clone(found));
        }
        let found = Arc::new(Self::read()?);
        if CONTROLLERS.iter().all(|controller| found.of_controller(controller).is_some()) {
            let _ = FOUND.set(Arc::clone(&found));
        }
        Ok(found)
    }

    /// Reads this process's mount table.
    fn read() -> Result<Self, CgroupError> {
        let mounts = Process::myself()
            .and_then(|process| process.mountinfo())
            .map_err(|error| CgroupError::MountTable(error.to_string()))?;
        Ok(Self::from_mounts(mounts.iter()))
    }

    /// A hierarchy that is mounted several times counts once. One whose root is not shown is of no use: our
    /// paths are absolute.
    pub(super) fn from_mounts<'a>(mounts: impl Iterator<Item = &'a MountInfo>) -> Self {
        let mut found: Vec<Hierarchy> = Vec::new();
        for mount in mounts.filter(|mount| mount.root == "/") {
            let version = match mount.fs_type.as_str() {
                "cgroup" => Version::One,
                "cgroup2" => Version::Two,
                _ => continue,
            };
            let mut options: Vec<String> = Vec::new();
            if version == Version::One {
                options = mount.super_options.keys().filter(|key| !is_flag(key)).cloned().collect();
                options.sort_unstable();
            }
            let is_new = !found.iter().any(|other| other.version == version && other.options == options);
            if is_new {
                found.push(Hierarchy { mount: mount.mount_point.clone(), version, options });
            }
        }
        Self(found)
    }

    /// Where limits of this kind are set: version 1 where it has the controller, else version 2.
    pub(super) fn of_controller(&self, controller: &str) -> Option<&Hierarchy> {
        let has = |hierarchy: &&Hierarchy| hierarchy.options.iter().any(|option| option == controller);
        self.0.iter().find(has).or_else(|| self.0.iter().find(|hierarchy| hierarchy.version == Version::Two))
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Hierarchy> {
        self.0.iter()
    }

    /// How the machine is set up, in the words that people use; none where there are no cgroups.
    pub(super) fn layout(&self) -> Option<&'static str> {
        let has = |version| self.0.iter().any(|hierarchy| hierarchy.version == version);
        match (has(Version::One), has(Version::Two)) {
            (true, true) => Some("hybrid"),
            (true, false) => Some("v1"),
            (false, true) => Some("v2"),
            (false, false) => None,
        }
    }

    /// Whether a controller can be used: `controllers` is what version 2 has at its root, and version 1
    /// may have given it another name.
    pub(super) fn offers(&self, controller: &str, controllers: &str) -> bool {
        let old_name = if controller == "io" { "blkio" } else { controller };
        self.0.iter().any(|hierarchy| hierarchy.options.iter().any(|option| option == old_name))
            || controllers.split_whitespace().any(|name| name == controller)
    }

    /// Whether version 2 is all there is.
    pub(super) fn is_unified(&self) -> bool {
        self.0.iter().all(|hierarchy| hierarchy.version == Version::Two)
    }
}

impl Hierarchy {
    /// The directory above all attempts.
    pub(super) fn top(&self) -> PathBuf {
        self.mount.join(TOP)
    }

    /// The attempt's directory.
    pub(super) fn attempt(&self, id: AttemptId) -> PathBuf {
        self.top().join(id.to_string())
    }

    /// The container's directory.
    pub(super) fn container(&self, id: ContainerId) -> PathBuf {
        self.attempt(id.attempt).join(id.executor.to_string())
    }
}

/// The container's place in every hierarchy, as runc takes it.
pub(super) fn container_path(id: ContainerId) -> PathBuf {
    Path::new("/").join(TOP).join(id.attempt.to_string()).join(id.executor.to_string())
}

/// Mount options that say nothing about which hierarchy it is.
fn is_flag(option: &str) -> bool {
    matches!(option, "rw" | "ro" | "xattr" | "clone_children" | "noprefix" | "release_agent")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(table: &str) -> Hierarchies {
        let mounts: Vec<MountInfo> =
            table.lines().map(|line| MountInfo::from_line(line.trim()).unwrap()).collect();
        Hierarchies::from_mounts(mounts.iter())
    }

    #[test]
    fn hybrid_takes_limits_to_version_one() {
        let found = parse(
            "30 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
             31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
             32 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
             33 25 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
             34 25 0:28 / /elsewhere/memory rw - cgroup cgroup rw,memory
             35 25 0:28 /kubepods /shown/memory rw - cgroup cgroup rw,memory",
        );
        assert_eq!(found.iter().count(), 4);
        let mount = |controller| found.of_controller(controller).unwrap().mount.to_str().unwrap();
        assert_eq!(mount("memory"), "/sys/fs/cgroup/memory");
        assert_eq!(mount("cpu"), "/sys/fs/cgroup/cpu,cpuacct");
        assert_eq!(mount("pids"), "/sys/fs/cgroup/unified", "what version 1 lacks may be in version 2");
        assert!(!found.is_unified());
        assert_eq!(found.layout(), Some("hybrid"));
        let offered = ["cpu", "memory", "pids", "io"].map(|controller| found.offers(controller, "pids"));
        assert_eq!(offered, [true, true, true, false]);
    }

    #[test]
    fn version_two_alone_has_it_all() {
        let found = parse("30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate");
        assert!(found.is_unified());
        assert_eq!(found.of_controller("memory").unwrap().version, Version::Two);
        assert_eq!(found.layout(), Some("v2"));
        assert!(found.offers("io", "cpu io\n") && !found.offers("pids", "cpu io\n"));
    }

    #[test]
    fn version_one_has_its_own_name_for_disks() {
        let found = parse("30 25 0:26 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio");
        assert_eq!(found.layout(), Some("v1"));
        assert!(found.offers("io", ""));
        assert_eq!(parse("").layout(), None);
    }
}
