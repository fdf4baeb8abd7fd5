//! The way back: task, snapshot, record, each of which may be gone already. And what is there to be removed.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use containerd_client::services::v1::snapshots::{ListSnapshotsRequest, RemoveSnapshotRequest};
use containerd_client::services::v1::{
    DeleteContainerRequest, DeleteRequest, DeleteTaskRequest, ListContainerMessage, ListContainersRequest,
    ListRequest, WaitRequest,
};
use futures_util::TryStreamExt;
use tonic::Status;

use super::Containerd;
use super::container::ATTEMPT_LABEL;
use super::link::{QUICK, SLOW, SNAPSHOTTER, call, failure, is_outage, or_missing};
use crate::runtime::{ContainerId, ContainerState, RuntimeError, Signal};

/// How long a killed process may take to end: it may be inside a write to slow storage.
const END: Duration = Duration::from_secs(60);

/// How often a deletion may be refused before we believe it.
const TRIES: u32 = 40;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

impl Containerd {
    pub(super) async fn remove_container(&self, id: ContainerId) -> Result<(), RuntimeError> {
        // Side by side: taking a link away makes the kernel wait for its other processors.
        tokio::try_join!(self.end_and_delete(id), self.leave_network(id))?;
        // Its streams are whole when it has ended, whatever became of the shim.
        self.await_keeper(id).await;
        let client = self.link.client();
        let name = id.to_string();
        let snapshot = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: name.clone() };
        or_missing(client.snapshots().remove(call(snapshot, SLOW)).await)
            .map_err(|status| failure("remove the container's root file system", &status))?;
        or_missing(
            client.containers().delete(call(DeleteContainerRequest { id: name.clone() }, QUICK)).await,
        )
        .map_err(|status| failure("remove the container", &status))?;
        if self.has_old_lease(id) {
            or_missing(client.leases().delete(call(DeleteRequest { id: name, sync: false }, QUICK)).await)
                .map_err(|status| failure("remove the lease", &status))?;
        }
        Ok(())
    }

    /// Mostly the task has ended; where that is not so, containerd refuses, and it is killed first.
    async fn end_and_delete(&self, id: ContainerId) -> Result<(), RuntimeError> {
        let request = DeleteTaskRequest { container_id: id.to_string() };
        match or_missing(self.link.client().tasks().delete(call(request, SLOW)).await) {
            Ok(_) => Ok(()),
            Err(status) if is_outage(&status) => Err(failure("delete the task", &status)),
            Err(_) => {
                self.end_task(id).await?;
                self.delete_task(id).await
            }
        }
    }

    /// An agent of an earlier version made a lease for each container.
    fn has_old_lease(&self, id: ContainerId) -> bool {
        self.old_leases.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// Containers and root file systems: one without a container is what is left when the agent was killed
    /// while it made one, and it must be found to be removed.
    pub(super) async fn list_containers(&self) -> Result<Vec<ContainerId>, Status> {
        let client = self.link.client();
        // One message per container: a single answer with all specs would outgrow gRPC's limit.
        let request = call(ListContainersRequest { filters: Vec::new() }, SLOW);
        let containers = client.containers().list_stream(request).await?.into_inner();
        let named = async |message: ListContainerMessage| {
            Ok(message.container.and_then(|container| container.id.parse::<ContainerId>().ok()))
        };
        let mut ids: Vec<ContainerId> = containers.try_filter_map(named).try_collect().await?;
        let filters = vec![format!("labels.\"{ATTEMPT_LABEL}\"")];
        let request = ListSnapshotsRequest { snapshotter: SNAPSHOTTER.to_owned(), filters };
        let mut snapshots = client.snapshots().list(call(request, SLOW)).await?.into_inner();
        while let Some(some) = snapshots.message().await? {
            ids.extend(some.info.iter().filter_map(|info| info.name.parse::<ContainerId>().ok()));
        }
        let leases = client.leases().list(call(ListRequest { filters: Vec::new() }, QUICK)).await?;
        let leases = leases.into_inner().leases;
        let leases =
            leases.iter().filter_map(|lease| lease.id.parse().ok()).collect::<BTreeSet<ContainerId>>();
        ids.extend(&leases);
        *self.old_leases.lock().unwrap_or_else(PoisonError::into_inner) = leases;
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Kills what runs and waits until it has ended.
    async fn end_task(&self, id: ContainerId) -> Result<(), RuntimeError> {
        match self.task_state(id).await? {
            ContainerState::Missing | ContainerState::Exited(_) => return Ok(()),
            ContainerState::Created | ContainerState::Running => {}
        }
        self.signal_task(id, Signal::Kill).await?;
        let request = WaitRequest { container_id: id.to_string(), exec_id: String::new() };
        or_missing(self.link.client().tasks().wait(call(request, END)).await)
            .map(drop)
            .map_err(|status| failure("see the task end", &status))
    }

    async fn delete_task(&self, id: ContainerId) -> Result<(), RuntimeError> {
        let mut tries = 0;
        loop {
            let request = DeleteTaskRequest { container_id: id.to_string() };
            let result = or_missing(self.link.client().tasks().delete(call(request, SLOW)).await);
            match result {
                Ok(_) => return Ok(()),
                // The shim tells of the end a moment before it allows the deletion, and containerd needs a
                // moment to clean up after a shim that died.
                Err(status) if !is_outage(&status) && tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(status) => return Err(failure("delete the task", &status)),
            }
        }
    }
}
