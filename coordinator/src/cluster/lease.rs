//! When silence is death. An attempt on a node that is not heard is held to be dead at the end of its lease
//! and a margin, because agent and keeper have killed it by then. The brake: when many nodes vanish at
//! once, it is more likely us than them, and nothing is declared dead by time.

use super::node::Link;
use super::task::{Loss, TaskEvent};
use super::{Cluster, Effects, Millis, NodeKey, Seq};

/// Nodes that vanish within this time of each other count together.
const BRAKE_WINDOW_MILLIS: u64 = 2 * 60 * 1000;
/// The brake needs more nodes than this, and more than half of all.
const BRAKE_NODES_MIN: usize = 3;

impl Cluster {
    /// Declares dead what must be by now. Whether there was anything.
    pub(super) fn end_leases(&mut self, now: Millis, effects: &mut Effects) -> bool {
        if self.brake {
            return false;
        }
        let dead: Vec<(Seq, u32)> = (0..self.nodes.len() as u32)
            .filter_map(|index| match self.node(NodeKey(index)).link {
                Link::Disconnected(since) => Some((NodeKey(index), now.since(since))),
                Link::Connected => None,
            })
            .flat_map(|(key, silent_millis)| self.dead_on(key, silent_millis))
            .collect();
        for (seq, attempt) in &dead {
            self.apply(now, *seq, TaskEvent::Lost(*attempt, Loss::LeaseEnded), effects);
        }
        !dead.is_empty()
    }

    fn dead_on(&self, key: NodeKey, silent_millis: u64) -> Vec<(Seq, u32)> {
        let margin_millis = self.policy.lease_margin_millis;
        self.node(key)
            .tasks
            .iter()
            .filter_map(|seq| Some((*seq, self.tasks.get(seq)?)))
            .filter(|(_, task)| silent_millis >= self.lease_millis(&task.request) + margin_millis)
            .filter_map(|(seq, task)| Some((seq, task.state.placement()?.attempt)))
            .collect()
    }

    /// Puts the brake on or takes it off. It stays on until enough nodes are back.
    pub(super) fn review_brake(&mut self, now: Millis) {
        let silent = |within_millis: u64| {
            self.nodes
                .iter()
                .filter(|node| match node.link {
                    Link::Disconnected(since) => now.since(since) <= within_millis,
                    Link::Connected => false,
                })
                .count()
        };
        let too_many = |count: usize| count > BRAKE_NODES_MIN && count * 2 > self.nodes.len();
        self.brake = too_many(silent(BRAKE_WINDOW_MILLIS)) || (self.brake && too_many(silent(u64::MAX)));
    }
}
