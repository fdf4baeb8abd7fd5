//! The way back: task, snapshot, record, lease, each of which may be gone already.

use std::time::Duration;

use super::Containerd;
use super::link::{QUICK, SLOW, SNAPSHOTTER, call, failure, is_outage, or_missing};
use crate::runtime::{ContainerId, ContainerState, RuntimeError, Signal};
use containerd_client::services::v1::snapshots::RemoveSnapshotRequest;
use containerd_client::services::v1::{
    DeleteContainerRequest, DeleteRequest, DeleteTaskRequest, WaitRequest,
};

/// How long a killed process may take to end: it may be inside a write to slow storage.
const END: Duration = Duration::from_secs(60);

/// How often a deletion may be refused before we believe it.
const TRIES: u32 = 40;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

impl Containerd {
    pub(super) async fn remove_container(&self, id: ContainerId) -> Result<(), RuntimeError> {
        self.end_task(id).await?;
        // Side by side: taking a link away makes the kernel wait for its other processors.
        tokio::try_join!(self.delete_task(id), self.leave_network(id))?;
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
        or_missing(client.leases().delete(call(DeleteRequest { id: name, sync: false }, QUICK)).await)
            .map_err(|status| failure("remove the lease", &status))?;
        Ok(())
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
