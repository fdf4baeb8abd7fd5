//! The kernel's side of project quota: which project a directory belongs to, what a project has and may have. No
//! library has these calls for projects. Everything goes by open descriptors; nothing here decides anything.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

/// `PRJQUOTA` of linux/quota.h.
const PROJECTS: u32 = 2;

/// Commands of quotactl(2): `Q_GETQUOTA`, `Q_SETQUOTA`, `Q_GETNEXTQUOTA`, and `Q_XGETQSTATV`, which ext4 answers as
/// well as xfs.
const GET: u32 = 0x80_0007;
const SET: u32 = 0x80_0008;
const GET_NEXT: u32 = 0x80_0009;
const STATE: u32 = (b'X' as u32) << 8 | 8;

/// Space is limited in units of this many bytes.
const UNIT_BYTES: u64 = 1024;

/// `QIF_BLIMITS | QIF_ILIMITS`: which members of a row are to be taken over.
const BOTH_LIMITS: u32 = 1 | 4;

/// `FS_QUOTA_PDQ_ACCT` and `FS_QUOTA_PDQ_ENFD`: projects are counted, and held to their limits.
const COUNTED: u64 = 1 << 4;
const ENFORCED: u64 = 1 << 5;

/// `FS_XFLAG_PROJINHERIT`: what is made in a directory belongs to its project.
const INHERIT: u32 = 0x200;

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

const GET_ATTRIBUTES: Opcode = opcode::read::<Attributes>(b'X', 31);
const SET_ATTRIBUTES: Opcode = opcode::write::<Attributes>(b'X', 32);

/// `struct if_nextdqblk` of linux/quota.h. `if_dqblk` is the same with padding for the id.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Row {
    hard_units: u64,
    soft_units: u64,
    space_bytes: u64,
    hard_files: u64,
    soft_files: u64,
    files: u64,
    space_time: u64,
    files_time: u64,
    valid: u32,
    id: u32,
}

/// Whether a file system has project quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It holds projects to their limits.
    Enforced,
    /// It counts, and holds nobody to anything.
    CountedOnly,
    /// It does neither.
    Absent,
}

/// What a project has and may have. A limit of 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Project {
    pub(super) id: u32,
    pub(super) bytes: u64,
    pub(super) files: u64,
    pub(super) bytes_max: u64,
    pub(super) files_max: u64,
}

impl Project {
    pub(super) fn has_limit(&self) -> bool {
        self.bytes_max > 0 || self.files_max > 0
    }

    pub(super) fn has_files(&self) -> bool {
        self.bytes > 0 || self.files > 0
    }
}

impl From<Row> for Project {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            bytes: row.space_bytes,
            files: row.files,
            bytes_max: row.hard_units.saturating_mul(UNIT_BYTES),
            files_max: row.hard_files,
        }
    }
}

/// How the file system of an open file is with project quota.
pub(super) fn state(file: impl AsFd) -> io::Result<State> {
    // `struct fs_quota_statv`: a version that is asked for, and in the third and fourth byte the flags. The kernel
    // fills in less than this.
    let mut answer = [0_u64; 32];
    let mut first = [0_u8; 8];
    first[0] = 1;
    answer[0] = u64::from_ne_bytes(first);
    match quotactl(file.as_fd(), STATE, 0, &mut answer) {
        Ok(()) => {}
        // No file system of the kind, none with any quota, or a kernel without.
        Err(Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::ESRCH) => return Ok(State::Absent),
        Err(errno) => return Err(errno.into()),
    }
    let first = answer[0].to_ne_bytes();
    let flags = u64::from(u16::from_ne_bytes([first[2], first[3]]));
    Ok(match (flags & COUNTED != 0, flags & ENFORCED != 0) {
        (_, true) => State::Enforced,
        (true, false) => State::CountedOnly,
        (false, false) => State::Absent,
    })
}

/// What a project has and may have on the file system of an open file.
pub(super) fn project(file: impl AsFd, id: u32) -> io::Result<Project> {
    let mut row = Row::default();
    match quotactl(file.as_fd(), GET, id, &mut row) {
        Ok(()) => Ok(Project { id, ..row.into() }),
        // xfs keeps nothing of a project that never had anything.
        Err(Errno::ENOENT) => Ok(Project { id, ..Project::default() }),
        Err(errno) => Err(errno.into()),
    }
}

/// The project with the least number from `id` on of which the file system keeps anything.
pub(super) fn next_project(file: impl AsFd, id: u32) -> io::Result<Option<Project>> {
    let mut row = Row::default();
    match quotactl(file.as_fd(), GET_NEXT, id, &mut row) {
        Ok(()) => Ok(Some(row.into())),
        Err(Errno::ENOENT | Errno::ESRCH) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Limits a project; 0 is no limit. Space is rounded up.
pub(super) fn limit(file: impl AsFd, id: u32, bytes_max: u64, files_max: u64) -> io::Result<()> {
    let hard_units = bytes_max.div_ceil(UNIT_BYTES);
    let mut row = Row { hard_units, hard_files: files_max, valid: BOTH_LIMITS, id, ..Row::default() };
    Ok(quotactl(file.as_fd(), SET, id, &mut row)?)
}

/// The project that a file or directory belongs to; 0 is none.
pub(super) fn project_of(file: impl AsFd) -> io::Result<u32> {
    Ok(attributes(file)?.project)
}

/// Makes a directory, and what is made in it from now on, belong to a project.
pub(super) fn enter_project(directory: impl AsFd, id: u32) -> io::Result<()> {
    let before = attributes(&directory)?;
    let after = Attributes { project: id, flags: before.flags | INHERIT, ..before };
    Ok(set_attributes(directory, after)?)
}

#[allow(unsafe_code, reason = "quotactl_fd(2) has no safe form anywhere")]
fn quotactl<T: Copy>(file: BorrowedFd<'_>, command: u32, id: u32, data: &mut T) -> Result<(), Errno> {
    let command = command << 8 | PROJECTS;
    let data: *mut T = data;
    // SAFETY: `data` is as large as the command of this module wants it, is ours alone until the call is over, and
    // holds plain numbers, for which the kernel may put in any bytes.
    let answer = unsafe { libc::syscall(libc::SYS_quotactl_fd, file.as_raw_fd(), command, id, data) };
    Errno::result(answer).map(drop)
}

#[allow(unsafe_code, reason = "rustix has the call, and leaves it to its caller that the types are right")]
fn attributes(file: impl AsFd) -> rustix::io::Result<Attributes> {
    // SAFETY: the kernel fills in a `struct fsxattr` for this number, as the number itself says.
    unsafe { ioctl(file, Getter::<GET_ATTRIBUTES, Attributes>::new()) }
}

#[allow(unsafe_code, reason = "rustix has the call, and leaves it to its caller that the types are right")]
fn set_attributes(file: impl AsFd, attributes: Attributes) -> rustix::io::Result<()> {
    // SAFETY: the kernel reads a `struct fsxattr` for this number, as the number itself says.
    unsafe { ioctl(file, Setter::<SET_ATTRIBUTES, Attributes>::new(attributes)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_to_the_kernel_is_as_large_as_it_expects() {
        assert_eq!(size_of::<Row>(), 72);
        assert_eq!(size_of::<Attributes>(), 28);
    }

    #[test]
    fn a_file_system_without_quota_says_so() {
        let proc = std::fs::File::open("/proc").unwrap();
        assert_eq!(state(&proc).unwrap(), State::Absent);
        assert!(project(&proc, 1).is_err());
    }
}
