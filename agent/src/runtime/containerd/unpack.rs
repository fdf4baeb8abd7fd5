//! From an image's layers in the content store to a chain of snapshots that containers are made from.

use std::collections::HashMap;
use std::time::Duration;

use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::services::v1::{ApplyRequest, CreateRequest, DeleteRequest};
use containerd_client::types::Descriptor;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use tonic::Status;

use super::content::digest_text;
use super::link::{Link, QUICK, SLOW, SNAPSHOTTER, call, failure, leased, or_exists, or_missing};
use crate::runtime::RuntimeError;

/// For unpacking one layer, however large.
const LAYER: Duration = Duration::from_secs(3600);

/// After this, containerd drops a lease by itself: the process that held it was killed.
const LEASE: SignedDuration = SignedDuration::from_hours(4);

/// The label of an agent's leases, with a mark of that agent.
pub(crate) const AGENT_LABEL: &str = "teamster.io/agent";

/// One layer, as the manifest and the configuration describe it together.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size_bytes: u64,
    /// Digest of its content before compression.
    pub(crate) diff_id: String,
}

/// The names that snapshots of these layers have, lowest first: each stands for a layer and all below it.
pub(crate) fn chain_ids<'a>(diff_ids: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.to_owned(),
            Some(below) => digest_text(Sha256::new().chain_update(format!("{below} {diff_id}"))),
        };
        chain.push(next);
    }
    chain
}

/// Makes a lease for work on an image. `purpose` and the time make its name, `agent` says which agent's it is.
pub(crate) async fn open_lease(
    link: &Link,
    purpose: &str,
    agent: Option<&str>,
) -> Result<String, RuntimeError> {
    let now = Timestamp::now();
    let lease = format!("{purpose}-{}-{}", std::process::id(), now.as_nanosecond());
    let mut labels = HashMap::from([("containerd.io/gc.expire".to_owned(), (now + LEASE).to_string())]);
    labels.extend(agent.map(|agent| (AGENT_LABEL.to_owned(), agent.to_owned())));
    let request = call(CreateRequest { id: lease.clone(), labels }, QUICK);
    match link.client().leases().create(request).await {
        Ok(_) => Ok(lease),
        Err(status) => Err(failure("make a lease", &status)),
    }
}

/// Gives up a lease. What nothing else holds is gone when this returns, or with `later` some time after: a
/// collection of garbage takes the longer the more containerd has.
pub(crate) async fn close_lease(link: &Link, lease: String, later: bool) -> Result<(), RuntimeError> {
    let request = call(DeleteRequest { id: lease, sync: !later }, SLOW);
    or_missing(link.client().leases().delete(request).await)
        .map(drop)
        .map_err(|status| failure("remove a lease", &status))
}

/// Whether a snapshot of this name is there.
pub(crate) async fn has_snapshot(link: &Link, chain_id: &str) -> Result<bool, RuntimeError> {
    let request = StatSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: chain_id.to_owned() };
    or_missing(link.client().snapshots().stat(call(request, QUICK)).await)
        .map(|found| found.is_some())
        .map_err(|status| failure("look for a snapshot", &status))
}

/// Unpacks what is not there yet and returns the chain id of the topmost layer. Everything is held by
/// `lease`, also what was there before.
pub(crate) async fn unpack(link: &Link, lease: &str, layers: &[Layer]) -> Result<String, RuntimeError> {
    let chain = chain_ids(layers.iter().map(|layer| layer.diff_id.as_str()));
    let mut parent = String::new();
    for (layer, chain_id) in layers.iter().zip(chain) {
        unpack_layer(link, lease, layer, &parent, &chain_id).await?;
        parent = chain_id;
    }
    Ok(parent)
}

/// One layer upon the snapshot `parent`, as `chain_id`, unless it is there.
pub(crate) async fn unpack_layer(
    link: &Link,
    lease: &str,
    layer: &Layer,
    parent: &str,
    chain_id: &str,
) -> Result<(), RuntimeError> {
    let key = format!("{lease}-{chain_id}");
    let action = format!("unpack layer {}", layer.digest);
    let request = PrepareSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: key.clone(),
        parent: parent.to_owned(),
        // Lets containerd say at once that it has the result already, and hold that for the lease.
        labels: HashMap::from([("containerd.io/snapshot.ref".to_owned(), chain_id.to_owned())]),
    };
    let prepared = or_exists(link.client().snapshots().prepare(leased(request, SLOW, lease)).await)
        .map_err(|status| failure(&action, &status))?;
    let Some(prepared) = prepared else { return Ok(()) };
    let request = ApplyRequest {
        diff: Some(Descriptor {
            media_type: layer.media_type.clone(),
            digest: layer.digest.clone(),
            size: i64::try_from(layer.size_bytes).unwrap_or(i64::MAX),
            ..Descriptor::default()
        }),
        mounts: prepared.into_inner().mounts,
        ..ApplyRequest::default()
    };
    let applied = link.client().diff().apply(leased(request, LAYER, lease)).await;
    let result = match applied.map(|answer| answer.into_inner().applied.map(|applied| applied.digest)) {
        Ok(digest) if digest.as_deref() == Some(&layer.diff_id) => {
            commit(link, lease, &key, chain_id).await.map_err(|status| failure(&action, &status))
        }
        Ok(digest) => Err(RuntimeError::Failed {
            action: action.clone(),
            reason: format!("it holds {}, not {}", digest.unwrap_or_default(), layer.diff_id),
        }),
        Err(status) => Err(failure(&action, &status)),
    };
    // A key that became a snapshot is gone; one that did not is of no use.
    if !matches!(result, Ok(true)) {
        let request = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key };
        let _ = link.client().snapshots().remove(call(request, SLOW)).await;
    }
    result.map(drop)
}

/// Tells whether this call made the snapshot; another may have been faster.
async fn commit(link: &Link, lease: &str, key: &str, chain_id: &str) -> Result<bool, Status> {
    let request = CommitSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        name: chain_id.to_owned(),
        key: key.to_owned(),
        labels: HashMap::new(),
    };
    let made = or_exists(link.client().snapshots().commit(leased(request, SLOW, lease)).await)?;
    Ok(made.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_id_stands_for_a_layer_and_all_below() {
        let (a, b) = ("sha256:aa", "sha256:bb");
        assert_eq!(chain_ids([a].into_iter()), [a]);
        // printf 'sha256:aa sha256:bb' | sha256sum
        let both = "sha256:b68ad689d6d1ec110ea1c13617437ad6f3766d4b3b309f6a603a222e07a0164f";
        assert_eq!(chain_ids([a, b].into_iter()), [a, both]);
    }
}
