//! A file system that is soon full, for tests.

use std::path::PathBuf;
use std::process::Command;

/// A file system of its own, unmounted at the end.
pub(crate) struct SmallDisk(pub(crate) PathBuf);

impl SmallDisk {
    /// Mounts a tmpfs at `path`; none, and a loud word, where this process may not.
    pub(crate) fn mount(path: PathBuf, options: &str) -> Option<Self> {
        std::fs::create_dir_all(&path).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(path)),
            other => {
                eprintln!("SKIPPED: cannot mount a tmpfs (root is needed): {other:?}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        assert!(std::thread::panicking() || unmounted.unwrap().success(), "unmount {}", self.0.display());
    }
}
