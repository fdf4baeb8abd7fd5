//! Containers of ours that no record speaks of: their attempt's directory was lost or damaged. Nobody will
//! ever ask for them, so they are killed and removed. A container with a record is never touched here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use teamster_values::TaskId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Event;
use crate::assignment::AttemptId;
use crate::runtime::{ContainerId, Runtime, RuntimeError};
use crate::task::Node;

/// Pause between two tries while containerd is not there or something cannot be killed.
const PAUSE: Duration = Duration::from_secs(5);

/// Looks for containers without a record, and removes them.
pub(super) struct Orphans {
    node: Arc<Node>,
    work: JoinSet<()>,
    gone: BTreeMap<AttemptId, CancellationToken>,
}

impl Orphans {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node, work: JoinSet::new(), gone: BTreeMap::new() }
    }

    /// Asks the runtime for all containers, as often as it takes, and says so in an [`Event::Found`].
    pub(super) fn look(&mut self, events: mpsc::Sender<Event>) {
        let runtime = self.node.runtime.clone();
        self.work.spawn(async move {
            loop {
                match runtime.list().await {
                    Ok(containers) => {
                        // The supervisor is gone only when the agent ends.
                        let _ = events.send(Event::Found(containers)).await;
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot look for containers without a record yet");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        });
    }

    /// Removes those of `containers` whose attempt is not `known`.
    pub(super) fn remove(&mut self, containers: Vec<ContainerId>, known: &BTreeSet<AttemptId>) {
        let mut attempts: BTreeMap<AttemptId, Vec<ContainerId>> = BTreeMap::new();
        for container in containers.into_iter().filter(|container| !known.contains(&container.attempt)) {
            attempts.entry(container.attempt).or_default().push(container);
        }
        for (attempt, containers) in attempts {
            tracing::warn!(task = %attempt.task, attempt = attempt.attempt, "removing containers that no record speaks of");
            let gone = CancellationToken::new();
            self.gone.insert(attempt, gone.clone());
            let runtime = self.node.runtime.clone();
            self.work.spawn(async move {
                while let Err(error) = remove_attempt(runtime.as_ref(), attempt, &containers).await {
                    tracing::error!(%attempt, %error, "failed to remove containers without a record; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
                gone.cancel();
            });
        }
    }

    /// What a new attempt at `task` has to wait for.
    pub(super) fn of(&self, task: TaskId) -> impl Iterator<Item = CancellationToken> {
        let (first, last) = (AttemptId { task, attempt: 0 }, AttemptId { task, attempt: u32::MAX });
        self.gone.range(first..=last).map(|(_, gone)| gone.clone())
    }

    pub(super) async fn shutdown(&mut self) {
        self.work.shutdown().await;
    }
}

async fn remove_attempt(
    runtime: &dyn Runtime,
    attempt: AttemptId,
    containers: &[ContainerId],
) -> Result<(), RuntimeError> {
    for container in containers {
        runtime.remove(*container).await?;
    }
    runtime.release_attempt(attempt).await
}
