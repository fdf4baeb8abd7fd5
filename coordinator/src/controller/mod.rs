//! The single writer: drain the inbox, decide, commit, act, reply.

mod handle;

use std::sync::Arc;

use teamster_values::TaskId;
use tokio::sync::oneshot;

pub use handle::{CancelAnswer, Handle, Stopped};

use crate::spec::TaskSpec;

/// What can happen to the coordinator. Closed: whatever changes state comes in as one of these.
#[derive(Debug)]
pub enum Event {
    /// A valid task came in.
    Submitted {
        /// Whose it is.
        owner: String,
        /// What to run.
        spec: Arc<TaskSpec>,
        /// Answered once it is on disk.
        reply: oneshot::Sender<TaskId>,
    },
    /// Somebody wants a task to end.
    CancelRequested {
        /// Which one.
        task: TaskId,
        /// Answered once the wish is on disk.
        reply: oneshot::Sender<CancelAnswer>,
    },
}
