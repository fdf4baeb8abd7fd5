//! The real runtime: containerd on this node. Only files below this directory and `image.rs` speak to it.
//! It obeys nothing of an image but what [`Image`] holds, and it decides nothing about tasks.

mod container;
mod content;
mod keeping;
mod link;
mod network;
mod quota;
mod remove;
mod unpack;
mod upload;
mod wait;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

pub(super) use self::content::{WriteError, Written, digest_text, label_blob, read_blob, write_blob};
pub(super) use self::link::{Link, QUICK, SLOW, SNAPSHOTTER, call, failure, or_exists, or_missing};
pub(super) use self::unpack::{
    AGENT_LABEL, Layer, chain_ids, close_lease, has_snapshot, open_lease, unpack, unpack_layer,
};
pub(super) use self::upload::{PIECE_BYTES, Upload};
use super::image::Images;
use super::network::Egress;
use super::{
    ContainerId, ContainerSpec, ContainerState, Exit, Image, Programs, Runtime, RuntimeError, Signal, cgroup,
};
use crate::assignment::{AttemptId, Network, Resources};
use crate::config::{ImageSettings, OciRuntime, PullPolicy, RegistrySettings};
use crate::quota::Quotas;

/// containerd, reached through its socket.
pub struct Containerd {
    link: Link,
    images: Images,
    egress: Option<Arc<Egress>>,
    may_use_host: bool,
    lacks: Vec<String>,
    programs: Option<Programs>,
    oci_runtime: OciRuntime,
    has_stand_ins: bool,
    quotas: Arc<Quotas>,
    /// Leases that an earlier version made, as far as they were seen.
    old_leases: Mutex<BTreeSet<ContainerId>>,
}

impl Containerd {
    /// A runtime that speaks to the containerd at `socket`. Nothing is sent yet: it works before containerd
    /// is up, and connects again by itself when containerd was restarted. Call it inside a tokio runtime.
    /// It pulls nothing.
    pub fn connect(socket: &Path) -> Self {
        let settings = ImageSettings { pull: PullPolicy::Never, ..ImageSettings::default() };
        Self::pulling(socket, settings, Vec::new())
    }

    /// The same, with images by these rules.
    pub fn pulling(socket: &Path, images: ImageSettings, registries: Vec<RegistrySettings>) -> Self {
        let link = Link::new(socket);
        Self {
            link: link.clone(),
            images: Images::new(link, images, registries),
            egress: None,
            may_use_host: false,
            lacks: Vec::new(),
            programs: None,
            oci_runtime: OciRuntime::default(),
            has_stand_ins: true,
            quotas: Arc::default(),
            old_leases: Mutex::default(),
        }
    }

    /// The same, with this program for containers that are made from now on. Those that are there stay with
    /// what made them.
    pub fn with_oci_runtime(self, oci_runtime: OciRuntime) -> Self {
        Self { oci_runtime, ..self }
    }

    /// The same, where `false` has containerd's own programs do every step of containers that are made from now on, and
    /// `true`, as it is otherwise, ours do those that are a matter of a few system calls.
    pub fn with_stand_ins(self, has_stand_ins: bool) -> Self {
        Self { has_stand_ins, ..self }
    }

    /// The same, with what containers write under the hard limits of their attempts.
    pub fn with_quotas(self, quotas: Arc<Quotas>) -> Self {
        Self { quotas, ..self }
    }

    /// The same, with a way out for the containers that ask for one.
    pub fn with_egress(self, egress: Arc<Egress>) -> Self {
        Self { egress: Some(egress), ..self }
    }

    /// The same, with the node's own network for the containers that ask for it, if the operator allows it.
    pub fn with_host_network(self, may_use_host: bool) -> Self {
        Self { may_use_host, ..self }
    }

    /// The same, saying that the node also lacks this.
    pub fn without(mut self, lack: String) -> Self {
        self.lacks.push(lack);
        self
    }

    /// With the programs that run beside containers; without them none can be made.
    pub fn with_programs(self, programs: Programs) -> Self {
        Self { programs: Some(programs), ..self }
    }
}

#[async_trait]
impl Runtime for Containerd {
    async fn image(&self, reference: &str) -> Result<Image, RuntimeError> {
        self.images.ensure(reference).await
    }

    fn pulling(&self, reference: &str) -> Option<String> {
        self.images.pulling(reference)
    }

    async fn sweep_images(&self, wanted: &BTreeSet<String>) -> Result<(), RuntimeError> {
        self.images.sweep(wanted).await
    }

    async fn prepare_attempt(&self, id: AttemptId, limits: &Resources) -> Result<(), RuntimeError> {
        let limits = *limits;
        blocking("make the attempt's cgroup", move || cgroup::prepare(id, &limits)).await
    }

    async fn create(&self, container: &ContainerSpec) -> Result<(), RuntimeError> {
        self.create_container(container).await
    }

    async fn start(&self, id: ContainerId) -> Result<(), RuntimeError> {
        self.start_task(id).await
    }

    async fn state(&self, id: ContainerId) -> Result<ContainerState, RuntimeError> {
        self.told_state(id).await
    }

    async fn wait(&self, id: ContainerId) -> Result<Exit, RuntimeError> {
        self.wait_for_end(id).await
    }

    async fn signal(&self, id: ContainerId, signal: Signal) -> Result<(), RuntimeError> {
        self.signal_task(id, signal).await
    }

    async fn remove(&self, id: ContainerId) -> Result<(), RuntimeError> {
        self.remove_container(id).await
    }

    async fn is_over(&self, id: ContainerId) -> bool {
        if !self.are_streams_whole(id).await {
            return false;
        }
        let looked = blocking("look into the attempt's cgroup", move || cgroup::is_empty(id.attempt)).await;
        looked.unwrap_or(false)
    }

    async fn release_attempt(&self, id: AttemptId) -> Result<(), RuntimeError> {
        blocking("remove the attempt's cgroup", move || cgroup::release(id)).await
    }

    fn processes(&self, id: AttemptId) -> Vec<i32> {
        cgroup::members(id)
    }

    async fn list(&self) -> Result<Vec<ContainerId>, RuntimeError> {
        self.list_containers().await.map_err(|status| failure("list containers", &status))
    }

    fn networks(&self) -> Vec<Network> {
        let egress = self.egress.is_some().then_some(Network::Egress);
        egress.into_iter().chain(self.may_use_host.then_some(Network::Host)).collect()
    }

    async fn versions(&self) -> Result<Vec<(String, String)>, RuntimeError> {
        let answer = self.link.client().version().version(call((), QUICK)).await;
        let version = answer.map_err(|status| failure("ask for containerd's version", &status))?;
        let mut versions = vec![("containerd".to_owned(), version.into_inner().version)];
        let program = self.oci_runtime.program();
        versions.extend(program_version(program).await.map(|version| (program.to_owned(), version)));
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        versions.push(("kernel".to_owned(), kernel));
        if let Some(layout) = cgroup::layout() {
            versions.push(("cgroup".to_owned(), layout.to_owned()));
        }
        versions.push(("disk".to_owned(), self.quotas.summary().to_owned()));
        Ok(versions)
    }

    async fn lacks(&self) -> Vec<String> {
        self.meet_snapshots().await;
        cgroup::lacks().into_iter().chain(self.lacks.iter().cloned()).collect()
    }
}

/// Runs file system work on a thread that may block.
async fn blocking<T, E>(
    action: &str,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, RuntimeError>
where
    T: Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    let failed = |reason: String| RuntimeError::Failed { action: action.to_owned(), reason };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| failed(error.to_string())),
        Err(panic) => Err(failed(panic.to_string())),
    }
}

/// The program is containerd's business, so it may be anywhere; nothing depends on finding it here.
async fn program_version(program: &str) -> Option<String> {
    let mut command = tokio::process::Command::new(program);
    command.arg("--version").kill_on_drop(true);
    let output = tokio::time::timeout(QUICK, command.output()).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next()?.strip_prefix(program)?.strip_prefix(" version ").map(str::to_owned)
}
