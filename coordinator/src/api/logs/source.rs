//! Where the logs of an attempt are: whole on its node, if that still has them, and the ends of them with the
//! task. It reads; what a reader gets of it is decided elsewhere.

use std::sync::Arc;
use std::time::Duration;

use teamster_values::TaskId;

use crate::attempt_log::{AttemptLog, ExecutorLog};
use crate::log_hub::{LogHub, LogPart, LogStream, PART_BYTES_MAX, ReadLog, Unread};
use crate::store::{Status, StoredTask};

/// Both streams, in the order in which they are told.
pub(super) const STREAMS: [LogStream; 2] = [LogStream::Stdout, LogStream::Stderr];

/// How long a node may wait for an executor to write something. Also how long a reader that has gone may
/// still cost a place.
const WAIT: Duration = Duration::from_secs(10);

/// One attempt, as far as its logs are concerned.
#[derive(Debug, Clone)]
pub(super) struct Source {
    hub: Arc<LogHub>,
    pub(super) task: TaskId,
    pub(super) attempt: u32,
    node: String,
    /// How many executors the task has.
    pub(super) executors: u32,
    /// What is stored of it, once it has ended.
    pub(super) stored: Option<Arc<AttemptLog>>,
}

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) executor: u32,
    pub(super) stream: LogStream,
    pub(super) offset: u64,
}

impl Source {
    /// The last attempt at `task`; none before the first.
    pub(super) fn last(hub: &Arc<LogHub>, task: &StoredTask) -> Option<Self> {
        let executors = task.spec.as_ref().map_or(0, |spec| spec.executors.len() as u32);
        let source = |attempt, node, stored| {
            Some(Self { hub: hub.clone(), task: task.head.id, attempt, node, executors, stored })
        };
        let ended = task.attempts.last();
        if let Status::Live(row) = &task.status
            && let Some(node) = &row.node
            && ended.is_none_or(|(number, _)| row.attempt > *number)
        {
            return source(row.attempt, node.clone(), None);
        }
        let (number, log) = ended?;
        source(*number, log.node.clone().unwrap_or_default(), Some(Arc::new(log.clone())))
    }

    /// The node that has it.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// Asks the node for what is at `place`, and waits a while for it to be there.
    pub(super) async fn read(&self, place: Place) -> Result<LogPart, Unread> {
        self.ask(place, PART_BYTES_MAX, WAIT).await
    }

    /// Asks the node for at most `bytes_max` of what is at `place` now.
    pub(super) async fn read_now(&self, place: Place, bytes_max: usize) -> Result<LogPart, Unread> {
        self.ask(place, bytes_max.min(PART_BYTES_MAX), Duration::ZERO).await
    }

    /// How much each executor has written on the node to `stream`.
    pub(super) async fn sizes(&self, stream: LogStream) -> Result<Vec<u64>, Unread> {
        let mut sizes = Vec::new();
        for executor in 0..self.executors {
            let part = self.read_now(Place { executor, stream, offset: 0 }, 0).await?;
            sizes.push(part.size_bytes);
        }
        Ok(sizes)
    }

    async fn ask(&self, place: Place, bytes_max: usize, wait: Duration) -> Result<LogPart, Unread> {
        let Place { executor, stream, offset } = place;
        let (task, attempt) = (self.task, self.attempt);
        self.hub.read(&self.node, ReadLog { task, attempt, executor, stream, offset, bytes_max, wait }).await
    }

    /// What is stored of `executor`; none when it never ran, or runs.
    pub(super) fn stored_executor(&self, executor: u32) -> Option<&ExecutorLog> {
        self.stored.as_ref()?.executors.get(executor as usize)
    }
}

/// The stored end of a stream, and how long the whole stream was.
pub(super) fn stored_end(log: &ExecutorLog, stream: LogStream) -> (&str, u64) {
    let (text, size_bytes) = match stream {
        LogStream::Stdout => (&log.stdout, log.stdout_bytes),
        LogStream::Stderr => (&log.stderr, log.stderr_bytes),
    };
    (text, size_bytes.max(text.len() as u64))
}

/// The last `limit` bytes of `text`, or a little less: no character is split.
pub(super) fn end_of(text: &str, limit: u64) -> &str {
    let mut start = text.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}
