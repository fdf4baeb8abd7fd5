//! What the model does not hold of live tasks: ids, wishes, and since when. Tasks that this process accepted are all
//! here; of those that were on disk when it started, the ones on a node, and every other from the moment in which
//! somebody speaks of it. So a restart among a million tasks that wait makes nothing of them but what the scheduler
//! must know.

use std::sync::Arc;

use jiff::Timestamp;
use teamster_values::TaskId;

use super::Controller;
use crate::cluster::Seq;
use crate::store::{Asks, LiveRow, StoreError};

/// What the model does not hold of a live task.
pub(super) struct LiveTask {
    pub(super) id: TaskId,
    pub(super) asks: Arc<Asks>,
    /// When the attempt that is under way was placed.
    pub(super) since: Option<Timestamp>,
}

/// A task of this cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It has not ended, or ends with the batch that is being decided on.
    Live(Seq),
    /// It has ended.
    Ended,
}

impl Controller {
    /// The task with this id; none where nobody here has ever heard of it.
    pub(super) fn find(&mut self, id: &TaskId) -> Result<Option<Found>, StoreError> {
        if let Some(seq) = self.seqs.get(id) {
            return Ok(Some(Found::Live(*seq)));
        }
        let Some(seq) = self.reader.seq(id)? else { return Ok(None) };
        Ok(Some(if self.recall(seq)? { Found::Live(seq) } else { Found::Ended }))
    }

    /// Sees to it that what is to be known of a live task is here. Whether the task is live.
    pub(super) fn recall(&mut self, seq: Seq) -> Result<bool, StoreError> {
        if self.live.contains_key(&seq) {
            return Ok(true);
        }
        // What the model has let go of has ended, though that may not be on disk yet.
        if self.cluster.task(seq).is_none() {
            return Ok(false);
        }
        let Some((id, row)) = self.reader.live_task(seq)? else { return Ok(false) };
        self.remember_row(seq, id, &row);
        Ok(true)
    }

    pub(super) fn remember_row(&mut self, seq: Seq, id: TaskId, row: &LiveRow) {
        let asks = self.share(&row.asks);
        self.remember(seq, LiveTask { id, asks, since: row.since });
    }

    pub(super) fn remember(&mut self, seq: Seq, task: LiveTask) {
        self.seqs.insert(task.id, seq);
        self.live.insert(seq, task);
    }

    pub(super) fn forget(&mut self, seq: Seq) {
        self.progress.remove(&seq);
        if let Some(task) = self.live.remove(&seq) {
            self.seqs.remove(&task.id);
        }
    }

    /// One copy of each different wish.
    pub(super) fn share(&mut self, asks: &Asks) -> Arc<Asks> {
        if let Some(shared) = self.asks.get(asks) {
            return shared.clone();
        }
        let shared = Arc::new(asks.clone());
        self.asks.insert(shared.clone());
        shared
    }
}

#[cfg(test)]
#[path = "known_tests.rs"]
mod tests;
