//! Where the files of an attempt are below the agent's data directory. Names only: nothing is read or made here.

use std::path::{Path, PathBuf};

use crate::assignment::AttemptId;

/// The directory of one attempt, `<data>/tasks/<task>/<attempt>`: root-only, so no task can swap a name in
/// it. Only directories below `scratch/` are handed to the task's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptDir(PathBuf);

impl AttemptDir {
    /// The directory of `id` in the agent's data directory.
    pub fn new(data_dir: &Path, id: AttemptId) -> Self {
        Self(data_dir.join("tasks").join(id.task.to_string()).join(id.attempt.to_string()))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The record.
    pub fn record(&self) -> PathBuf {
        self.0.join("attempt.json")
    }

    /// Touched whenever a heartbeat is acknowledged.
    pub fn lease(&self) -> PathBuf {
        self.0.join("lease")
    }

    /// Private directories of the task; their owner is the task's user.
    pub fn scratch(&self) -> PathBuf {
        self.0.join("scratch")
    }

    /// Mount points for directories of shared storage that the task sees under another name.
    pub fn binds(&self) -> PathBuf {
        self.0.join("binds")
    }

    /// Generated files such as `/etc/passwd`.
    pub fn private(&self) -> PathBuf {
        self.0.join("private")
    }

    /// Captured streams.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// Where the first process of an executor's container meets its keeper.
    pub fn talk(&self, executor: u32) -> PathBuf {
        self.talks().join(executor.to_string())
    }

    /// Above all of these.
    pub fn talks(&self) -> PathBuf {
        self.0.join("talk")
    }

    /// What the keeper of an executor's streams has taken down.
    pub fn keeper_record(&self, executor: u32) -> PathBuf {
        self.logs().join(format!("{executor}.record"))
    }

    /// What is fed to an executor.
    pub fn stdin(&self, executor: u32) -> PathBuf {
        self.logs().join(format!("{executor}.stdin"))
    }

    /// What an executor wrote to standard output.
    pub fn stdout(&self, executor: u32) -> PathBuf {
        self.logs().join(format!("{executor}.stdout"))
    }

    /// What an executor wrote to standard error.
    pub fn stderr(&self, executor: u32) -> PathBuf {
        self.logs().join(format!("{executor}.stderr"))
    }
}
