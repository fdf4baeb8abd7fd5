//! What comes in to the controller, and what it says to agents. These are the coordinator's own words:
//! `session` converts between them and the wire.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use teamster_values::TaskId;
use tokio::sync::{mpsc, oneshot};

use super::{CancelAnswer, KeyReused, Once};
use crate::attempt_log::AttemptLog;
use crate::board::{Amount, StorageView};
use crate::cluster::Ending;
use crate::spec::TaskSpec;

/// What can happen to the coordinator. Closed: whatever changes state comes in as one of these.
#[derive(Debug)]
pub enum Event {
    /// A valid task came in.
    Submitted {
        /// What came in.
        submission: Box<Submission>,
        /// Answered once it is on disk.
        reply: oneshot::Sender<Result<TaskId, KeyReused>>,
    },
    /// Somebody wants a task to end.
    CancelRequested {
        /// Which one.
        task: TaskId,
        /// Who wants it, for the task's system log.
        by: String,
        /// Answered once the wish is on disk.
        reply: oneshot::Sender<CancelAnswer>,
    },
    /// An agent opened a session and said all that it holds.
    AgentConnected {
        /// Who it is and what its node has.
        agent: Box<AgentHello>,
        /// Everything that it holds.
        held: Vec<HeldAttempt>,
        /// Where commands go. When it is full the session is given up: the next one begins with all that
        /// matters.
        outbox: mpsc::Sender<ToAgent>,
        /// The number of the session, or why there is none.
        reply: oneshot::Sender<Result<SessionId, SessionRefused>>,
    },
    /// An agent says how its node is.
    AgentOffer {
        /// Which session.
        session: SessionId,
        /// What it says.
        offer: AgentOffer,
    },
    /// An agent says how far attempts are.
    AgentReported {
        /// Which session.
        session: SessionId,
        /// What it says.
        reports: Vec<HeldAttempt>,
    },
    /// A session is over.
    AgentDisconnected {
        /// Which one.
        session: SessionId,
    },
    /// Time has passed.
    Tick,
}

/// A task as it is handed in.
#[derive(Debug)]
pub struct Submission {
    /// Whose it is.
    pub owner: String,
    /// What to run.
    pub spec: Arc<TaskSpec>,
    /// What was left out of what was submitted, for the task's system log.
    pub notes: Vec<String>,
    /// How the request is known when it comes again; nothing where each counts for itself.
    pub once: Option<Once>,
}

/// A session, counted from the start of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Why a session is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SessionRefused {
    /// Two agents claim to be one node, or the older session is not yet known to be gone.
    #[error("node '{0}' has a live session already")]
    SecondSession(String),
}

/// What an agent says of its node with each heartbeat.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentOffer {
    /// All storages, as they are now.
    pub storages: Vec<StorageView>,
    /// Why it takes no new tasks; none when it does.
    pub closed: Option<String>,
    /// What runs there and what it lacks, where that has changed.
    pub programs: Option<(BTreeMap<String, String>, Vec<String>)>,
}

/// Who an agent is and what its node has.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentHello {
    /// The node's stable name.
    pub node_id: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// What tasks may use there.
    pub capacity: Amount,
    /// Its storages.
    pub storages: Vec<StorageView>,
    /// Why it takes no new tasks; none when it does.
    pub closed: Option<String>,
    /// What tasks may ask for there beside having no network.
    pub networks: Vec<String>,
    /// Versions of what runs there, for people.
    pub versions: BTreeMap<String, String>,
    /// What tasks could need and it does not have, for people.
    pub lacks: Vec<String>,
}

/// How far an attempt is, in an agent's words.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldAttempt {
    /// The task.
    pub task: TaskId,
    /// Which attempt at it.
    pub attempt: u32,
    /// How far it is.
    pub stage: Stage,
}

/// How far an attempt is.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// No executor has been started.
    Preparing {
        /// What is done now, one line for people; none where there is nothing to say.
        note: Option<String>,
    },
    /// This executor runs, since then.
    Running {
        /// Its index.
        executor: u32,
        /// When it started.
        since: Timestamp,
    },
    /// The executors are done, outputs are being put in place.
    Finalizing,
    /// It ended.
    Ended {
        /// How.
        ending: Ending,
        /// What it left behind.
        log: Box<AttemptLog>,
    },
}

/// What an agent is told.
#[derive(Debug, Clone, PartialEq)]
pub enum ToAgent {
    /// Run this.
    Start {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: u32,
        /// What to run.
        spec: Arc<TaskSpec>,
        /// How long it may go on without a word from here.
        lease: Duration,
    },
    /// Kill it, and say how it ended.
    Stop {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: u32,
    },
    /// Delete what is kept of it.
    Forget {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: u32,
    },
}
