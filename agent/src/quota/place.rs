//! One file system that holds projects to their limits: whether it does, proven once by doing it, and what is done
//! to projects there.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

use super::kernel::{self, Project, State};
use super::{DiskLimits, Usage};

/// A directory that is made for a moment, to see that everything works.
const TRIAL: &str = "quota-trial";

/// Why a file system is of no use for this.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    /// It is not told otherwise.
    #[error("its file system has no project quota; docs/operations.md says how ext4 and xfs get it")]
    Absent,
    /// Mounted without the option.
    #[error("its file system counts projects and does not limit them; mount it with `prjquota`")]
    CountedOnly,
    /// Who owns it limits the whole of it; that must go on to count.
    #[error("it belongs to project {0} already")]
    Owned(u32),
    /// A call failed.
    #[error("project quota cannot be used: {0}")]
    Io(#[from] io::Error),
    /// The limit is not what was set.
    #[error("project quota does not do what it is told")]
    Disobeys,
}

/// A file system with project quota.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) device: u64,
    directory: OwnedFd,
}

/// Opens a directory that no task can replace.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

impl Place {
    /// The file system of a directory, if it has project quota.
    pub(super) fn of(path: &Path) -> Result<Self, Unfit> {
        let directory = OwnedFd::from(File::open(path)?);
        match kernel::state(&directory)? {
            State::Enforced => {}
            State::CountedOnly => return Err(Unfit::CountedOnly),
            State::Absent => return Err(Unfit::Absent),
        }
        let device = rustix::fs::fstat(&directory).map_err(io::Error::from)?.st_dev;
        Ok(Self { device, directory })
    }

    /// Does with the project `id` in `data_dir` all that will be done with projects.
    pub(super) fn try_out(&self, data_dir: &Path, id: u32) -> Result<(), Unfit> {
        let owner = kernel::project_of(&self.directory)?;
        if owner != 0 {
            return Err(Unfit::Owned(owner));
        }
        let trial = data_dir.join(TRIAL);
        // Left by an agent that was killed here.
        let _ = fs::remove_dir(&trial);
        DirBuilder::new().mode(0o700).create(&trial)?;
        let tried = self.try_in(&trial, id);
        fs::remove_dir(&trial)?;
        self.limit(id, NONE)?;
        if tried? { Ok(()) } else { Err(Unfit::Disobeys) }
    }

    fn try_in(&self, trial: &Path, id: u32) -> io::Result<bool> {
        let directory = open(trial)?;
        kernel::enter_project(&directory, id)?;
        let wanted = DiskLimits { bytes: 1 << 30, files: 1000 };
        self.limit(id, wanted)?;
        let found = self.project(id)?;
        let is_limited = (found.bytes_max, found.files_max) == (wanted.bytes, wanted.files);
        Ok(is_limited && found.files == 1 && kernel::project_of(&directory)? == id)
    }

    pub(super) fn limit(&self, id: u32, limits: DiskLimits) -> io::Result<()> {
        kernel::limit(&self.directory, id, limits.bytes, limits.files)
    }

    /// No limit any more.
    pub(super) fn release(&self, id: u32) -> io::Result<()> {
        self.limit(id, NONE)
    }

    pub(super) fn project(&self, id: u32) -> io::Result<Project> {
        kernel::project(&self.directory, id)
    }

    pub(super) fn usage(&self, id: u32) -> io::Result<Usage> {
        let found = self.project(id)?;
        Ok(Usage { bytes: found.bytes, files: found.files })
    }

    /// The projects within `ids` that have a limit.
    pub(super) fn limited(&self, ids: &Range<u32>) -> io::Result<Vec<Project>> {
        let mut found = Vec::new();
        let mut from = ids.start;
        while let Some(project) = kernel::next_project(&self.directory, from)? {
            if project.id >= ids.end {
                break;
            }
            from = project.id + 1;
            found.extend(project.has_limit().then_some(project));
        }
        Ok(found)
    }
}

/// Limits that are none.
const NONE: DiskLimits = DiskLimits { bytes: 0, files: 0 };
