//! `attempt.json`: all that this node remembers of an attempt, one file per attempt, replaced atomically
//! *before* each step. There is no other agent database.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::assignment::{Assignment, AttemptId, AttemptResult, ExecutorLog};

/// The content of `attempt.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Version of this format: 1.
    pub version: u32,
    /// What was to be done.
    pub assignment: Assignment,
    /// The kernel's boot id when it was taken up; another one now means that it is lost.
    pub boot_id: String,
    /// When it was taken up.
    pub taken_up: Timestamp,
    /// How far it is.
    pub phase: Phase,
    /// One record for each executor that has ended, in order.
    pub executors: Vec<ExecutorLog>,
    /// When the executor that runs now was started.
    pub started_at: Option<Timestamp>,
    /// Set before the first kill: a restarted agent goes on with the kill and starts nothing.
    pub stopping: Option<StopReason>,
    /// Lines for the task's system log so far.
    pub system_logs: Vec<String>,
    /// How it ended; kept until the coordinator says that it has it.
    pub result: Option<AttemptResult>,
}

/// Each phase is on disk before the step that it names begins, so after a kill the step may have been done,
/// half done or not done at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Directories, image, inputs are being made ready.
    Intended,
    /// The container of this executor is being made.
    Created(u32),
    /// The container of this executor is being started, or runs.
    Started(u32),
    /// This executor has ended and its record is in the file; its container is being removed. After the
    /// last one: outputs are being put in place.
    Ended(u32),
    /// All is done and the result is in the file; it is being told to the coordinator.
    Staged,
    /// The coordinator has the result; everything here is being deleted.
    Reported,
}

/// Why an attempt is being killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The coordinator said so.
    Canceled,
    /// Its lease ended.
    LeaseEnded,
    /// The operator stops this node.
    NodeStopped,
}

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
