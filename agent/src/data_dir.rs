//! The agent's data directory as a whole: it exists, is root-only, can be written, and belongs to one agent
//! at a time. What lies in it is the business of others.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// A data directory that is ours until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why a data directory cannot be used. The texts fit after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another agent has it.
    #[error(
        "use the data directory {0}: another agent is running in it; end that one, or give this one its own `data_dir`"
    )]
    InUse(PathBuf),
    /// The file system refuses.
    #[error("{action} in the data directory {path}: {source}; the agent runs as root and needs a local disk")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl DataDir {
    /// Makes and locks `path`.
    pub fn lock(path: &Path) -> Result<Self, DataDirError> {
        let fail = |action| move |source| DataDirError::Io { action, path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail("create"))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(fail("set the mode"))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(fail("write"))?;
        match lock.try_lock() {
            Ok(()) => {
                let tasks = path.join("tasks");
                DirBuilder::new().recursive(true).mode(0o700).create(&tasks).map_err(fail("create"))?;
                if let Err(error) = spread(&tasks) {
                    tracing::debug!(%error, "the file system takes no advice on where to put attempts");
                }
                Ok(Self { path: path.to_owned(), _lock: lock })
            }
            Err(fs::TryLockError::WouldBlock) => Err(DataDirError::InUse(path.to_owned())),
            Err(fs::TryLockError::Error(source)) => Err(fail("lock")(source)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Tells the file system that what lies in the directory has nothing to do with each other, so that it gives each
/// its own place on the disk. Only ext4 cares: it does not take the number of a deleted file again for some minutes,
/// and for each new file it looks at all those that were deleted nearby. If all attempts lie near each other, as they
/// would, a node that ends many short tasks soon spends more on that than on all else that it does for their files.
fn spread(directory: &Path) -> io::Result<()> {
    let directory = File::open(directory)?;
    let flags = ioctl_getflags(&directory)?;
    if !flags.contains(IFlags::TOPDIR) {
        ioctl_setflags(&directory, flags | IFlags::TOPDIR)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn belongs_to_one_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let first = DataDir::lock(&path).unwrap();
        assert_eq!(fs::metadata(first.path()).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(DataDir::lock(&path), Err(DataDirError::InUse(_))));
        drop(first);
        DataDir::lock(&path).unwrap();
    }

    #[test]
    fn says_what_is_in_the_way() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        fs::write(&path, "").unwrap();
        let text = DataDir::lock(&path).unwrap_err().to_string();
        assert!(text.contains("data directory") && text.contains("file"), "{text}");
    }
}
