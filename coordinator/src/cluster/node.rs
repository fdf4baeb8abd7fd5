//! Nodes as the scheduler sees them.

use std::collections::BTreeSet;

use super::resources::{Resources, StorageSet};
use super::{Millis, Seq};

/// A node, by the order in which it became known to this coordinator process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey(pub u32);

/// What a node has for tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offer {
    /// Everything that tasks may use.
    pub capacity: Resources,
    /// Storages that are usable there now.
    pub storages: StorageSet,
}

/// Whether a node's agent is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// It has a session.
    Connected,
    /// It has none, since then. No new work; what runs there is left as it is.
    Disconnected(Millis),
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its stable name.
    pub id: String,
    /// What it has.
    pub offer: Offer,
    /// Whether its agent is heard.
    pub link: Link,
    /// Tasks with an attempt that may be alive here.
    pub tasks: BTreeSet<Seq>,
    /// What is set aside for them. More than the capacity after a node came back smaller.
    pub used: Resources,
}

impl Node {
    pub(super) fn new(id: String, now: Millis) -> Self {
        Self {
            id,
            offer: Offer::default(),
            link: Link::Disconnected(now),
            tasks: BTreeSet::new(),
            used: Resources::default(),
        }
    }

    /// What is not set aside.
    pub fn free(&self) -> Resources {
        self.offer.capacity.less(&self.used)
    }

    /// Whether it takes new work.
    pub fn is_connected(&self) -> bool {
        self.link == Link::Connected
    }
}
