//! How the rest of the coordinator speaks to the controller.

use teamster_values::TaskId;
use tokio::sync::{mpsc, oneshot};

use super::{Event, KeyReused, Submission};
use crate::disk::Room;

/// A way to the controller's inbox. Waits while the inbox is full: callers feel the pressure, memory does not.
#[derive(Debug, Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Event>,
    room: Room,
}

/// The controller has stopped and the process is about to end, or there is no room on the disk. Both pass.
#[derive(Debug, thiserror::Error)]
#[error("the coordinator is stopping or its disk is full")]
pub struct Stopped;

/// Why a task is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The controller has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The request has the name of another one.
    #[error(transparent)]
    KeyReused(#[from] KeyReused),
}

/// What became of a request to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelAnswer {
    /// It is on disk that the task shall end, or the task had ended before.
    Accepted,
    /// There is no such task.
    Unknown,
}

impl Handle {
    pub(super) fn new(inbox: mpsc::Sender<Event>, room: Room) -> Self {
        Self { inbox, room }
    }

    /// Whether the controller takes events.
    pub fn is_running(&self) -> bool {
        !self.inbox.is_closed()
    }

    /// Accepts a task. The answer means that it is on disk; it is that of an earlier request where this one
    /// came before. While the disk is low it is held.
    pub async fn submit(&self, submission: Submission) -> Result<TaskId, SubmitError> {
        if !self.room.wait().await {
            return Err(Stopped.into());
        }
        let submission = Box::new(submission);
        Ok(self.ask(|reply| Event::Submitted { submission, reply }).await??)
    }

    /// Cancels a task for somebody, whom its system log will name. The answer means that the wish is on disk.
    pub async fn cancel(&self, task: TaskId, by: String) -> Result<CancelAnswer, Stopped> {
        self.ask(|reply| Event::CancelRequested { task, by, reply }).await
    }

    /// Posts an event that has no answer.
    pub(crate) async fn post(&self, event: Event) -> Result<(), Stopped> {
        self.inbox.send(event).await.map_err(|_| Stopped)
    }

    /// Posts an event and waits for its answer.
    pub(crate) async fn ask<T>(&self, event: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.post(event(reply)).await?;
        answer.await.map_err(|_| Stopped)
    }
}
