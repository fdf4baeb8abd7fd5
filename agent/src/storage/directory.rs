//! `kind = "directory"`: a directory of this machine, or one that something else has mounted. It is checked,
//! never made and never mounted. The check is a child process, because the directory may lie on a mount
//! that hangs, and a thread that hangs there could never be got back.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use teamster_values::AbsolutePath;

use super::{Health, Mounter, StorageError};
use crate::child::{self, ChildError};
use crate::config::StorageConfig;

/// How long a check may take: a healthy directory answers in milliseconds, a busy server in seconds.
const CHECK_DEADLINE: Duration = Duration::from_secs(10);

/// How the program is started for [`answer_check`].
pub(crate) const CHECK: &str = "check-directory";

/// The mounter for directories.
#[derive(Debug, Clone)]
pub struct DirectoryMounter {
    program: PathBuf,
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Found {
    Directory,
    SomethingElse,
    Nothing,
    Stale,
}

impl DirectoryMounter {
    /// `program` is started again for each check.
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    async fn check(&self, storage: &StorageConfig) -> Result<Found, ChildError> {
        child::call(&self.program, &["stage", CHECK], &storage.path, CHECK_DEADLINE).await
    }
}

/// The child's side: reads a path, looks, answers.
pub(crate) fn answer_check() -> std::io::Result<()> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let path: AbsolutePath = serde_json::from_str(&line)?;
    let mut answer = serde_json::to_vec(&look(path.as_path())?)?;
    answer.push(b'\n');
    std::io::stdout().write_all(&answer)
}

/// Reads one entry, because a dead mount may still answer from what the kernel remembers of its root.
fn look(path: &Path) -> std::io::Result<Found> {
    let entries = std::fs::metadata(path)
        .and_then(|metadata| if metadata.is_dir() { std::fs::read_dir(path).map(Some) } else { Ok(None) });
    match entries {
        Ok(None) => Ok(Found::SomethingElse),
        Ok(Some(mut entries)) => entries.next().transpose().map(|_| Found::Directory),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) if error.kind() == ErrorKind::StaleNetworkFileHandle => Ok(Found::Stale),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Mounter for DirectoryMounter {
    async fn ensure(&self, storage: &StorageConfig) -> Result<(), StorageError> {
        let (name, path) = (storage.name.clone(), storage.path.clone());
        match self.check(storage).await {
            Ok(Found::Directory) => Ok(()),
            Ok(Found::SomethingElse) => Err(StorageError::NotDirectory { name, path }),
            Ok(Found::Nothing) => Err(StorageError::Missing { name, path }),
            Ok(Found::Stale) => Err(StorageError::Failed { name, reason: "its mount is stale".to_owned() }),
            Err(ChildError::Deadline { waited }) => Err(StorageError::Hung { name, waited }),
            Err(error) => Err(StorageError::Failed { name, reason: error.to_string() }),
        }
    }

    async fn health(&self, storage: &StorageConfig) -> Health {
        match self.check(storage).await {
            Ok(Found::Directory) => Health::Ok,
            Ok(Found::SomethingElse | Found::Nothing | Found::Stale) => Health::Stale,
            Err(ChildError::Deadline { .. }) => Health::Hung,
            Err(_) => Health::Suspect,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(look(directory.path()).unwrap(), Found::Directory);
        assert_eq!(look(&directory.path().join("none")).unwrap(), Found::Nothing);
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(look(&file).unwrap(), Found::SomethingElse);
    }

    #[tokio::test]
    async fn a_silent_check_is_hung_and_a_broken_one_suspect() {
        let storage: StorageConfig =
            toml::from_str("name = 'a'\nkind = 'directory'\npath = '/mnt/a'").unwrap();
        let broken = DirectoryMounter::new("/bin/false".into());
        assert_eq!(broken.health(&storage).await, Health::Suspect);
        assert!(broken.ensure(&storage).await.is_err());
    }
}
