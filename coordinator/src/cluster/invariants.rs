//! What must hold after every event. Everything that is kept twice is computed again from the tasks.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{Node, NodeKey};
use super::resources::Resources;
use super::task::TaskState;
use super::{Cluster, Counts, Seq};

/// A broken invariant, in words.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl Cluster {
    /// Checks everything. For tests: it reads the whole model.
    pub fn check_invariants(&self) -> Result<(), Violation> {
        self.tasks_are_live()?;
        self.counts_are_right()?;
        self.queue_holds_the_queued()?;
        self.nodes_hold_their_tasks()
    }

    fn tasks_are_live(&self) -> Result<(), Violation> {
        for (seq, task) in &self.tasks {
            if task.state.is_terminal() {
                return Err(Violation(format!("task {seq} has ended and is still here: {:?}", task.state)));
            }
            let attempt = match task.state {
                TaskState::Queued { attempt, .. } => attempt,
                state => state.placement().map_or(0, |placement| placement.attempt),
            };
            // An attempt beyond the limit can only come from stops that the operator asked for.
            if attempt == 0 {
                return Err(Violation(format!("task {seq} has no attempt: {:?}", task.state)));
            }
        }
        Ok(())
    }

    fn counts_are_right(&self) -> Result<(), Violation> {
        let mut expected = Counts::default();
        self.tasks.values().for_each(|task| expected.add(&task.state));
        if self.counts != expected {
            return Err(Violation(format!("counted {:?}, there are {expected:?}", self.counts)));
        }
        Ok(())
    }

    fn queue_holds_the_queued(&self) -> Result<(), Violation> {
        let queued: BTreeSet<Seq> = self
            .tasks
            .iter()
            .filter(|(_, task)| matches!(task.state, TaskState::Queued { .. }))
            .map(|(seq, _)| *seq)
            .collect();
        let in_queue = self.queue.all();
        if queued != in_queue {
            return Err(Violation(format!("queued are {queued:?}, in the queue are {in_queue:?}")));
        }
        Ok(())
    }

    fn nodes_hold_their_tasks(&self) -> Result<(), Violation> {
        let mut expected: BTreeMap<NodeKey, (BTreeSet<Seq>, Resources)> = BTreeMap::new();
        for (seq, task) in &self.tasks {
            let Some(placement) = task.state.placement() else { continue };
            let (tasks, used) = expected.entry(placement.node).or_default();
            tasks.insert(*seq);
            *used += task.request.class.need;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let (tasks, used) = expected.remove(&NodeKey(index as u32)).unwrap_or_default();
            check_node(node, &tasks, &used)?;
        }
        if !expected.is_empty() {
            return Err(Violation(format!("tasks are on nodes that do not exist: {expected:?}")));
        }
        Ok(())
    }
}

fn check_node(node: &Node, tasks: &BTreeSet<Seq>, used: &Resources) -> Result<(), Violation> {
    if node.tasks != *tasks || node.used != *used {
        return Err(Violation(format!("node {node:?} should hold {tasks:?} and have {used:?} in use")));
    }
    Ok(())
}
