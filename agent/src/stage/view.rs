//! The inner staging process: builds the task's own mount tree, makes it its root, becomes the task's user
//! without any privilege, and does the work there. From then on a path means what it means to the task, and
//! the kernel allows what it allows the task.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid, mkdirat, openat2};
use rustix::io::Errno;
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::copy::Copier;
use super::work::{Mount, Request, StageError, StagedOut, Work};
use super::{entry, inputs, outputs};
use crate::runtime::Identity;
use crate::storage::mount;

/// Does the work and ends the process.
pub(super) fn serve(request: &Request, work: &Work, kept: Vec<File>, outer: &OwnedFd) -> ! {
    let result = prepare(request, outer).and_then(|()| perform(request, work, kept));
    let code = i32::from(entry::answer(&result).is_err());
    std::process::exit(code)
}

fn prepare(request: &Request, outer: &OwnedFd) -> Result<(), StageError> {
    let failed = |error: io::Error| StageError::Node(format!("enter the task's view: {error}"));
    build(&request.cover, &request.mounts)?;
    mount::enter(&request.cover).map_err(failed)?;
    become_user(request.identity).map_err(failed)?;
    stay_with(outer).map_err(failed)
}

fn perform(request: &Request, work: &Work, kept: Vec<File>) -> Result<StagedOut, StageError> {
    let mut copier = Copier::new(&request.tag);
    match work {
        Work::In { directories, inputs } => {
            inputs::make_directories(directories)?;
            inputs::place(inputs, &mut copier).map(|()| StagedOut::default())
        }
        Work::Streams(streams) => {
            for (stream, file) in streams.iter().zip(kept) {
                outputs::copy_stream(stream, file, &mut copier)?;
            }
            Ok(StagedOut::default())
        }
        Work::Out(wanted) => outputs::put_in_place(wanted, &mut copier),
    }
}

/// Builds the view over `cover`. All sources are taken before anything is covered, because `cover` may hide
/// some of them.
fn build(cover: &Path, mounts: &[Mount]) -> Result<(), StageError> {
    let failed = |what: &dyn std::fmt::Display, error: io::Error| {
        StageError::Node(format!("build the task's view: {what}: {error}"))
    };
    mount::cut_off().map_err(|error| failed(&"/", error))?;
    let mut trees = Vec::with_capacity(mounts.len());
    for mount in mounts {
        let tree = mount::copy_of_all(&mount.source);
        trees.push(tree.map_err(|error| failed(&mount.source.display(), error))?);
    }
    mount::cover(cover).map_err(|error| failed(&cover.display(), error))?;
    let root = rustix::fs::open(cover, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(|error| failed(&cover.display(), error.into()))?;
    for (index, (mount, tree)) in mounts.iter().zip(&trees).enumerate() {
        let nested = mounts[..index].iter().any(|outer| mount.destination.starts_with(&outer.destination));
        let at = mount_point(&root, mount, nested)?;
        mount::attach(tree, at)
            .and_then(|()| mount::forbid_devices(tree))
            .map_err(|error| failed(&mount.destination, error))?;
    }
    Ok(())
}

/// Finds the place of a mount. In the empty root it is made. One that lies inside another mount was made
/// before the task began, and the task may have done anything to it since: no link is followed there and
/// nothing is made.
fn mount_point(root: &OwnedFd, mount: &Mount, nested: bool) -> Result<OwnedFd, StageError> {
    let relative = Path::new(mount.destination.as_str().trim_start_matches('/'));
    if !nested {
        make_in_empty_root(root, relative).map_err(|error| {
            StageError::Node(format!("build the task's view: {}: {error}", mount.destination))
        })?;
    }
    openat2(
        root,
        relative,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
    .map_err(|error| {
        let reason = io::Error::from(error);
        StageError::Task(format!("directory {} was moved or replaced: {reason}", mount.destination))
    })
}

fn make_in_empty_root(root: &OwnedFd, relative: &Path) -> io::Result<()> {
    let mut path = PathBuf::new();
    for component in relative.components() {
        path.push(component);
        match mkdirat(root, &path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Becomes the task's user, for good. Each call acts on one thread, and this process has one.
fn become_user(identity: Identity) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    if uid.is_root() || gid.is_root() {
        return Err(io::Error::other("tasks are never root"));
    }
    rustix::thread::set_no_new_privs(true)?;
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // An older kernel does not know the newest ones.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )?;
    if rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).is_ok() {
        return Err(io::Error::other("the way back to root is open"));
    }
    Ok(())
}

/// Dies with the outer process. The kernel forgets this wish at a change of user, so it comes after that, and
/// the outer process may have died before.
fn stay_with(outer: &OwnedFd) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut watched = [PollFd::from_borrowed_fd(outer.as_fd(), PollFlags::IN)];
    let no_wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut watched, Some(&no_wait))? {
        0 => Ok(()),
        _ => Err(io::Error::other("the parent is gone")),
    }
}
