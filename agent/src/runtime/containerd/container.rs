//! From a [`ContainerSpec`] to a process that runs: snapshot, container record, task. Each step may
//! have been done by an agent that was killed right after it, so each takes what is already there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use containerd_client::services::v1::container::Runtime as RuntimeName;
use containerd_client::services::v1::snapshots::PrepareSnapshotRequest;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, GetContainerRequest, KillRequest, StartRequest,
};
use containerd_client::to_any;
use containerd_client::types::Mount;
use jiff::Timestamp;
use prost_types::Any;
use tonic::{Code, Status};

use super::keeping::Told;
use super::link::{QUICK, SLOW, SNAPSHOTTER, call, failure, is_outage, or_exists, or_missing};
use super::{Containerd, blocking, keeping};
use crate::config::OciRuntime;
use crate::failpoint;
use crate::runtime::rootfs::Rootfs;
use crate::runtime::sandbox::{self, SandboxError};
use crate::runtime::{
    ContainerId, ContainerSpec, ContainerState, Identity, Programs, RuntimeError, Signal, cgroup,
};

/// What containerd calls its own shim program.
const RUNTIME: &str = "io.containerd.runc.v2";

/// Says which attempt a container, or its snapshot, was made for.
pub(super) const ATTEMPT_LABEL: &str = "teamster/attempt";

/// What containerd's garbage collection leaves alone.
const ROOT_LABEL: &str = "containerd.io/gc.root";

/// What containerd calls an OCI runtime specification in JSON.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// Options of the runc shim, as far as we set them.
#[derive(Clone, PartialEq, prost::Message)]
struct RuncOptions {
    /// Owner of the pipes between shim and container, so that a task may open `/dev/stdout` again.
    #[prost(uint32, tag = "4")]
    io_uid: u32,
    /// Group of those pipes.
    #[prost(uint32, tag = "5")]
    io_gid: u32,
    /// The program that makes the container; empty for what containerd would take.
    #[prost(string, tag = "6")]
    binary_name: String,
    /// Where that program keeps its state; empty for runc's place.
    #[prost(string, tag = "7")]
    root: String,
}

impl RuncOptions {
    fn new(identity: Identity, runtime: OciRuntime, stand_in: Option<&Path>) -> Self {
        let (binary_name, root) = match runtime {
            // It leaves to runc whatever makes or confines a container.
            OciRuntime::Runc => (stand_in.map(text).unwrap_or_default(), ""),
            // The two keep different things under the same names.
            OciRuntime::Crun => (runtime.program().to_owned(), teamster_init::CRUN_STATE),
        };
        Self { io_uid: identity.uid, io_gid: identity.gid, binary_name, root: root.to_owned() }
    }
}

impl prost::Name for RuncOptions {
    const NAME: &'static str = "Options";
    const PACKAGE: &'static str = "containerd.runc.v1";
}

/// Whether something was made now, or was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Now,
    Before,
}

impl Containerd {
    pub(super) async fn create_container(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        let id = spec.id;
        if self.make(spec).await? == Made::Now {
            return self.join_network(spec, false).await;
        }
        // An agent was killed here. What has a task is whole, or even runs; of anything less nothing ever ran.
        if self.is_recorded(id).await? && self.task_state(id).await? != ContainerState::Missing {
            return self.join_network(spec, true).await;
        }
        self.remove_container(id).await?;
        if self.make(spec).await? == Made::Before {
            return Err(RuntimeError::Failed {
                action: format!("make container {id}"),
                reason: "somebody else makes one of that name".to_owned(),
            });
        }
        self.join_network(spec, false).await
    }

    /// Makes all of it, unless any of it is there: it is not asked for first, because it hardly ever is.
    async fn make(&self, spec: &ContainerSpec) -> Result<Made, RuntimeError> {
        let programs = self.programs.as_ref().ok_or_else(|| RuntimeError::Failed {
            action: "make a container".to_owned(),
            reason: "this connection was made without the programs for it".to_owned(),
        })?;
        let Some(mounts) = self.prepare_snapshot(spec).await? else { return Ok(Made::Before) };
        self.enclose_snapshot(spec.id, &mounts).await;
        let document = self.confine(spec, &mounts, programs).await?;
        // The shim is containerd's own, only that it is not started three times for each container.
        let stand_ins = self.has_stand_ins.then(|| (programs.shim(), programs.runc()));
        let (shim, runc) = stand_ins.as_ref().map(|(shim, runc)| (shim.as_path(), runc.as_path())).unzip();
        let options = to_any(&RuncOptions::new(spec.identity, self.oci_runtime, runc));
        let name = shim.map_or_else(|| RUNTIME.to_owned(), text);
        let runtime = RuntimeName { name, options: Some(options.clone()) };
        if self.record(spec, document, runtime).await? == Made::Before {
            return Ok(Made::Before);
        }
        let streams = keeping::address(spec, &programs.keeper());
        self.create_task(spec.id, mounts, options, streams).await?;
        failpoint::pass("task-made");
        Ok(Made::Now)
    }

    /// Whether there is a record under this id. One that was made for something else is an error.
    async fn is_recorded(&self, id: ContainerId) -> Result<bool, RuntimeError> {
        let request = call(GetContainerRequest { id: id.to_string() }, QUICK);
        let answer = or_missing(self.link.client().containers().get(request).await)
            .map_err(|status| failure("look for the container", &status))?;
        let Some(container) = answer.and_then(|answer| answer.into_inner().container) else {
            return Ok(false);
        };
        if container.labels.get(ATTEMPT_LABEL) == Some(&id.attempt.to_string()) {
            return Ok(true);
        }
        Err(RuntimeError::Failed {
            action: format!("make container {id}"),
            reason: "something else has made one of that name".to_owned(),
        })
    }

    /// The mounts of the container's root file system; none if one of that name was there.
    async fn prepare_snapshot(&self, spec: &ContainerSpec) -> Result<Option<Vec<Mount>>, RuntimeError> {
        let request = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: spec.id.to_string(),
            parent: spec.image.chain_id.clone(),
            labels: HashMap::from([
                (ATTEMPT_LABEL.to_owned(), spec.id.attempt.to_string()),
                // Not to be collected while no container names it yet. The attempt's end removes it, or whoever
                // looks for what is left.
                (ROOT_LABEL.to_owned(), Timestamp::now().to_string()),
            ]),
        };
        match or_exists(self.link.client().snapshots().prepare(call(request, SLOW)).await) {
            Ok(made) => Ok(made.map(|answer| answer.into_inner().mounts)),
            Err(status) => {
                // The image went while we remembered it; the next look must see that.
                self.images.forget(&spec.image.digest);
                Err(failure("prepare the container's root file system", &status))
            }
        }
    }

    /// The OCI specification as containerd takes it.
    async fn confine(
        &self,
        spec: &ContainerSpec,
        mounts: &[Mount],
        programs: &Programs,
    ) -> Result<Any, RuntimeError> {
        let layers = layers_of(mounts);
        let names = self.names_for(spec).await?;
        let (owned, id, inside) = (spec.clone(), spec.id, programs.inside());
        let document = blocking("build the sandbox", move || {
            let rootfs = Rootfs::open(&layers).map_err(|error| error.to_string())?;
            cgroup::limit_pids(id.attempt, owned.pids_max).map_err(|error| error.to_string())?;
            keeping::prepare(&owned).map_err(|error| format!("prepare for the keeper: {error}"))?;
            match sandbox::build(&owned, &rootfs, &names, &inside) {
                Ok(document) => Ok(Ok(document)),
                Err(SandboxError::Workdir(reason)) => Ok(Err(RuntimeError::CommandUnusable(reason))),
                Err(SandboxError::Image(reason)) => {
                    Ok(Err(RuntimeError::ImageUnusable { reference: owned.image.name, reason }))
                }
                Err(error) => Err(error.to_string()),
            }
        })
        .await??;
        let value = serde_json::to_vec(&document).map_err(|error| RuntimeError::Failed {
            action: "write the OCI specification".to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Any { type_url: SPEC_TYPE.to_owned(), value })
    }

    async fn record(
        &self,
        spec: &ContainerSpec,
        document: Any,
        runtime: RuntimeName,
    ) -> Result<Made, RuntimeError> {
        let container = Container {
            id: spec.id.to_string(),
            // Nothing of the image's own labels comes in here: containerd obeys some labels.
            labels: HashMap::from([(ATTEMPT_LABEL.to_owned(), spec.id.attempt.to_string())]),
            image: spec.image.name.clone(),
            runtime: Some(runtime),
            spec: Some(document),
            snapshotter: SNAPSHOTTER.to_owned(),
            snapshot_key: spec.id.to_string(),
            ..Container::default()
        };
        let request = call(CreateContainerRequest { container: Some(container) }, QUICK);
        match or_exists(self.link.client().containers().create(request).await) {
            Ok(Some(_)) => Ok(Made::Now),
            Ok(None) => Ok(Made::Before),
            Err(status) => Err(failure("make the container", &status)),
        }
    }

    async fn create_task(
        &self,
        id: ContainerId,
        rootfs: Vec<Mount>,
        options: Any,
        streams: String,
    ) -> Result<(), RuntimeError> {
        let request = CreateTaskRequest {
            container_id: id.to_string(),
            rootfs,
            // One address for both: the shim gives the keeper two pipes. Standard input is init's to open.
            stdout: streams.clone(),
            stderr: streams,
            options: Some(options),
            ..CreateTaskRequest::default()
        };
        match or_exists(self.link.client().tasks().create(call(request, SLOW)).await) {
            Ok(_) => Ok(()),
            Err(status) => Err(start_failure("create the task", &status)),
        }
    }

    pub(super) async fn start_task(&self, id: ContainerId) -> Result<(), RuntimeError> {
        let request = StartRequest { container_id: id.to_string(), exec_id: String::new() };
        let status = match self.link.client().tasks().start(call(request, SLOW)).await {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == Code::NotFound => return self.see_whether_it_started(id).await,
            Err(status) => status,
        };
        // It may have been started before, by an agent that was killed before it could say so.
        if !is_outage(&status) {
            match self.task_state(id).await? {
                ContainerState::Running | ContainerState::Exited(_) => return Ok(()),
                ContainerState::Missing | ContainerState::Created => {}
            }
        }
        Err(start_failure("start the task", &status))
    }

    /// containerd has no such task. It may have taken an earlier call to start it, been killed before it could
    /// answer, and have cleaned up after a task that ended meanwhile; only the keeper's record tells.
    async fn see_whether_it_started(&self, id: ContainerId) -> Result<(), RuntimeError> {
        match self.told(id).await? {
            Told::NeverBegan | Told::Nothing => Err(RuntimeError::NotFound(id)),
            Told::Ended { .. } | Told::LeaseEnded | Told::KeeperLost => Ok(()),
        }
    }

    pub(super) async fn signal_task(&self, id: ContainerId, signal: Signal) -> Result<(), RuntimeError> {
        let signal = match signal {
            Signal::Term => rustix::process::Signal::TERM,
            Signal::Kill => rustix::process::Signal::KILL,
        };
        let request = KillRequest {
            container_id: id.to_string(),
            signal: u32::try_from(signal.as_raw()).expect("signal numbers are positive"),
            ..KillRequest::default()
        };
        or_missing(self.link.client().tasks().kill(call(request, SLOW)).await)
            .map(drop)
            .map_err(|status| failure("signal the task", &status))
    }
}

/// A path for containerd, whose messages hold text. The data directory's is text: the configuration is.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The directories that make up a snapshot, topmost first, the writable one among them.
fn layers_of(mounts: &[Mount]) -> Vec<PathBuf> {
    let Some(mount) = mounts.last() else { return Vec::new() };
    if mount.r#type != "overlay" {
        return vec![PathBuf::from(&mount.source)];
    }
    let values =
        |key: &str| mount.options.iter().find_map(|option| option.strip_prefix(key).map(str::to_owned));
    let upper = values("upperdir=").into_iter();
    let lower = values("lowerdir=").unwrap_or_default();
    upper.chain(lower.split(':').map(str::to_owned)).map(PathBuf::from).collect()
}

/// Tells the user's mistakes from this node's failures by runc's words, for it has no codes.
fn start_failure(action: &str, status: &Status) -> RuntimeError {
    match unusable_command(status.message()) {
        Some(reason) if !is_outage(status) => RuntimeError::CommandUnusable(reason),
        _ => failure(action, status),
    }
}

/// The useful part of what runc said, if it was about the user's command, working directory or limits.
fn unusable_command(message: &str) -> Option<String> {
    let (_, tail) = message.rsplit_once("unable to start container process: ")?;
    let tail = tail.strip_suffix(": unknown").unwrap_or(tail).trim();
    let tail = tail.strip_prefix("error during container init: ").unwrap_or(tail);
    if tail.contains("OOM-killed") {
        return Some("the memory limit is too low to start anything".to_owned());
    }
    let is_users = tail.starts_with("exec: ") || tail.starts_with("chdir to cwd ");
    is_users.then(|| tail.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_bad_commands_from_bad_nodes() {
        let prefix = "failed to create shim task: OCI runtime create failed: runc create failed: \
                      unable to start container process: ";
        let missing = format!("{prefix}exec: \"nope\": executable file not found in $PATH: unknown");
        assert_eq!(unusable_command(&missing).unwrap(), "exec: \"nope\": executable file not found in $PATH");
        let cwd =
            format!("{prefix}chdir to cwd (\"/x\") set in config.json failed: not a directory: unknown");
        assert!(unusable_command(&cwd).unwrap().starts_with("chdir to cwd"));
        let tiny = format!("{prefix}container init was OOM-killed (memory limit too low?): unknown");
        assert!(unusable_command(&tiny).unwrap().contains("memory limit"));
        let node =
            format!("{prefix}error during container init: error mounting \"proc\" to rootfs: x: unknown");
        assert_eq!(unusable_command(&node), None);
        assert_eq!(unusable_command("ttrpc: closed"), None);
    }

    #[test]
    fn finds_the_layers_of_a_snapshot() {
        let overlay = Mount {
            r#type: "overlay".into(),
            source: "overlay".into(),
            options: vec!["index=off".into(), "upperdir=/s/3/fs".into(), "lowerdir=/s/2/fs:/s/1/fs".into()],
            ..Mount::default()
        };
        let expected: Vec<PathBuf> = ["/s/3/fs", "/s/2/fs", "/s/1/fs"].map(PathBuf::from).into();
        assert_eq!(layers_of(&[overlay]), expected);
        let bind = Mount { r#type: "bind".into(), source: "/s/1/fs".into(), ..Mount::default() };
        assert_eq!(layers_of(&[bind]), vec![PathBuf::from("/s/1/fs")]);
    }
}
