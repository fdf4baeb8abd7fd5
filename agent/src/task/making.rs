//! Having a container made, and the one thing that it may have to wait for: an address, where as many tasks of
//! this node have a way out as its pool holds. It decides nothing about what is made.

use std::time::Duration;

use super::run::{Halt, Run};
use crate::assignment::{Report, Stage};
use crate::runtime::{ContainerSpec, RuntimeError};

/// Between two looks for an address that another task has left. The kernel tells nobody.
const ADDRESS_PAUSE: Duration = Duration::from_secs(1);

impl Run {
    /// Has the runtime make a container, and waits for as long as it lacks an address. There is no deadline: those
    /// who have the addresses are tasks like this one, which end or are stopped, and an executor that is not the
    /// first has work behind it that must not be lost. An order to stop ends the waiting.
    pub(super) async fn make_container(
        &self,
        spec: &ContainerSpec,
    ) -> Result<Result<(), RuntimeError>, Halt> {
        let runtime = &self.node.runtime;
        let mut waits = false;
        loop {
            match self.patiently(|| runtime.create(spec)).await? {
                Err(RuntimeError::NoAddress(reason)) => {
                    if !std::mem::replace(&mut waits, true) {
                        self.tell_of_waiting(&reason).await;
                    }
                    self.unless_stopped(tokio::time::sleep(ADDRESS_PAUSE)).await?;
                }
                done => return Ok(done),
            }
        }
    }

    async fn tell_of_waiting(&self, reason: &str) {
        let id = self.id();
        tracing::info!(task = %id.task, attempt = id.attempt, reason, "waiting for an address");
        // A note says that a task is being prepared, which a later executor's is not.
        if matches!(self.attempt.stage(), Stage::Preparing) {
            let line = format!("waiting to {reason}");
            self.report(Report::Note(id, line)).await;
        }
    }
}
