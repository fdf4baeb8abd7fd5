//! The attempt's private directories, from the agent's side: making them before the task exists and deleting
//! them when nothing of it is left. All of them lie below a directory that only root can enter, and what is
//! made inside them is made relative to open descriptors that follow no symbolic link. Nothing is ever
//! deleted below a mount.

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FlockOperation, Gid, Mode, OFlags, ResolveFlags, Uid};

use super::remove::remove_tree;
use super::work::{Pin, ScratchDir, StageError};
use crate::attempt_dir::AttemptDir;
use crate::runtime::Identity;
use crate::storage::mount;
use crate::storage::mountinfo::mounted_below;

/// How long [`release`] waits for a killed staging child to be gone.
const LOCK_DEADLINE: Duration = Duration::from_secs(30);

/// Between two looks at the lock, which has no wait with a deadline.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// The file that staging children hold locked.
pub(super) fn lock_file(dir: &AttemptDir) -> PathBuf {
    dir.private().join("stage.lock")
}

/// Makes the directories and returns the pins that are not attached yet.
pub(super) fn prepare(
    dir: &AttemptDir,
    identity: Identity,
    directories: &[ScratchDir],
    pins: Vec<Pin>,
) -> Result<Vec<Pin>, StageError> {
    let failed = |error: io::Error| StageError::Node(format!("make private directories: {error}"));
    for own in [dir.scratch(), dir.private(), dir.logs()] {
        make_own(&own).map_err(failed)?;
    }
    make_scratch(&dir.scratch(), identity, directories).map_err(failed)?;
    if pins.is_empty() {
        return Ok(pins);
    }
    make_own(&dir.binds()).map_err(failed)?;
    let binds = dir.binds().canonicalize().map_err(failed)?;
    let attached = mounted_below(&binds).map_err(failed)?;
    for pin in &pins {
        make_own(&pin.at).map_err(failed)?;
    }
    let is_attached = |pin: &Pin| pin.at.file_name().is_some_and(|name| attached.contains(&binds.join(name)));
    Ok(pins.into_iter().filter(|pin| !is_attached(pin)).collect())
}

/// A directory of root's own.
fn make_own(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Directories for the task's user. The task does not exist yet, so all that can be there is what an
/// interrupted earlier call made.
fn make_scratch(root: &Path, identity: Identity, directories: &[ScratchDir]) -> io::Result<()> {
    let root = open_directory(CWD, root, ResolveFlags::empty())?;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let owner = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    for directory in directories {
        let parent = directory.relative.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = open_directory(&root, parent.unwrap_or(Path::new(".")), inside)?;
        let name = directory.relative.file_name().ok_or(ErrorKind::InvalidInput)?;
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let made = File::from(rustix::fs::openat2(
            &parent,
            name,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            inside,
        )?);
        rustix::fs::fchown(&made, Some(owner.0), Some(owner.1))?;
        let mode = if directory.open_to_all { 0o1777 } else { 0o755 };
        rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

fn open_directory(at: impl std::os::fd::AsFd, path: &Path, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(at, path, flags, Mode::empty(), resolve)?)
}

/// Undoes all that staging made, except what it put in place.
pub(super) fn release(dir: &AttemptDir) -> Result<(), StageError> {
    let failed = |error: io::Error| StageError::Node(format!("clean up {}: {error}", dir.path().display()));
    let root = match dir.path().canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    let _lock = wait_for_children(&lock_file(dir)).map_err(failed)?;
    let binds = root.join("binds");
    let mut mounted = mounted_below(&root).map_err(failed)?;
    if !mounted.is_empty() {
        for pinned in mounted.iter().filter(|at| at.starts_with(&binds)).rev() {
            mount::detach(pinned).map_err(failed)?;
        }
        mounted = mounted_below(&root).map_err(failed)?;
    }
    // The check that keeps shared storage from being deleted through a mount that is still there.
    if let Some(mounted) = mounted.first() {
        return Err(StageError::Node(format!("clean up: {} is still mounted", mounted.display())));
    }
    remove_mount_points(&binds).map_err(failed)?;
    for own in [dir.scratch(), dir.private()] {
        remove_tree(&own).map_err(failed)?;
    }
    Ok(())
}

/// Waits until no staging child of this attempt lives, and keeps new ones out.
fn wait_for_children(lock: &Path) -> io::Result<Option<File>> {
    let file = match File::open(lock) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let start = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) if start.elapsed() < LOCK_DEADLINE => {
                std::thread::sleep(LOCK_INTERVAL);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(io::Error::new(ErrorKind::TimedOut, "a staging process does not end"));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Mount points are empty once nothing is mounted on them. Not recursive, so that nothing else can go.
fn remove_mount_points(binds: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(binds) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        gone_is_fine(std::fs::remove_dir(entry?.path()))?;
    }
    gone_is_fine(std::fs::remove_dir(binds))
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::assignment::AttemptId;

    fn attempt(data: &Path) -> AttemptDir {
        let dir = AttemptDir::new(data, an_attempt());
        std::fs::create_dir_all(dir.path()).unwrap();
        dir
    }

    fn scratch_dir(relative: &str) -> ScratchDir {
        ScratchDir { relative: relative.into(), open_to_all: false }
    }

    fn own_identity() -> Identity {
        Identity { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() }
    }

    #[test]
    fn makes_and_deletes_twice() {
        let data = tempfile::tempdir().unwrap();
        let dir = attempt(data.path());
        std::fs::create_dir(dir.logs()).unwrap();
        let wanted = [scratch_dir("0"), scratch_dir("0/a"), scratch_dir("0/a/b")];
        for _ in 0..2 {
            prepare(&dir, own_identity(), &wanted, Vec::new()).unwrap();
        }
        let made = std::fs::metadata(dir.scratch().join("0/a/b")).unwrap();
        assert_eq!((made.mode() & 0o7777, made.uid()), (0o755, own_identity().uid));
        std::fs::write(dir.scratch().join("0/a/file"), "x").unwrap();
        for _ in 0..2 {
            release(&dir).unwrap();
        }
        assert!(dir.logs().is_dir() && !dir.scratch().exists() && !dir.binds().exists());
        release(&AttemptDir::new(Path::new("/nonexistent"), an_attempt())).unwrap();
    }

    fn an_attempt() -> AttemptId {
        AttemptId { task: teamster_values::TaskId::from_bytes([7; 16]), attempt: 1 }
    }

    #[test]
    fn no_link_is_followed_when_making() {
        let data = tempfile::tempdir().unwrap();
        let dir = attempt(data.path());
        prepare(&dir, own_identity(), &[scratch_dir("0")], Vec::new()).unwrap();
        std::os::unix::fs::symlink(data.path(), dir.scratch().join("0/a")).unwrap();
        let refused = prepare(&dir, own_identity(), &[scratch_dir("0/a/b")], Vec::new());
        assert!(matches!(refused, Err(StageError::Node(_))));
        assert!(!data.path().join("b").exists());
    }

    #[test]
    fn a_mount_point_that_holds_something_is_not_deleted() {
        let data = tempfile::tempdir().unwrap();
        let dir = attempt(data.path());
        prepare(&dir, own_identity(), &[], Vec::new()).unwrap();
        let precious = dir.binds().join("0/precious");
        std::fs::create_dir_all(dir.binds().join("0")).unwrap();
        std::fs::write(&precious, "x").unwrap();
        assert!(release(&dir).is_err());
        assert!(precious.exists());
    }
}
