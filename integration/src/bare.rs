//! A containerd client that does the least that a container needs, for benchmarks to compare with.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::snapshots::{
    PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest, DeleteTaskRequest,
    GetContainerRequest, StartRequest, WaitRequest,
};
use containerd_client::{Client, with_namespace};
use prost::Message;
use serde_json::{Value, json};
use tonic::Request;

const NAMESPACE: &str = "teamster";

/// containerd's own shim, which is what a client gets that says nothing else.
const SHIM: &str = "io.containerd.runc.v2";

/// What Teamster tells the shim beside which program stands in for runc.
#[derive(Clone, PartialEq, prost::Message)]
struct RuncOptions {
    #[prost(uint32, tag = "4")]
    io_uid: u32,
    #[prost(uint32, tag = "5")]
    io_gid: u32,
}

/// Makes containers like one that Teamster made.
#[derive(Clone)]
pub struct BareClient {
    client: std::sync::Arc<Client>,
    model: Container,
    /// Parent of the model's snapshot: the image.
    parent: String,
    spec: Value,
    logs: PathBuf,
}

impl BareClient {
    /// Takes the container of the first executor of `task` as the model, with another command. The model must
    /// live as long as this is used: its generated files are bound into every copy.
    pub async fn borrow_spec(socket: &Path, task: &str, command: &[&str]) -> Result<Self> {
        let client = Client::from_path(socket).await?;
        let id = format!("{task}-1-0");
        let request = with_namespace!(GetContainerRequest { id }, NAMESPACE);
        let answer = client.containers().get(request).await?.into_inner();
        let mut model = answer.container.context("a container")?;
        let runtime = model.runtime.as_mut().context("a runtime")?;
        SHIM.clone_into(&mut runtime.name);
        let options = runtime.options.as_mut().context("its options")?;
        options.value = RuncOptions::decode(options.value.as_slice())?.encode_to_vec();
        let request =
            StatSnapshotRequest { snapshotter: model.snapshotter.clone(), key: model.snapshot_key.clone() };
        let stat = client.snapshots().stat(with_namespace!(request, NAMESPACE)).await?.into_inner();
        let parent = stat.info.context("a snapshot")?.parent;
        let mut spec: Value = serde_json::from_slice(&model.spec.as_ref().context("a spec")?.value)?;
        spec["process"]["args"] = json!(command);
        let logs = socket.parent().context("a directory")?.join("bare");
        std::fs::create_dir_all(&logs)?;
        Ok(Self { client: client.into(), model, parent, spec, logs })
    }

    /// One container from nothing to nothing; its exit code.
    pub async fn run(&self, id: &str) -> Result<u32> {
        let (stdout, stderr) = (self.logs.join(format!("{id}.out")), self.logs.join(format!("{id}.err")));
        std::fs::File::create(&stdout)?;
        std::fs::File::create(&stderr)?;
        self.create(id).await?;
        let mounts = self.prepare(id).await?;
        let options = self.model.runtime.as_ref().and_then(|runtime| runtime.options.clone());
        let request = CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs: mounts,
            stdout: stdout.display().to_string(),
            stderr: stderr.display().to_string(),
            options,
            ..Default::default()
        };
        let mut tasks = self.client.tasks();
        tasks.create(with_namespace!(request, NAMESPACE)).await?;
        let start = StartRequest { container_id: id.to_owned(), exec_id: String::new() };
        tasks.start(with_namespace!(start, NAMESPACE)).await?;
        let wait = WaitRequest { container_id: id.to_owned(), exec_id: String::new() };
        let code = tasks.wait(with_namespace!(wait, NAMESPACE)).await?.into_inner().exit_status;
        self.remove(id).await?;
        std::fs::remove_file(stdout)?;
        std::fs::remove_file(stderr)?;
        Ok(code)
    }

    async fn create(&self, id: &str) -> Result<()> {
        let mut spec = self.spec.clone();
        spec["linux"]["cgroupsPath"] = json!(format!("/teamster-bare/{id}"));
        let mut container = Container {
            id: id.to_owned(),
            image: self.model.image.clone(),
            runtime: self.model.runtime.as_ref().map(|runtime| Runtime { ..runtime.clone() }),
            spec: self.model.spec.clone(),
            snapshotter: self.model.snapshotter.clone(),
            snapshot_key: id.to_owned(),
            ..Default::default()
        };
        if let Some(any) = &mut container.spec {
            any.value = serde_json::to_vec(&spec)?;
        }
        let request = CreateContainerRequest { container: Some(container) };
        self.client.containers().create(with_namespace!(request, NAMESPACE)).await?;
        Ok(())
    }

    async fn prepare(&self, id: &str) -> Result<Vec<containerd_client::types::Mount>> {
        let request = PrepareSnapshotRequest {
            snapshotter: self.model.snapshotter.clone(),
            key: id.to_owned(),
            parent: self.parent.clone(),
            labels: HashMap::new(),
        };
        Ok(self.client.snapshots().prepare(with_namespace!(request, NAMESPACE)).await?.into_inner().mounts)
    }

    async fn remove(&self, id: &str) -> Result<()> {
        let request = DeleteTaskRequest { container_id: id.to_owned() };
        self.client.tasks().delete(with_namespace!(request, NAMESPACE)).await?;
        let request =
            RemoveSnapshotRequest { snapshotter: self.model.snapshotter.clone(), key: id.to_owned() };
        self.client.snapshots().remove(with_namespace!(request, NAMESPACE)).await?;
        let request = DeleteContainerRequest { id: id.to_owned() };
        self.client.containers().delete(with_namespace!(request, NAMESPACE)).await?;
        Ok(())
    }
}
