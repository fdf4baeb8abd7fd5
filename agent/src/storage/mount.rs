//! The mount calls of the agent, all of them: pinning a directory of shared storage, building the mount tree
//! in which staging runs, and detaching. It decides nothing about *what* is mounted, and it never resolves a
//! path that a task can write: such places come in as open descriptors.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, StatVfsMountFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
    mount_remount, move_mount, open_tree, unmount,
};

/// A detached copy of the one mount at an open directory, rooted at that directory. What is mounted below it
/// is left out on purpose: a copy of a shared mount stays its peer, and detaching the copy with mounts below
/// it would take the originals along.
pub(crate) fn copy_of(directory: impl AsFd) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(directory, "", flags)?)
}

/// A detached copy of everything mounted at and below a path that only the operator can change. Only for a
/// mount namespace that has been [cut off](cut_off), for the reason told at [`copy_of`].
pub(crate) fn copy_of_all(path: &Path) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, path, flags)?)
}

/// Attaches a detached mount at an open directory.
pub(crate) fn attach(tree: impl AsFd, directory: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", directory, "", flags)?)
}

/// Forbids devices, set-user-id and programs on an attached mount; a read-only mount stays read-only. The
/// mount is named by its descriptor, so `/proc` of this process must be there.
pub(crate) fn forbid_devices(tree: impl AsFd) -> io::Result<()> {
    let tree = tree.as_fd();
    let mut flags = MountFlags::BIND | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    if rustix::fs::fstatvfs(tree)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        flags |= MountFlags::RDONLY;
    }
    Ok(mount_remount(format!("/proc/self/fd/{}", tree.as_raw_fd()), flags, c"")?)
}

/// Cuts the own mount namespace off from all others: nothing mounted here shows elsewhere or the reverse.
pub(crate) fn cut_off() -> io::Result<()> {
    Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

/// Mounts a small empty file system, for mount points only, over a directory.
pub(crate) fn cover(directory: &Path) -> io::Result<()> {
    let options = CString::new("mode=0755,size=1m")?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    Ok(mount("teamster-view", directory, "tmpfs", flags, options.as_c_str())?)
}

/// Makes a mount the root directory of this process and lets go of everything else.
pub(crate) fn enter(root: &Path) -> io::Result<()> {
    rustix::process::chdir(root)?;
    // With both arguments the same, the old root lies on top of the new one and is taken away at once, so no
    // directory is needed for it.
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// Takes a mount away, even one that is in use or whose server is silent. None there is fine.
pub(crate) fn detach(path: &Path) -> io::Result<()> {
    match sys_mount::unmount(path, sys_mount::UnmountFlags::DETACH) {
        Err(error) if is_not_mounted(&error) => Ok(()),
        other => other,
    }
}

/// What umount2 says of a path that is no mount point, or is not there.
fn is_not_mounted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::InvalidInput
}
