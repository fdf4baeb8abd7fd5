//! What comes in to the model and what it answers, as values.

use std::collections::BTreeMap;

use super::{Class, Held, Loss, NodeKey, Offer, Placement, Seq, TaskState};

/// What the operator decided.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Whether attempts that had started are made again even where the task is not preemptible.
    pub retry_started_always: bool,
    /// How many attempts are made in all while the infrastructure fails them.
    pub attempts_max: u32,
    /// How long an attempt goes on without its agent being heard.
    pub lease_millis: u64,
    /// The same for preemptible tasks.
    pub preemptible_lease_millis: u64,
    /// How long after the end of its lease an attempt is held to be dead.
    pub lease_margin_millis: u64,
}

/// What the model knows of what a task asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Resources and storages.
    pub class: Class,
    /// Whether it may be run again after it had started.
    pub preemptible: bool,
}

/// What can happen to the cluster.
#[derive(Debug, Clone)]
pub enum Event {
    /// A task was accepted under the next sequence number.
    Submitted(Seq, Request),
    /// Somebody wants a task to end.
    CancelRequested(Seq),
    /// An agent's session is up, and this is all that it holds.
    NodeConnected {
        /// The node's stable name.
        id: String,
        /// What it has.
        offer: Offer,
        /// What it holds of tasks that are known here.
        held: Vec<Held>,
    },
    /// A node's storages came or went.
    OfferChanged(NodeKey, Offer),
    /// An agent's session is gone.
    NodeDisconnected(NodeKey),
    /// An agent says how far an attempt is.
    Reported(NodeKey, Held),
    /// Time has passed.
    Tick,
}

/// What to tell an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Command {
    /// Run this attempt.
    Start(Seq, u32),
    /// Kill it, and say how it ended.
    Stop(Seq, u32),
    /// What it left is on disk here, or unwanted: delete it.
    Forget(Seq, u32),
}

/// What follows from events, in order: first to be committed, then to be acted on.
#[derive(Debug, Default)]
pub struct Effects {
    /// Tasks whose state changed, with the latest state.
    pub changed: BTreeMap<Seq, TaskState>,
    /// Attempts that ended, each once, in order.
    pub ended: Vec<AttemptEnd>,
    /// To be sent once all of this is on disk.
    pub commands: Vec<(NodeKey, Command)>,
}

/// An attempt that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptEnd {
    /// The task.
    pub seq: Seq,
    /// Which attempt, and where.
    pub placement: Placement,
    /// Why it is held to be dead; none when its agent reported the end.
    pub lost: Option<Loss>,
}
