//! Attempts of tasks that this cluster does not know: of one that was swept while its agent was away, or of
//! one that an older database, put back, has never heard of. They have ended; what they left is kept on
//! their nodes for a while, for somebody to look at, and then let go. Only what agents say now is kept here:
//! an agent that comes back says it again.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use teamster_values::TaskId;

use super::ToAgent;
use crate::cluster::NodeKey;

/// How many are let go at one tick, so that no agent's queue of commands is filled by them.
const LET_GO_AT_ONCE_MAX: usize = 512;

/// Those that connected agents hold, with their ends.
#[derive(Debug)]
pub(super) struct Strangers {
    /// How long what they left is kept, counted from their end.
    retention: Duration,
    ends: BTreeMap<(NodeKey, TaskId, u32), Timestamp>,
}

impl Strangers {
    /// None yet; what they leave will be kept for so long.
    pub(super) fn new(retention: Duration) -> Self {
        Self { retention, ends: BTreeMap::new() }
    }

    /// An agent holds one that ended then, or now where it does not say.
    pub(super) fn ended(&mut self, key: NodeKey, task: TaskId, attempt: u32, end: Option<Timestamp>) {
        let now = Timestamp::now();
        // A clock that is ahead must not keep it for ever.
        self.ends.insert((key, task, attempt), end.map_or(now, |end| end.min(now)));
    }

    /// An agent went.
    pub(super) fn gone(&mut self, key: NodeKey) {
        self.ends.retain(|(node, ..), _| *node != key);
    }

    /// The commands that let go of what was kept long enough.
    pub(super) fn old(&mut self, now: Timestamp) -> Vec<(NodeKey, ToAgent)> {
        let kept = self.retention;
        let is_old = |end: &Timestamp| now.duration_since(*end).unsigned_abs() >= kept && *end <= now;
        let old: Vec<_> = self.ends.extract_if(.., |_, end| is_old(end)).take(LET_GO_AT_ONCE_MAX).collect();
        old.into_iter()
            .map(|((key, task, attempt), _)| {
                tracing::info!(%task, attempt, "letting go of what a task unknown to this cluster left");
                (key, ToAgent::Forget { task, attempt })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_long_enough_is_let_go_once() {
        let (now, task) = (Timestamp::now(), TaskId::from_bytes([3; 16]));
        let hours_ago = |hours: u64| Some(now - Duration::from_secs(hours * 3600));
        let day = Duration::from_secs(24 * 3600);
        let mut strangers = Strangers::new(day);
        strangers.ended(NodeKey(1), task, 1, hours_ago(25));
        strangers.ended(NodeKey(1), task, 2, hours_ago(23));
        strangers.ended(NodeKey(2), task, 1, None);
        strangers.ended(NodeKey(3), task, 1, hours_ago(25));
        strangers.gone(NodeKey(3));
        assert_eq!(strangers.old(now), [(NodeKey(1), ToAgent::Forget { task, attempt: 1 })]);
        assert_eq!(strangers.old(now), []);
        let later = now + day + Duration::from_secs(60);
        assert_eq!(strangers.old(later).len(), 2);
    }
}
