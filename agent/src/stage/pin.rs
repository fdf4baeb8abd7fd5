//! Pinning: attaching one directory of shared storage below the attempt's root-only `binds/`, so that what a
//! container binds cannot be swapped for something else afterwards. It runs in the outer staging child, in
//! the agent's own mount namespace. The directory is made and opened with the file rights of the task's user,
//! below the root of the storage and never above it; only the mount calls are root's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;

use super::work::{Pin, StageError};
use crate::runtime::Identity;
use crate::storage::mount;

/// Attaches the directory. This process must have one thread and the umask that directories are made with.
pub(super) fn attach(pin: &Pin, identity: Identity) -> Result<(), StageError> {
    let node = |error: io::Error| StageError::Node(format!("{}: pin a directory: {error}", pin.field));
    let storage = open_trusted(pin.storage.as_path()).map_err(node)?;
    let found = with_rights_of(identity, || open(&storage, &pin.relative, pin.create)).map_err(node)?;
    let directory = found.map_err(|error| refusal(pin, error))?;
    let at = open_trusted(&pin.at).map_err(node)?;
    mount::copy_of(&directory).and_then(|tree| mount::attach(tree, at)).map_err(node)
}

/// Opens a directory whose path only the operator or root can change.
fn open_trusted(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Does `work` with the file rights of the task's user: file system uid and gid, no groups. The kernel takes
/// the capabilities that override file rights away meanwhile.
fn with_rights_of<T>(identity: Identity, work: impl FnOnce() -> T) -> io::Result<T> {
    rustix::thread::set_thread_groups(&[])?;
    setfsgid(Gid::from_raw(identity.gid));
    setfsuid(Uid::from_raw(identity.uid));
    // These calls report nothing but the value before; asking again tells whether they worked.
    let took = setfsuid(Uid::from_raw(identity.uid)).as_raw() == identity.uid
        && setfsgid(Gid::from_raw(identity.gid)).as_raw() == identity.gid;
    let result = took.then(work);
    setfsuid(Uid::from_raw(0));
    setfsgid(Gid::from_raw(0));
    result.ok_or_else(|| io::Error::other("the task's user could not be taken on"))
}

/// Opens `relative` below `root`, making it and its parents when they are missing.
fn open(root: impl AsFd, relative: &Path, create: bool) -> rustix::io::Result<OwnedFd> {
    let root = root.as_fd();
    let path = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let (Some(parent), Some(name)) = (relative.parent(), relative.file_name()) else {
        return open_beneath(root, path);
    };
    match open_beneath(root, path) {
        Err(Errno::NOENT) if create => {}
        other => return other,
    }
    let parent = open(root, parent, true)?;
    match mkdirat(&parent, name, Mode::from_raw_mode(0o777)) {
        // Another task may make the same directory at this moment.
        Ok(()) | Err(Errno::EXIST) => open_beneath(root, path),
        Err(error) => Err(error),
    }
}

fn open_beneath(root: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    openat2(
        root,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Says whose fault it is, and what to do about it.
fn refusal(pin: &Pin, error: Errno) -> StageError {
    let path = Path::new(pin.storage.as_str()).join(&pin.relative);
    let reason = match error {
        Errno::XDEV => "it leads out of the storage through a symbolic link".to_owned(),
        Errno::NOENT => "there is no such directory".to_owned(),
        Errno::NOTDIR => "it is not a directory".to_owned(),
        Errno::ACCESS | Errno::PERM => "the task's user may not enter or make it".to_owned(),
        other => io::Error::from(other).to_string(),
    };
    let message = format!("{}: directory {} cannot be used: {reason}", pin.field, path.display());
    if super::copy::is_storage_fault(&io::Error::from(error)) {
        StageError::Node(message)
    } else {
        StageError::Task(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_parents_and_stays_below() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let fd = open_trusted(root.path()).unwrap();
        assert_eq!(open(&fd, Path::new("a/b/c"), false).unwrap_err(), Errno::NOENT);
        open(&fd, Path::new("a/b/c"), true).unwrap();
        open(&fd, Path::new("a/b/c"), true).unwrap();
        open(&fd, Path::new(""), false).unwrap();
        assert!(root.path().join("a/b/c").is_dir());
        std::os::unix::fs::symlink(outside.path(), root.path().join("out")).unwrap();
        std::os::unix::fs::symlink("../..", root.path().join("up")).unwrap();
        std::os::unix::fs::symlink("a/b", root.path().join("in")).unwrap();
        for path in ["out", "out/x", "up", "up/x"] {
            assert_eq!(open(&fd, Path::new(path), true).unwrap_err(), Errno::XDEV, "{path}");
        }
        open(&fd, Path::new("in/d"), true).unwrap();
        assert!(root.path().join("a/b/d").is_dir());
        std::fs::write(root.path().join("file"), "").unwrap();
        assert_eq!(open(&fd, Path::new("file/x"), true).unwrap_err(), Errno::NOTDIR);
    }
}
