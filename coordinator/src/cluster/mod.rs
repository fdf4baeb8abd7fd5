//! THE MODEL: which task is in which state, which node has what, and what follows from an event. Pure: no
//! I/O, no clock, no async, no specs; `now` and ids come in as arguments, changes and commands go out as
//! values. It holds live tasks only: what has ended is the store's.

mod counts;
mod event;
mod invariants;
mod lease;
mod node;
mod reconcile;
mod resources;
mod restore;
mod scheduler;
mod task;

use std::collections::BTreeMap;

pub use counts::Counts;
pub use event::{AttemptEnd, Command, Effects, Event, Policy, Request};
pub use invariants::Violation;
pub use node::{Link, Node, NodeKey, Offer};
pub use reconcile::{Held, HeldStage};
pub use resources::{Resources, StorageSet};
pub use scheduler::Class;
pub use task::{Ending, Loss, Placement, RetryRule, Shown, TaskEvent, TaskState};

use reconcile::Step;
use scheduler::Queue;

/// Order of acceptance: the key of a task everywhere inside.
pub type Seq = u64;

/// Milliseconds on a clock that never goes back and starts anew with the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// This much later.
    pub fn after_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// How long ago `earlier` was; 0 when it is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A live task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// What it asks for.
    pub request: Request,
    /// Where it stands.
    pub state: TaskState,
}

/// Everything that lives.
#[derive(Debug)]
pub struct Cluster {
    policy: Policy,
    tasks: BTreeMap<Seq, Task>,
    counts: Counts,
    nodes: Vec<Node>,
    keys: BTreeMap<String, NodeKey>,
    queue: Queue,
    /// Whether the scheduler could find something that it did not find last time.
    unsettled: bool,
    brake: bool,
}

impl Cluster {
    /// An empty cluster.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            tasks: BTreeMap::new(),
            counts: Counts::default(),
            nodes: Vec::new(),
            keys: BTreeMap::new(),
            queue: Queue::default(),
            unsettled: false,
            brake: false,
        }
    }

    /// The key of a node, known from now on.
    pub fn node_key(&mut self, now: Millis, id: &str) -> NodeKey {
        if let Some(key) = self.keys.get(id) {
            return *key;
        }
        let key = NodeKey(self.nodes.len() as u32);
        self.nodes.push(Node::new(id.to_owned(), now));
        self.keys.insert(id.to_owned(), key);
        key
    }

    /// A live task.
    pub fn task(&self, seq: Seq) -> Option<&Task> {
        self.tasks.get(&seq)
    }

    /// How many live tasks are in each state.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Since when the task that waits longest has been waiting. Looks at each class of requests once.
    pub fn waiting_since(&self) -> Option<Millis> {
        self.queue.oldest_since()
    }

    /// All nodes, in the order of their keys.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node.
    pub fn node(&self, key: NodeKey) -> &Node {
        &self.nodes[key.0 as usize]
    }

    /// Whether so many nodes vanished at once that nothing is declared dead by time.
    pub fn brake_is_on(&self) -> bool {
        self.brake
    }

    /// How long `request`'s attempts go on without their agent being heard.
    pub fn lease_millis(&self, request: &Request) -> u64 {
        if request.preemptible { self.policy.preemptible_lease_millis } else { self.policy.lease_millis }
    }

    /// Takes in one event. Whether it changed anything that it spoke of; placements are made by
    /// [`schedule`](Self::schedule) once a batch of events is in.
    pub fn handle(&mut self, now: Millis, event: Event, effects: &mut Effects) -> bool {
        match event {
            Event::Submitted(seq, request) => {
                let state = TaskState::Queued { attempt: 1, not_before: now, avoid: None };
                self.insert(now, seq, Task { request, state });
                effects.changed.insert(seq, state);
                true
            }
            Event::CancelRequested(seq) => self.cancel(now, seq, effects),
            Event::NodeConnected { id, offer, held } => {
                self.node_connected(now, &id, offer, &held, effects);
                true
            }
            Event::OfferChanged(key, offer) => {
                self.node_mut(key).offer = offer;
                self.unsettled = true;
                true
            }
            Event::NodeDisconnected(key) => {
                self.node_mut(key).link = Link::Disconnected(now);
                self.review_brake(now);
                true
            }
            Event::Reported(key, held) => self.reported(now, key, held, effects),
            Event::Tick => {
                self.unsettled |= self.queue.wake(now);
                // Reservations ripen by time alone.
                self.unsettled |= !self.tasks.is_empty();
                self.end_leases(now, effects)
            }
        }
    }

    /// Places what can be placed. Call it once after each batch of events.
    pub fn schedule(&mut self, now: Millis, effects: &mut Effects) {
        if !std::mem::take(&mut self.unsettled) {
            return;
        }
        for (seq, node) in scheduler::place(now, &self.queue, &self.nodes) {
            self.apply(now, seq, TaskEvent::Placed(node), effects);
            if let Some(placement) = self.tasks.get(&seq).and_then(|task| task.state.placement()) {
                effects.commands.push((node, Command::Start(seq, placement.attempt)));
            }
        }
    }

    fn node_mut(&mut self, key: NodeKey) -> &mut Node {
        &mut self.nodes[key.0 as usize]
    }

    fn cancel(&mut self, now: Millis, seq: Seq, effects: &mut Effects) -> bool {
        if !self.apply(now, seq, TaskEvent::CancelRequested, effects) {
            return false;
        }
        // A disconnected agent hears of it when it is back: reconcile sends the Stop then.
        if let Some(placement) = self.tasks.get(&seq).and_then(|task| task.state.placement())
            && self.node(placement.node).is_connected()
        {
            effects.commands.push((placement.node, Command::Stop(seq, placement.attempt)));
        }
        true
    }

    fn node_connected(&mut self, now: Millis, id: &str, offer: Offer, held: &[Held], effects: &mut Effects) {
        let key = self.node_key(now, id);
        let node = self.node_mut(key);
        node.link = Link::Connected;
        node.offer = offer;
        self.unsettled = true;
        self.review_brake(now);
        let should: BTreeMap<Seq, TaskState> =
            self.node(key).tasks.iter().filter_map(|seq| Some((*seq, self.tasks.get(seq)?.state))).collect();
        for step in reconcile::reconcile(&should, held) {
            match step {
                Step::Believe(seq, event) => self.believe(now, key, seq, event, effects),
                Step::Start(seq, attempt) => effects.commands.push((key, Command::Start(seq, attempt))),
                Step::Stop(seq, attempt) => effects.commands.push((key, Command::Stop(seq, attempt))),
                Step::Forget(seq, attempt) => effects.commands.push((key, Command::Forget(seq, attempt))),
            }
        }
    }

    fn believe(&mut self, now: Millis, key: NodeKey, seq: Seq, event: TaskEvent, effects: &mut Effects) {
        self.apply(now, seq, event, effects);
        if let TaskEvent::Ended(attempt, _) | TaskEvent::Lost(attempt, _) = event {
            effects.commands.push((key, Command::Forget(seq, attempt)));
        }
    }

    fn reported(&mut self, now: Millis, key: NodeKey, held: Held, effects: &mut Effects) -> bool {
        let placement = self.tasks.get(&held.seq).and_then(|task| task.state.placement());
        if placement != Some(Placement { attempt: held.attempt, node: key }) {
            // Stale: of an attempt, a task or a node that it is not about any more.
            effects.commands.push((key, Command::Forget(held.seq, held.attempt)));
            return false;
        }
        let event = match held.stage {
            HeldStage::Preparing => return false,
            HeldStage::Running => TaskEvent::Started(held.attempt),
            HeldStage::Finalizing => TaskEvent::Finalizing(held.attempt),
            HeldStage::Ended(ending) => TaskEvent::Ended(held.attempt, ending),
        };
        let changed = self.apply(now, held.seq, event, effects);
        if matches!(held.stage, HeldStage::Ended(_)) {
            effects.commands.push((key, Command::Forget(held.seq, held.attempt)));
        }
        changed
    }

    /// Applies an event to a task and keeps queue, nodes and task list in step with its state. Whether the
    /// state changed.
    fn apply(&mut self, now: Millis, seq: Seq, event: TaskEvent, effects: &mut Effects) -> bool {
        let Some(task) = self.tasks.get(&seq).copied() else { return false };
        let rule = RetryRule {
            started: task.request.preemptible || self.policy.retry_started_always,
            attempts_max: self.policy.attempts_max,
        };
        let Ok(next) = task.state.step(now, event, rule) else { return false };
        self.remove(seq, &task);
        if !next.is_terminal() {
            self.insert(now, seq, Task { state: next, ..task });
        }
        if let (Some(placement), None) = (task.state.placement(), next.placement()) {
            let lost = match event {
                TaskEvent::Lost(_, loss) => Some(loss),
                _ => None,
            };
            effects.ended.push(AttemptEnd { seq, placement, lost });
            self.unsettled = true;
        }
        effects.changed.insert(seq, next);
        true
    }

    fn insert(&mut self, now: Millis, seq: Seq, task: Task) {
        self.enter(now, seq, &task);
        self.counts.add(&task.state);
        self.tasks.insert(seq, task);
    }

    /// Where its state puts a task: into the queue or onto a node.
    fn enter(&mut self, now: Millis, seq: Seq, task: &Task) {
        match task.state {
            TaskState::Queued { not_before, avoid, .. } => {
                self.queue.push(now, seq, task.request.class, not_before, avoid);
                self.unsettled = true;
            }
            state => {
                if let Some(placement) = state.placement() {
                    let node = self.node_mut(placement.node);
                    node.tasks.insert(seq);
                    node.used += task.request.class.need;
                }
            }
        }
    }

    fn remove(&mut self, seq: Seq, task: &Task) {
        match task.state {
            TaskState::Queued { not_before, .. } => {
                self.queue.remove(seq, task.request.class, not_before);
            }
            state => {
                if let Some(placement) = state.placement() {
                    let node = self.node_mut(placement.node);
                    node.tasks.remove(&seq);
                    node.used -= task.request.class.need;
                }
            }
        }
        self.counts.remove(&task.state);
        self.tasks.remove(&seq);
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
