//! What can go wrong with the database, in words that name the file.

use std::io;
use std::path::{Path, PathBuf};

/// Why the store could not do what it was asked. Texts fit after "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The data directory cannot be made or written to.
    #[error("use the data directory {path}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database is held by somebody else, and stays so.
    #[error("open the database {path}: another coordinator uses it")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("open the database {path}: it is not a database of this program; it was left as it is")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file was a database once.
    #[error("open the database {path}: it is damaged ({reason}); restore it from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A later version of the program made it.
    #[error(
        "open the database {path}: its layout has version {found}, this program knows up to {known}; \
         run the version of the program that wrote it, or a later one"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The highest one that is known.
        known: u32,
    },
    /// No room is left on the device.
    #[error("write the database {path}: the disk is full")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// An earlier write failed; nothing can be written until the database is opened again.
    #[error("write the database {path}: an earlier write failed, it must be opened again")]
    Broken {
        /// The file.
        path: PathBuf,
    },
    /// Reading or writing failed in another way.
    #[error("use the database {path}: {reason}")]
    Failed {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// One row cannot be understood.
    #[error("read row {key} of table {table} in {path}: {reason}")]
    Record {
        /// The file.
        path: PathBuf,
        /// The table.
        table: &'static str,
        /// The row.
        key: String,
        /// Why.
        reason: String,
    },
}

impl StoreError {
    /// What an error of redb means for the file `path`.
    pub(super) fn from_redb(path: &Path, error: impl Into<redb::Error>) -> Self {
        let path = path.to_owned();
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::InUse { path },
            redb::Error::PreviousIo => Self::Broken { path },
            redb::Error::Corrupted(reason) => Self::Damaged { path, reason },
            redb::Error::Io(error) if no_room(&error) => Self::Full { path },
            other => Self::Failed { path, reason: other.to_string() },
        }
    }

    /// What an error of the file system means for the directory `path`.
    pub(super) fn from_directory(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if no_room(&source) { Self::Full { path } } else { Self::Directory { path, source } }
    }
}

fn no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
