//! What may be seen without asking the controller: the nodes and how far live tasks are. The controller
//! publishes what changed after each commit, so nothing here is ever ahead of the disk, and a commit costs
//! what it changed, however many nodes and tasks there are. Readers take a snapshot of the nodes and hold no
//! lock while they use it, or watch one task and are woken by each publish that changed it.

mod watch;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use serde::Serialize;
use teamster_values::ByteCount;

pub use watch::Watch;

/// The published state.
#[derive(Debug, Default)]
pub struct Board {
    current: RwLock<Arc<View>>,
    /// How far live tasks are, by sequence number; a task of which nothing is known has no entry.
    progress: RwLock<HashMap<u64, Progress>>,
    watched: Arc<watch::Watched>,
}

/// One snapshot.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Every node that was heard since this process started, in the order of its first word.
    pub nodes: Vec<NodeView>,
}

/// What is done now for a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It is made ready to run.
    Preparing {
        /// How far that is, one line for people.
        note: Arc<str>,
    },
    /// One of its executors runs.
    Running {
        /// Index of the executor.
        executor: u32,
        /// Since when.
        since: Timestamp,
    },
}

/// A node, as `GET /v1/nodes` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeView {
    /// Its stable name.
    pub id: String,
    /// `READY` or `DISCONNECTED`.
    pub state: NodeState,
    /// When it was last seen to connect or go.
    pub since: Timestamp,
    /// Why it takes no new tasks; absent when it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// What it offers.
    pub capacity: Amount,
    /// What is not set aside for a task.
    pub free: Amount,
    /// How many tasks are assigned to it.
    pub tasks: usize,
    /// The storage it offers.
    pub storage: Vec<StorageView>,
    /// What tasks may ask for there beside having no network.
    pub networks: Vec<String>,
    /// Versions of what runs there.
    pub versions: BTreeMap<String, String>,
    /// What tasks could need and it does not have, one short clause each.
    pub lacks: Vec<String>,
}

/// Whether a node takes work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NodeState {
    /// Its agent is connected.
    Ready,
    /// Its agent is not; what runs there is left as it is until its lease ends.
    Disconnected,
}

/// An amount of resources, in thousandths of a CPU and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Amount {
    /// Thousandths of a CPU.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of scratch space.
    pub disk_bytes: u64,
}

/// A storage on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StorageView {
    /// Its name.
    pub name: String,
    /// Where tasks see it.
    pub path: String,
    /// Whether it is usable.
    pub ok: bool,
}

impl View {
    /// Why a queued task with this need, these storage paths and this network waits for a node that is not there:
    /// none when some known node could hold it, if not now then later.
    pub fn why_unplaceable(&self, need: Amount, storages: &[&str], network: Option<&str>) -> Option<String> {
        if self.nodes.is_empty() {
            return Some("waiting for a node: none has ever connected".to_owned());
        }
        let large_enough: Vec<_> = self.nodes.iter().filter(|node| node.capacity.covers(need)).collect();
        if large_enough.is_empty() {
            return Some(format!(
                "waiting for a larger node: the task needs {need}, and no known node has that much"
            ));
        }
        let offers = |node: &NodeView, path: &str| node.storage.iter().any(|offer| offer.path == path);
        let with_storage: Vec<_> =
            large_enough.iter().filter(|node| storages.iter().all(|path| offers(node, path))).collect();
        if with_storage.is_empty() {
            return Some(format!(
                "waiting for a node with the storage {}: no known node that is large enough offers it",
                storages.join(", ")
            ));
        }
        let network = network?;
        let has_it = |node: &NodeView| node.networks.iter().any(|offered| offered == network);
        (!with_storage.iter().any(|node| has_it(node))).then(|| {
            format!(
                "waiting for a node with network '{network}': no known node that the task fits on offers it \
                 ('teamster node list' says what each of them lacks)"
            )
        })
    }
}

impl Amount {
    /// Whether this is at least as much of everything.
    pub fn covers(&self, need: Amount) -> bool {
        self.cpu_milli >= need.cpu_milli
            && self.memory_bytes >= need.memory_bytes
            && self.disk_bytes >= need.disk_bytes
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} CPU, {} memory and {} disk",
            self.cpu_milli as f64 / 1000.0,
            ByteCount(self.memory_bytes),
            ByteCount(self.disk_bytes)
        )
    }
}

impl Board {
    /// The latest snapshot.
    pub fn view(&self) -> Arc<View> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is done now for the task `seq`.
    pub fn progress(&self, seq: u64) -> Option<Progress> {
        self.progress.read().unwrap_or_else(PoisonError::into_inner).get(&seq).cloned()
    }

    /// Shows nodes as they are now, each in its place; a new one has the next. Copies the others only where
    /// a reader holds the snapshot before. Only the controller calls this.
    pub(crate) fn show_nodes(&self, changed: Vec<(usize, NodeView)>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let nodes = &mut Arc::make_mut(&mut current).nodes;
        for (place, node) in changed {
            match nodes.get_mut(place) {
                Some(old) => *old = node,
                None => nodes.push(node),
            }
        }
    }

    /// Shows how far tasks are now; none where there is nothing to say. Only the controller calls this.
    pub(crate) fn show_progress(&self, changed: impl Iterator<Item = (u64, Option<Progress>)>) {
        let mut shown = self.progress.write().unwrap_or_else(PoisonError::into_inner);
        for (seq, progress) in changed {
            match progress {
                Some(progress) => drop(shown.insert(seq, progress)),
                None => drop(shown.remove(&seq)),
            }
        }
    }

    /// Wakes whoever watches one of these tasks; they changed with the commit whose view was just
    /// published. Only the controller calls this.
    pub(crate) fn announce(&self, changed: &[u64]) {
        self.watched.announce(changed);
    }

    /// Watches the task `seq` from now on: a change that is committed after this call is not missed.
    pub fn watch(&self, seq: u64) -> Watch {
        watch::Watched::watch(&self.watched, seq)
    }
}
