//! The life of one task: a state, what can happen to it, and the one function that says what follows.
//! Everything else in the model only decides *when* these events happen.

use super::{Millis, NodeKey};

/// Where a task stands. Which executor runs is progress, not state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Waits for a node.
    Queued {
        /// The number that the next attempt will carry.
        attempt: u32,
        /// Not to be placed before then: back-off after a loss.
        not_before: Millis,
        /// The node that lost the attempt before; others are preferred.
        avoid: Option<NodeKey>,
    },
    /// Assigned; no executor is known to have started.
    Initializing(Placement),
    /// The first executor has been started.
    Running(Placement),
    /// All executors are done, outputs are being put in place. Shown as running.
    Finalizing(Placement),
    /// Somebody cancelled it; its attempt is not yet known to be dead.
    Canceling {
        /// The attempt that must die first.
        placement: Placement,
        /// What clients see meanwhile.
        shown: Shown,
    },
    /// All went well.
    Complete,
    /// The user's command failed.
    ExecutorError,
    /// It could not be run.
    SystemError,
    /// Cancelled, and nothing of it runs.
    Canceled,
}

/// One attempt on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Counts from 1: the fencing token.
    pub attempt: u32,
    /// Where it runs.
    pub node: NodeKey,
}

/// What clients see of a task that is being cancelled. CANCELING itself makes old clients hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// INITIALIZING.
    Initializing,
    /// RUNNING.
    Running,
}

/// What can happen to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskEvent {
    /// The scheduler chose a node.
    Placed(NodeKey),
    /// Somebody wants it to end.
    CancelRequested,
    /// Its agent says that the first executor of this attempt has been started.
    Started(u32),
    /// Its agent says that the executors of this attempt are done.
    Finalizing(u32),
    /// Its agent says that this attempt has ended, and that nothing of it runs.
    Ended(u32, Ending),
    /// This attempt is proven dead without a word from its agent.
    Lost(u32, Loss),
}

/// How an attempt ended, as its agent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All went well, all outputs are in place.
    Complete,
    /// The user's command failed.
    ExecutorError,
    /// It cannot run, here or elsewhere.
    SystemError,
    /// Stopped at our word.
    Canceled,
    /// The infrastructure failed it.
    Lost {
        /// Why.
        loss: Loss,
        /// Whether its first executor had been started.
        started: bool,
    },
}

/// Why the infrastructure lost an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// The machine was restarted.
    Reboot,
    /// containerd, storage or the node failed it.
    NodeFault,
    /// Its lease ended without a word.
    LeaseEnded,
    /// The operator stopped the node, and so wants it run again whatever the rule says.
    NodeStopped,
    /// The node came back and knew nothing of it.
    Forgotten,
}

/// When an attempt that was lost is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryRule {
    /// Whether attempts that had started are made again.
    pub started: bool,
    /// How many attempts are made in all.
    pub attempts_max: u32,
}

/// Back-off after the first loss; doubles with each further one.
const BACKOFF_FIRST_MILLIS: u64 = 5_000;
/// Longest back-off.
const BACKOFF_MAX_MILLIS: u64 = 300_000;

/// The event changes nothing: it is of another attempt, comes too late, or says what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

impl TaskState {
    /// The attempt that may be alive somewhere.
    pub fn placement(&self) -> Option<Placement> {
        match *self {
            Self::Initializing(placement)
            | Self::Running(placement)
            | Self::Finalizing(placement)
            | Self::Canceling { placement, .. } => Some(placement),
            Self::Queued { .. }
            | Self::Complete
            | Self::ExecutorError
            | Self::SystemError
            | Self::Canceled => None,
        }
    }

    /// Its name, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "queued",
            Self::Initializing(_) => "initializing",
            Self::Running(_) => "running",
            Self::Finalizing(_) => "finalizing",
            Self::Canceling { .. } => "canceling",
            Self::Complete => "complete",
            Self::ExecutorError => "executor error",
            Self::SystemError => "system error",
            Self::Canceled => "canceled",
        }
    }

    /// Whether nothing can change it any more.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Complete | Self::ExecutorError | Self::SystemError | Self::Canceled)
    }

    /// What follows from `event`, or `Refused` when nothing does. The whole of promise 1 ("exactly one
    /// terminal state, once"), 3 (fencing) and 6 (what is retried) is in here.
    pub fn step(self, now: Millis, event: TaskEvent, rule: RetryRule) -> Result<Self, Refused> {
        match event {
            TaskEvent::Placed(node) => self.placed(now, node),
            TaskEvent::CancelRequested => self.cancel_requested(),
            TaskEvent::Started(attempt) => match self.current(attempt)? {
                Self::Initializing(placement) => Ok(Self::Running(placement)),
                Self::Canceling { placement, shown: Shown::Initializing } => {
                    Ok(Self::Canceling { placement, shown: Shown::Running })
                }
                _ => Err(Refused),
            },
            TaskEvent::Finalizing(attempt) => match self.current(attempt)? {
                Self::Initializing(placement) | Self::Running(placement) => Ok(Self::Finalizing(placement)),
                _ => Err(Refused),
            },
            TaskEvent::Ended(attempt, ending) => {
                let state = self.current(attempt)?;
                match ending {
                    Ending::Lost { loss, started } => state.lost(now, loss, started, rule),
                    // The wish to cancel was on disk first, so it decides.
                    _ if matches!(state, Self::Canceling { .. }) => Ok(Self::Canceled),
                    Ending::Complete => Ok(Self::Complete),
                    Ending::ExecutorError => Ok(Self::ExecutorError),
                    Ending::SystemError => Ok(Self::SystemError),
                    // Nobody asked for it: an agent stopped it for a reason of its own.
                    Ending::Canceled => state.lost(now, Loss::NodeFault, true, rule),
                }
            }
            TaskEvent::Lost(attempt, loss) => {
                let state = self.current(attempt)?;
                let started = !matches!(state, Self::Initializing(_));
                state.lost(now, loss, started, rule)
            }
        }
    }

    fn placed(self, now: Millis, node: NodeKey) -> Result<Self, Refused> {
        match self {
            Self::Queued { attempt, not_before, .. } if not_before <= now => {
                Ok(Self::Initializing(Placement { attempt, node }))
            }
            _ => Err(Refused),
        }
    }

    fn cancel_requested(self) -> Result<Self, Refused> {
        match self {
            Self::Queued { .. } => Ok(Self::Canceled),
            Self::Initializing(placement) => Ok(Self::Canceling { placement, shown: Shown::Initializing }),
            Self::Running(placement) | Self::Finalizing(placement) => {
                Ok(Self::Canceling { placement, shown: Shown::Running })
            }
            _ => Err(Refused),
        }
    }

    /// This state, if `attempt` is the one that it speaks of.
    fn current(self, attempt: u32) -> Result<Self, Refused> {
        match self.placement() {
            Some(placement) if placement.attempt == attempt => Ok(self),
            _ => Err(Refused),
        }
    }

    fn lost(self, now: Millis, loss: Loss, started: bool, rule: RetryRule) -> Result<Self, Refused> {
        if matches!(self, Self::Canceling { .. }) {
            return Ok(Self::Canceled);
        }
        let placement = self.placement().ok_or(Refused)?;
        let next = placement.attempt + 1;
        if loss == Loss::NodeStopped {
            return Ok(Self::Queued { attempt: next, not_before: now, avoid: None });
        }
        if (started && !rule.started) || placement.attempt >= rule.attempts_max {
            return Ok(Self::SystemError);
        }
        let doublings = (placement.attempt - 1).min(16);
        let backoff_millis = (BACKOFF_FIRST_MILLIS << doublings).min(BACKOFF_MAX_MILLIS);
        Ok(Self::Queued {
            attempt: next,
            not_before: now.after_millis(backoff_millis),
            avoid: Some(placement.node),
        })
    }
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
