//! Queued tasks × free resources → placements. Best fit over all nodes, oldest first; what fits nowhere now
//! does not hold up what comes after it, until it has waited so long that a node is kept for it.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{Node, NodeKey};
use super::resources::{Resources, StorageSet};
use super::{Millis, Seq};

/// A task that has waited this long for a node that could hold it gets the best such node reserved.
pub(super) const RESERVE_AFTER_MILLIS: u64 = 5 * 60 * 1000;

/// What a task asks for. Tasks that ask for the same are one class, and are looked at as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Class {
    /// Set aside for it on its node.
    pub need: Resources,
    /// Storages that its node must offer.
    pub storages: StorageSet,
}

/// A task in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    /// When it could first have been placed.
    pub(super) since: Millis,
    /// Another node is preferred to this one.
    pub(super) avoid: Option<NodeKey>,
}

/// All queued tasks: those that wait for a node, and those that wait for their back-off first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    ready: BTreeMap<Class, BTreeMap<Seq, Waiting>>,
    delayed: BTreeMap<(Millis, Seq), (Class, Option<NodeKey>)>,
}

impl Queue {
    /// Adds a task that may be placed from `not_before` on.
    pub(super) fn push(
        &mut self,
        now: Millis,
        seq: Seq,
        class: Class,
        not_before: Millis,
        avoid: Option<NodeKey>,
    ) {
        if not_before <= now {
            self.ready.entry(class).or_default().insert(seq, Waiting { since: now, avoid });
        } else {
            self.delayed.insert((not_before, seq), (class, avoid));
        }
    }

    /// Adds tasks that may be placed now, all at once.
    pub(super) fn restore(&mut self, class: Class, waiting: Vec<(Seq, Waiting)>) {
        self.ready.entry(class).or_default().append(&mut waiting.into_iter().collect());
    }

    /// Takes a task out, whichever way it waits.
    pub(super) fn remove(&mut self, seq: Seq, class: Class, not_before: Millis) {
        self.delayed.remove(&(not_before, seq));
        if let Some(waiting) = self.ready.get_mut(&class) {
            waiting.remove(&seq);
            if waiting.is_empty() {
                self.ready.remove(&class);
            }
        }
    }

    /// Moves over what has waited out its back-off; whether there was any.
    pub(super) fn wake(&mut self, now: Millis) -> bool {
        let mut woken = false;
        while let Some(entry) = self.delayed.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((_, seq), (class, avoid)) = entry.remove_entry();
            self.ready.entry(class).or_default().insert(seq, Waiting { since: now, avoid });
            woken = true;
        }
        woken
    }

    /// Since when the task that waits longest has been waiting for a node.
    pub(super) fn oldest_since(&self) -> Option<Millis> {
        self.ready.values().filter_map(|waiting| Some(waiting.first_key_value()?.1.since)).min()
    }

    /// Every queued task, for checks.
    pub(super) fn all(&self) -> BTreeSet<Seq> {
        let ready = self.ready.values().flat_map(|waiting| waiting.keys().copied());
        ready.chain(self.delayed.keys().map(|(_, seq)| *seq)).collect()
    }
}

/// Which queued tasks go where, now. Nothing is changed: the caller makes each placement an event.
pub(super) fn place(now: Millis, queue: &Queue, nodes: &[Node]) -> Vec<(Seq, NodeKey)> {
    let mut round = Round::new(nodes);
    let mut placed = Vec::new();
    let mut classes: Vec<_> =
        queue.ready.iter().map(|(class, waiting)| (class, waiting.iter().peekable())).collect();
    // The oldest task of any class goes first; a class that fits nowhere leaves the round as one.
    let mut heads: BTreeSet<(Seq, usize)> = classes
        .iter_mut()
        .enumerate()
        .filter_map(|(index, (_, waiting))| waiting.peek().map(|(seq, _)| (**seq, index)))
        .collect();
    while let Some((seq, index)) = heads.pop_first() {
        let (class, waiting) = &mut classes[index];
        let Some((_, entry)) = waiting.next() else { continue };
        match round.choose(class, entry.avoid) {
            Choice::Node(node) => {
                round.take(node, &class.need);
                placed.push((seq, node));
            }
            Choice::OnlyAvoided => {}
            Choice::None => {
                if now.since(entry.since) >= RESERVE_AFTER_MILLIS {
                    round.reserve_for(class);
                }
                continue;
            }
        }
        if let Some((next, _)) = waiting.peek() {
            heads.insert((**next, index));
        }
    }
    placed
}

enum Choice {
    Node(NodeKey),
    /// It would fit, but only where it was lost before, and another node could hold it later.
    OnlyAvoided,
    None,
}

/// One pass over the queue: what is free so far.
struct Round<'a> {
    nodes: &'a [Node],
    free: Vec<Resources>,
    reserved: BTreeSet<usize>,
}

impl<'a> Round<'a> {
    fn new(nodes: &'a [Node]) -> Self {
        Self { nodes, free: nodes.iter().map(Node::free).collect(), reserved: BTreeSet::new() }
    }

    /// Nodes that could hold the class when they are empty.
    fn able(&self, class: &Class) -> impl Iterator<Item = usize> {
        self.nodes
            .iter()
            .enumerate()
            .filter(move |(_, node)| {
                node.is_connected()
                    && node.offer.storages.contains(&class.storages)
                    && node.offer.capacity.covers(&class.need)
            })
            .map(|(index, _)| index)
    }

    /// The node that is left with least after taking it.
    fn choose(&self, class: &Class, avoid: Option<NodeKey>) -> Choice {
        let best = |avoided: bool| {
            self.able(class)
                .filter(|&index| (avoid == Some(NodeKey(index as u32))) == avoided)
                .filter(|index| !self.reserved.contains(index) && self.free[*index].covers(&class.need))
                .min_by_key(|&index| {
                    let left = self.free[index].less(&class.need);
                    (left.share_of(&self.nodes[index].offer.capacity), index)
                })
        };
        if let Some(index) = best(false) {
            return Choice::Node(NodeKey(index as u32));
        }
        let Some(index) = best(true) else { return Choice::None };
        let another_is_able = self.able(class).any(|other| other != index);
        if another_is_able { Choice::OnlyAvoided } else { Choice::Node(NodeKey(index as u32)) }
    }

    fn take(&mut self, node: NodeKey, need: &Resources) {
        self.free[node.0 as usize] -= *need;
    }

    /// Keeps the able node that has most free from everything younger in this round.
    fn reserve_for(&mut self, class: &Class) {
        let best = self.able(class).filter(|index| !self.reserved.contains(index)).max_by_key(|&index| {
            (self.free[index].share_of(&self.nodes[index].offer.capacity), usize::MAX - index)
        });
        self.reserved.extend(best);
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
