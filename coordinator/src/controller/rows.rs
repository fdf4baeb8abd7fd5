//! The model's states as rows on disk, and back.

use std::time::Duration;

use jiff::Timestamp;

use super::decide::Decided;
use super::{Controller, words};
use crate::attempt_log::AttemptLog;
use crate::cluster::{
    AttemptEnd, Class, NodeKey, Placement, Request, Resources, Seq, Shown, StorageSet, TaskState,
};
use crate::store::{self, Asks, Change, FinalState, LiveRow, LiveState, StoreError};

impl Controller {
    /// Everything that a batch changes on disk, in the order in which it must be written.
    pub(super) fn changes(&mut self, decided: &mut Decided) -> Result<Vec<Change>, StoreError> {
        let wall = Timestamp::now();
        let mut changes = Vec::new();
        for accepted in &decided.accepted {
            changes.push(Change::Accepted {
                seq: accepted.seq,
                id: accepted.id,
                owner: accepted.owner.clone(),
                created: wall,
                spec: accepted.spec.clone(),
                asks: accepted.asks.as_ref().clone(),
                notes: accepted.notes.clone(),
            });
        }
        for ((owner, key), request) in std::mem::take(&mut decided.remembered) {
            changes.push(Change::Remembered { owner, key, request });
        }
        let forgotten = std::mem::take(&mut decided.forgotten).into_iter();
        changes.extend(forgotten.map(|request| Change::RequestForgotten { request }));
        let notes = std::mem::take(&mut decided.notes).into_iter();
        changes.extend(notes.map(|(seq, note)| Change::Noted { seq, note }));
        for end in &decided.effects.ended {
            let reported = decided.logs.remove(&(end.seq, end.placement.attempt));
            let log = self.attempt_log(end, reported, wall, decided.effects.changed.get(&end.seq));
            changes.push(Change::AttemptEnded { seq: end.seq, attempt: end.placement.attempt, log });
        }
        for (seq, state) in &decided.effects.changed {
            self.recall(*seq)?;
            changes.extend(match final_state(*state) {
                Some(state) => Some(Change::Finished { seq: *seq, state }),
                // What was accepted and still waits is written by its acceptance.
                None if is_fresh(*state) => None,
                None => self.live_row(*seq, *state, wall).map(|row| Change::Live { seq: *seq, row }),
            });
        }
        changes.extend(decided.swept.iter().map(|ended| Change::Swept { ended: *ended }));
        Ok(changes)
    }

    fn live_row(&mut self, seq: Seq, state: TaskState, wall: Timestamp) -> Option<LiveRow> {
        let task = self.live.get_mut(&seq)?;
        task.since = match state {
            TaskState::Queued { .. } => None,
            TaskState::Initializing(_) => Some(wall),
            _ => task.since.or(Some(wall)),
        };
        let mut row = LiveRow::queued(task.asks.as_ref().clone());
        row.since = task.since;
        row.state = match state {
            TaskState::Queued { .. } => LiveState::Queued,
            TaskState::Initializing(_) => LiveState::Initializing,
            TaskState::Running(_) => LiveState::Running,
            TaskState::Finalizing(_) => LiveState::Finalizing,
            TaskState::Canceling { shown: Shown::Initializing, .. } => {
                LiveState::Canceling { shown: store::Shown::Initializing }
            }
            TaskState::Canceling { shown: Shown::Running, .. } => {
                LiveState::Canceling { shown: store::Shown::Running }
            }
            TaskState::Complete | TaskState::ExecutorError | TaskState::SystemError | TaskState::Canceled => {
                return None;
            }
        };
        if let TaskState::Queued { attempt, avoid, .. } = state {
            row.attempt = attempt - 1;
            row.avoid = avoid.map(|key| self.cluster.node(key).id.clone());
        } else if let Some(placement) = state.placement() {
            row.attempt = placement.attempt;
            row.node = Some(self.cluster.node(placement.node).id.clone());
        }
        Some(row)
    }

    fn attempt_log(
        &self,
        end: &AttemptEnd,
        reported: Option<AttemptLog>,
        wall: Timestamp,
        next: Option<&TaskState>,
    ) -> AttemptLog {
        let node = &self.cluster.node(end.placement.node).id;
        let mut log = reported.unwrap_or_else(|| AttemptLog {
            start_time: self.live.get(&end.seq).and_then(|task| task.since),
            end_time: Some(wall),
            ..AttemptLog::default()
        });
        log.node = Some(node.clone());
        log.metadata.insert("node".to_owned(), node.clone());
        log.metadata.insert("attempt".to_owned(), end.placement.attempt.to_string());
        if let Some(loss) = end.lost {
            log.system_logs.push(words::lost(loss, node));
            let reason = words::reason(loss).code().to_owned();
            log.metadata.entry("reason".to_owned()).or_insert(reason);
        }
        if let Some(TaskState::Queued { not_before, .. }) = next {
            let wait = Duration::from_millis(not_before.since(self.now()));
            log.system_logs.push(words::run_again(end.placement.attempt, wait));
        }
        if let (Some(TaskState::SystemError), Some(_)) = (next, end.lost) {
            log.system_logs.push(words::not_run_again());
        }
        log
    }
}

fn is_fresh(state: TaskState) -> bool {
    matches!(state, TaskState::Queued { attempt: 1, .. })
}

fn final_state(state: TaskState) -> Option<FinalState> {
    match state {
        TaskState::Complete => Some(FinalState::Complete),
        TaskState::ExecutorError => Some(FinalState::ExecutorError),
        TaskState::SystemError => Some(FinalState::SystemError),
        TaskState::Canceled => Some(FinalState::Canceled),
        _ => None,
    }
}

/// The model's state of a live row. Waits begin anew: the model's clock started with this process.
pub(super) fn state_of(row: &LiveRow, mut key: impl FnMut(&str) -> NodeKey) -> TaskState {
    let avoid = row.avoid.as_deref().map(&mut key);
    let queued = TaskState::Queued { attempt: row.attempt + 1, not_before: Default::default(), avoid };
    // A row with a node always has one of the states that follow; without, the task can only wait.
    let Some(node) = row.node.as_deref() else { return queued };
    let placement = Placement { attempt: row.attempt, node: key(node) };
    match row.state {
        LiveState::Queued => queued,
        LiveState::Initializing => TaskState::Initializing(placement),
        LiveState::Running => TaskState::Running(placement),
        LiveState::Finalizing => TaskState::Finalizing(placement),
        LiveState::Canceling { shown: store::Shown::Running } => {
            TaskState::Canceling { placement, shown: Shown::Running }
        }
        LiveState::Canceling { .. } => TaskState::Canceling { placement, shown: Shown::Initializing },
    }
}

/// What stands in the model for a network that a node offers.
pub(super) fn place_of_network(name: &str) -> Option<usize> {
    match name {
        "egress" => Some(StorageSet::EGRESS),
        "host" => Some(StorageSet::HOST),
        _ => None,
    }
}

/// The model's form of what a task asks for.
pub(super) fn request_of(asks: &Asks, storages: &[String]) -> Request {
    let mut needed = StorageSet::default();
    for path in &asks.storages {
        // A storage that was taken out of the configuration: the last index, which no node ever offers.
        let index = storages.iter().position(|known| known == path).unwrap_or(StorageSet::MAX - 1);
        needed.insert(index);
    }
    if let Some(place) = asks.network.as_deref().and_then(place_of_network) {
        needed.insert(place);
    }
    let need =
        Resources { cpu_milli: asks.cpu_milli, memory_bytes: asks.memory_bytes, disk_bytes: asks.disk_bytes };
    Request { class: Class { need, storages: needed }, preemptible: asks.preemptible }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_that_is_gone_is_offered_by_nobody() {
        let asks = Asks { storages: vec!["/mnt/gone".to_owned()], ..Asks::default() };
        let request = request_of(&asks, &["/mnt/shared".to_owned()]);
        let mut offered = StorageSet::default();
        offered.insert(0);
        assert!(!offered.contains(&request.class.storages));
    }

    #[test]
    fn rows_come_back_as_the_states_they_were() {
        let key = |_: &str| NodeKey(4);
        let placement = Placement { attempt: 3, node: NodeKey(4) };
        for (state, expected) in [
            (LiveState::Initializing, TaskState::Initializing(placement)),
            (LiveState::Running, TaskState::Running(placement)),
            (LiveState::Finalizing, TaskState::Finalizing(placement)),
            (
                LiveState::Canceling { shown: store::Shown::Running },
                TaskState::Canceling { placement, shown: Shown::Running },
            ),
        ] {
            let row =
                LiveRow { state, attempt: 3, node: Some("n".into()), ..LiveRow::queued(Asks::default()) };
            assert_eq!(state_of(&row, key), expected);
        }
        let waiting = LiveRow { attempt: 3, avoid: Some("n".into()), ..LiveRow::queued(Asks::default()) };
        assert!(matches!(
            state_of(&waiting, key),
            TaskState::Queued { attempt: 4, avoid: Some(NodeKey(4)), .. }
        ));
    }
}
