//! What a task waits for before it writes anything, told once each time that it changes. What has a reason of its own
//! is told at once; that a task merely waits its turn, or is made ready, only once it takes a while.

use std::time::Duration;

use tokio::time::Instant;

use crate::api::response;
use crate::board::Board;
use crate::store::{LiveRow, LiveState, Status, StoredTask};

/// How long a wait without a reason of its own goes unmentioned: most are over by then.
const UNMENTIONED: Duration = Duration::from_secs(1);

/// What was told of a wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    told: Option<String>,
    /// Since when the task is seen to wait.
    since: Option<Instant>,
}

impl Waiting {
    /// What is to be told now of `task`, if that is not what was told last.
    pub(super) fn news(&mut self, task: &StoredTask, board: &Board) -> Option<String> {
        let row = match &task.status {
            Status::Live(row) if is_wait(row) => row,
            _ => {
                *self = Self::default();
                return None;
            }
        };
        let waited = self.since.get_or_insert_with(Instant::now).elapsed();
        let text = match response::now(task.seq, row, board) {
            Some(text) => text,
            None if waited >= UNMENTIONED => without_reason(row),
            None => return None,
        };
        if self.told.as_ref() == Some(&text) {
            return None;
        }
        self.told = Some(text.clone());
        Some(text)
    }
}

/// Whether its first command has not begun.
pub(super) fn is_wait(row: &LiveRow) -> bool {
    matches!(row.state, LiveState::Queued | LiveState::Initializing)
}

fn without_reason(row: &LiveRow) -> String {
    match (&row.node, row.attempt) {
        (Some(node), _) => format!("being made ready on node '{node}'"),
        (None, 0) => "waiting for room on a node".to_owned(),
        (None, lost) => format!("waiting to be run again: attempt {lost} was lost"),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use teamster_values::TaskId;

    use super::*;
    use crate::board::Progress;
    use crate::store::{Asks, FinalRow, FinalState, Head};

    fn task(status: Status) -> StoredTask {
        let head = Head {
            id: TaskId::from_bytes([1; 16]),
            name: None,
            owner: "somebody".into(),
            created: Timestamp::UNIX_EPOCH,
            tags: Default::default(),
        };
        StoredTask { seq: 1, head, status, spec: None, attempts: Vec::new(), big_rows_bytes: 0 }
    }

    fn placed() -> LiveRow {
        let (state, node) = (LiveState::Initializing, Some("n1".to_owned()));
        LiveRow { state, node, attempt: 1, ..LiveRow::queued(Asks::default()) }
    }

    #[tokio::test(start_paused = true)]
    async fn each_reason_is_told_once_and_its_lack_only_after_a_while() {
        let (board, mut waiting) = (Board::default(), Waiting::default());
        let queued = task(Status::Live(LiveRow::queued(Asks::default())));
        let reason = waiting.news(&queued, &board).unwrap();
        assert!(reason.starts_with("waiting for a node"), "{reason}");
        assert_eq!(waiting.news(&queued, &board), None);

        let (placed, mut waiting) = (task(Status::Live(placed())), Waiting::default());
        assert_eq!(waiting.news(&placed, &board), None);
        tokio::time::sleep(UNMENTIONED).await;
        assert_eq!(waiting.news(&placed, &board).unwrap(), "being made ready on node 'n1'");
        assert_eq!(waiting.news(&placed, &board), None);
        let note = |text: &str| [(1, Some(Progress::Preparing { note: text.into() }))];
        board.show_progress(note("pulling: 10 %").into_iter());
        assert_eq!(waiting.news(&placed, &board).unwrap(), "pulling: 10 %");
        board.show_progress(note("pulling: 20 %").into_iter());
        assert_eq!(waiting.news(&placed, &board).unwrap(), "pulling: 20 %");

        let over = FinalRow { state: FinalState::Complete, notes: Vec::new() };
        assert_eq!(waiting.news(&task(Status::Final(over)), &board), None);
        assert_eq!(waiting.news(&placed, &board).unwrap(), "pulling: 20 %", "another wait is told anew");
    }

    #[test]
    fn what_waits_for_another_attempt_says_so() {
        let row = LiveRow { attempt: 2, ..LiveRow::queued(Asks::default()) };
        assert_eq!(without_reason(&row), "waiting to be run again: attempt 2 was lost");
    }
}
