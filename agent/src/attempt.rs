//! `attempt.json`: all that this node remembers of an attempt, one file per attempt, replaced atomically
//! *before* each step. There is no other agent database. Reading and writing it is `attempt/record.rs`.

mod measured;
mod record;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use teamster_values::Reason;

use crate::assignment::{Assignment, AttemptId, AttemptResult, ExecutorLog, Stage};

pub use measured::Measured;
pub use record::{RecordError, load_all};

/// The version of the record that this program writes, and the only one that it reads.
pub const RECORD_VERSION: u32 = 1;

/// The content of `attempt.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Version of this format: [`RECORD_VERSION`].
    pub version: u32,
    /// What was to be done.
    pub assignment: Assignment,
    /// The kernel's boot id when it was taken up; another one now means that it is lost.
    pub boot_id: String,
    /// When it was taken up.
    pub taken_up: Timestamp,
    /// How far it is.
    pub phase: Phase,
    /// One record for each executor that has ended, in order; moved into the result when there is one.
    pub executors: Vec<ExecutorLog>,
    /// When the executor that runs now was started.
    pub started_at: Option<Timestamp>,
    /// When the first executor was started, counted from the machine's boot: its time limit counts from then,
    /// through restarts of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_since: Option<Duration>,
    /// Set before the first kill: a restarted agent goes on with the kill and starts nothing.
    pub stopping: Option<StopReason>,
    /// Lines for the task's system log so far.
    pub system_logs: Vec<String>,
    /// Why it does not end well, as far as that is known.
    #[serde(default)]
    pub reason: Option<Reason>,
    /// What has been measured so far.
    #[serde(default)]
    pub measured: Measured,
    /// How it ended; kept until the coordinator says that it has it.
    pub result: Option<AttemptResult>,
}

impl Attempt {
    /// A record of something just taken up.
    pub fn new(assignment: Assignment, boot_id: &str, taken_up: Timestamp) -> Self {
        Self {
            version: RECORD_VERSION,
            assignment,
            boot_id: boot_id.to_owned(),
            taken_up,
            phase: Phase::Intended,
            executors: Vec::new(),
            started_at: None,
            running_since: None,
            stopping: None,
            system_logs: Vec::new(),
            reason: None,
            measured: Measured::default(),
            result: None,
        }
    }

    /// Which attempt this is.
    pub fn id(&self) -> AttemptId {
        self.assignment.id
    }

    /// Whether an executor has been started, or may have been.
    pub fn started(&self) -> bool {
        match self.phase {
            Phase::Intended => false,
            Phase::Created(executor) => executor > 0,
            Phase::Started(_) | Phase::Ended(_) => true,
            Phase::Staged | Phase::Reported => self.result.as_ref().is_some_and(|result| result.started),
        }
    }

    /// Whether the executor that ended last was the last one to run.
    pub fn executors_are_done(&self, executor: u32) -> bool {
        let failed = self.executors.last().is_some_and(|log| log.exit_code != 0);
        let may_fail =
            self.assignment.executors.get(executor as usize).is_some_and(|executor| executor.ignore_error);
        (failed && !may_fail) || executor as usize + 1 >= self.assignment.executors.len()
    }

    /// How far it is, as the coordinator needs to know it.
    pub fn stage(&self) -> Stage {
        let since = self.started_at.unwrap_or(self.taken_up);
        match self.phase {
            Phase::Intended | Phase::Created(0) => Stage::Preparing,
            Phase::Created(executor) | Phase::Started(executor) => Stage::Running { executor, since },
            Phase::Ended(executor) if self.executors_are_done(executor) => Stage::Finalizing,
            Phase::Ended(executor) => Stage::Running { executor, since },
            Phase::Staged | Phase::Reported => Stage::Finalizing,
        }
    }
}

/// A phase is on disk before the step that it names begins, so after a kill the step may have been done, half
/// done or not done at all. Where the next agent does the same from the phase before, that one stays on disk:
/// at the first [`Self::Created`], at [`Self::Reported`], and after an executor that ended well.
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
    /// It passed one of its own limits; which one is in the record as its reason.
    LimitPassed,
}
