//! Shared storage on this node: what is where, whether it can be used now, and how tasks see it. The seam is
//! [`Mounter`]; `directory.rs` is the real one for `kind = "directory"`, `fake.rs` is for tests. Nothing here
//! may block a runtime thread on a storage that hangs.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use teamster_values::AbsolutePath;

use crate::config::{StorageConfig, StorageKind};
use crate::runtime::Bind;

pub(crate) mod directory;
pub mod fake;
pub(crate) mod mount;
pub(crate) mod mountinfo;

pub use directory::DirectoryMounter;

/// Makes storages usable on this node and says how they are.
#[async_trait]
pub trait Mounter: Send + Sync + 'static {
    /// Makes the storage usable at its path. One that is usable is left alone.
    async fn ensure(&self, storage: &StorageConfig) -> Result<(), StorageError>;

    /// How the storage is now; takes no longer than a check's deadline.
    async fn health(&self, storage: &StorageConfig) -> Health;
}

/// How a storage is. A node gets no task that needs one which is not [`Health::Ok`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Ok,
    /// The last check failed in a way that may pass.
    Suspect,
    /// It does not answer.
    Hung,
    /// It answers, but what was there is gone.
    Stale,
}

/// Why a storage cannot be used. The texts fit after "failed to …:".
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Nothing is at its path.
    #[error("storage '{name}': {path} does not exist on this node")]
    Missing {
        /// The storage.
        name: String,
        /// Its path.
        path: AbsolutePath,
    },
    /// Something else than a directory is at its path.
    #[error("storage '{name}': {path} is not a directory")]
    NotDirectory {
        /// The storage.
        name: String,
        /// Its path.
        path: AbsolutePath,
    },
    /// The check did not end in time.
    #[error("storage '{name}' does not answer (waited {} s)", waited.as_secs())]
    Hung {
        /// The storage.
        name: String,
        /// How long.
        waited: Duration,
    },
    /// Anything else.
    #[error("storage '{name}': {reason}")]
    Failed {
        /// The storage.
        name: String,
        /// What came back.
        reason: String,
    },
}

/// How a task sees a storage: whole, at its own path, read and write, and following what the node mounts
/// there later.
pub fn bind(storage: &StorageConfig) -> Bind {
    match storage.kind {
        StorageKind::Directory => Bind {
            source: PathBuf::from(storage.path.as_str()),
            destination: storage.path.clone(),
            read_only: false,
            follows_mounts: true,
        },
    }
}
