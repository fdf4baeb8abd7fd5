//! Connects a container between its making and its start, when its namespace is there and nothing of the
//! task has run. Containers without a network are never looked at.

use containerd_client::services::v1::GetRequest;

use super::Containerd;
use super::link::{QUICK, call, failure, or_missing};
use super::wait::status;
use crate::assignment::Network;
use crate::runtime::network::{Egress, EgressError, Names};
use crate::runtime::{ContainerId, ContainerSpec, RuntimeError};

impl Containerd {
    /// What the container's files say of the world outside: nothing, without a network.
    pub(super) async fn names_for(&self, spec: &ContainerSpec) -> Result<Names, RuntimeError> {
        match spec.network {
            Network::None => Ok(Names::default()),
            Network::Egress => self.way_out()?.names().await.map_err(|error| failed(&error)),
            Network::Host => Ok(Names::of_the_node()),
        }
    }

    /// Connects a container whose task was made just now, or `again`, because nobody knows whether that was
    /// done. One that was started already was connected before.
    pub(super) async fn join_network(&self, spec: &ContainerSpec, again: bool) -> Result<(), RuntimeError> {
        if spec.network != Network::Egress {
            return Ok(());
        }
        let request = GetRequest { container_id: spec.id.to_string(), exec_id: String::new() };
        let answer = or_missing(self.link.client().tasks().get(call(request, QUICK)).await)
            .map_err(|status| failure("ask for the task", &status))?;
        let process = answer.and_then(|answer| answer.into_inner().process);
        let process = process.ok_or(RuntimeError::NotFound(spec.id))?;
        if process.status != status::CREATED {
            return Ok(());
        }
        self.way_out()?.connect(spec.id, process.pid, again).await.map_err(|error| failed(&error))
    }

    /// Cuts a container off that is about to be removed.
    pub(super) async fn leave_network(&self, id: ContainerId) -> Result<(), RuntimeError> {
        match &self.egress {
            Some(egress) => egress.disconnect(id).await.map_err(|error| failed(&error)),
            None => Ok(()),
        }
    }

    fn way_out(&self) -> Result<&Egress, RuntimeError> {
        self.egress.as_deref().ok_or_else(|| RuntimeError::Failed {
            action: "connect the task".to_owned(),
            reason: "this node offers no egress".to_owned(),
        })
    }
}

fn failed(error: &EgressError) -> RuntimeError {
    match error {
        EgressError::PoolIsFull(..) => RuntimeError::NoAddress(error.to_string()),
        _ => RuntimeError::Failed { action: "connect the task".to_owned(), reason: error.to_string() },
    }
}
