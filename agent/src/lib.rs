//! The agent: one per node, as root. It dials the coordinator, says what the node has and holds, and runs
//! the tasks that it is given as containers through containerd. It never decides where a task runs, and it
//! forgets nothing about a task before the coordinator has it on disk.

pub mod assignment;
pub mod attempt;
pub mod attempt_dir;
pub mod boot;
pub mod capacity;
pub mod child;
pub mod config;
pub mod data_dir;
pub mod disk;
pub mod failpoint;
pub mod image_care;
pub mod kept_logs;
pub mod lease;
pub mod log_reader;
pub mod quota;
pub mod runtime;
pub mod session;
pub mod stage;
pub mod storage;
pub mod supervisor;
pub mod task;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::assignment::Network;
use crate::attempt::StopReason;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::disk::DiskWatch;
use crate::log_reader::LogReader;
use crate::quota::Quotas;
use crate::runtime::network::Egress;
use crate::runtime::{Containerd, Programs, ProgramsError, Runtime};
use crate::session::{Identity, Logs, Session};
use crate::stage::Stager;
use crate::storage::{DirectoryMounter, Mounter};
use crate::supervisor::Supervisor;
use crate::task::{Node, Orders, Run, Staging, Until};

/// How long stopping all tasks may take beyond their grace period.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// Why an agent could not run. The texts fit after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its data directory.
    #[error(transparent)]
    DataDir(#[from] data_dir::DataDirError),
    /// Its records.
    #[error(transparent)]
    Record(#[from] attempt::RecordError),
    /// The machine does not say who it is.
    #[error(transparent)]
    Boot(#[from] boot::BootError),
    /// The network that tasks get unless they say otherwise.
    #[error("offer network egress, which is what tasks of this node get by default: failed to {0}")]
    Network(#[from] runtime::network::EgressError),
    /// The machine does not say what it has.
    #[error(transparent)]
    Capacity(#[from] capacity::CapacityError),
    /// The program that was chosen to make containers cannot make any here.
    #[error(transparent)]
    OciRuntime(#[from] runtime::OciRuntimeUnusable),
    /// The programs that run beside tasks.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// A bug; the log has more.
    #[error("go on: a part of the agent has failed; tasks go on, start it again")]
    PartFailed,
    /// Containers would not die in time.
    #[error("stop {0} tasks in time; the next start of the agent goes on with it")]
    NotStopped(usize),
}

/// What an agent works with. [`Tools::real`] is what an operator gets; tests bring fakes.
#[derive(Clone)]
pub struct Tools {
    /// Runs containers.
    pub runtime: Arc<dyn Runtime>,
    /// Knows the shared storage.
    pub mounter: Arc<dyn Mounter>,
    /// Moves files.
    pub staging: Arc<dyn Staging>,
}

impl Tools {
    /// containerd, the storage of this machine, and staging in child processes. Call it inside a tokio
    /// runtime and with the data directory locked.
    pub fn real(config: &Config) -> Result<Self, RunError> {
        Self::with_egress(config, WayOut::NotWanted, Arc::default())
    }

    fn with_egress(config: &Config, way_out: WayOut, quotas: Arc<Quotas>) -> Result<Self, RunError> {
        let programs = Programs::install(&config.data_dir)?;
        let runtime = containerd(config)
            .with_programs(programs)
            .with_host_network(config.network.host)
            .with_oci_runtime(config.runtime)
            .with_stand_ins(config.stand_ins)
            .with_quotas(quotas);
        let runtime = match way_out {
            WayOut::Open(egress) => runtime.with_egress(egress),
            WayOut::NotWanted => runtime,
            WayOut::Lacking(reason) => runtime.without(reason),
        };
        Ok(Self {
            runtime: Arc::new(runtime),
            mounter: Arc::new(DirectoryMounter::new(config.program.clone())),
            staging: Arc::new(Stager::new(config.program.clone())),
        })
    }
}

/// containerd with this node's rules for images.
fn containerd(config: &Config) -> Containerd {
    Containerd::pulling(&config.containerd, config.images.clone(), config.registry.clone())
}

/// Runs the agent until `shutdown`, and leaves its tasks running then.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let data_dir = DataDir::lock(&config.data_dir)?;
    runtime::check_oci_runtime(config.runtime)?;
    let way_out = way_out(&config).await?;
    let quotas = Arc::new(Quotas::open(data_dir.path(), &config.disk));
    let tools = Tools::with_egress(&config, way_out.clone(), quotas.clone())?;
    let WayOut::Open(egress) = way_out else {
        return run_in(data_dir, config, tools, quotas, shutdown).await;
    };
    // Whatever ends first ends the other; dropping the keeper leaves the rules in place for running tasks.
    tokio::select! {
        ended = run_in(data_dir, config, tools, quotas, shutdown) => ended,
        () = egress.keep() => unreachable!("it keeps the rules for ever"),
    }
}

/// Whether tasks have a way out of this node.
#[derive(Clone)]
enum WayOut {
    /// The operator does not allow any.
    NotWanted,
    /// They have.
    Open(Arc<Egress>),
    /// The operator allows one, and the node cannot do it.
    Lacking(String),
}

/// The way out of this node, where the operator allows it and the node can do it.
async fn way_out(config: &Config) -> Result<WayOut, RunError> {
    if !config.network.egress {
        return Ok(WayOut::NotWanted);
    }
    match Egress::open(&config.network, &config.coordinator).await {
        Ok(egress) => {
            tracing::info!(network = egress.summary(), "tasks may have a way out of this node");
            Ok(WayOut::Open(Arc::new(egress)))
        }
        Err(error) if config.network.default == Network::Egress => Err(error.into()),
        Err(error) => {
            Ok(WayOut::Lacking(format!("network egress, which its operator allows: failed to {error}")))
        }
    }
}

/// [`run`] with other tools.
pub async fn run_with(config: Config, tools: Tools, shutdown: CancellationToken) -> Result<(), RunError> {
    let data_dir = DataDir::lock(&config.data_dir)?;
    run_in(data_dir, config, tools, Arc::default(), shutdown).await
}

async fn run_in(
    data_dir: DataDir,
    config: Config,
    tools: Tools,
    quotas: Arc<Quotas>,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let node_id = boot::node_id(&config)?;
    let node = node(&config, &tools, quotas.clone())?;
    let attempts = attempt::load_all(data_dir.path())?;
    quotas.adopt(data_dir.path(), attempts.iter().map(attempt::Attempt::id));
    tracing::info!(
        node = node_id, data_dir = %data_dir.path().display(), attempts = attempts.len(),
        capacity = ?node.capacity, "agent starts"
    );
    let lacks = session::look_around(&node_id, tools.runtime.as_ref()).await;
    let (supervisor, events) = Supervisor::new(node.clone());
    // Before anybody asks: an attempt that is not among the stages is taken for one that is over.
    for attempt in attempts.iter().filter(|attempt| attempt.result.is_none()) {
        node.stages.set(attempt.id(), attempt.stage());
    }
    let logs = Logs {
        coordinator: config.coordinator.clone(),
        data_dir: config.data_dir.clone(),
        node_id: node_id.clone(),
        boot_id: node.boot_id.clone(),
        reader: Arc::new(LogReader::new(&config.data_dir, node.stages.clone())),
    };
    let (offers, offered) = watch::channel(Vec::new());
    let (closed, is_closed) = watch::channel(None);
    let disk_watch = node.disk_watch.clone().run(
        config.data_dir.clone(),
        config.disk_floor,
        tools.runtime.clone(),
        node.disk.clone(),
        closed,
    );
    let session = Session {
        coordinator: config.coordinator.clone(),
        data_dir: config.data_dir.clone(),
        identity: Identity {
            node_id,
            boot_id: node.boot_id.clone(),
            capacity: node.capacity,
            lacks,
            runtime: tools.runtime,
        },
        offers: offered,
        closed: is_closed,
        supervisor: events,
    };
    let mut parts = JoinSet::new();
    parts.spawn(supervisor.run(attempts, shutdown.clone()));
    parts.spawn(session.run(shutdown.clone()));
    parts.spawn(logs.run(shutdown.clone()));
    let until_shutdown = shutdown.clone();
    parts.spawn(async move { until_shutdown.run_until_cancelled(disk_watch).await.unwrap_or_default() });
    let until_shutdown = shutdown.clone();
    let sweep = kept_logs::sweep(config.data_dir.clone(), config.log_retention.0, node.disk.clone());
    parts.spawn(async move { until_shutdown.run_until_cancelled(sweep).await.unwrap_or_default() });
    let until_shutdown = shutdown.clone();
    let care = image_care::sweep(node.runtime.clone(), node.wanted_images.clone());
    parts.spawn(async move { until_shutdown.run_until_cancelled(care).await.unwrap_or_default() });
    let until_shutdown = shutdown.clone();
    let prepull = image_care::prepull(node.runtime.clone(), config.images.prepull);
    parts.spawn(async move { until_shutdown.run_until_cancelled(prepull).await.unwrap_or_default() });
    let until_shutdown = shutdown.clone();
    let storages = session::keep_offers(config.storage, tools.mounter, offers);
    parts.spawn(async move { until_shutdown.run_until_cancelled(storages).await.unwrap_or_default() });
    let mut result = Ok(());
    while let Some(ended) = parts.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a part of the agent has failed");
            result = Err(RunError::PartFailed);
            shutdown.cancel();
        }
    }
    // Nobody else may have the data directory while something is still being written to it.
    node.disk.close();
    node.disk.wait().await;
    tracing::info!("agent ends; tasks go on");
    result
}

fn node(config: &Config, tools: &Tools, quotas: Arc<Quotas>) -> Result<Arc<Node>, RunError> {
    Ok(Arc::new(Node {
        boot_id: boot::boot_id()?,
        capacity: capacity::measure(config)?,
        config: config.clone(),
        runtime: tools.runtime.clone(),
        staging: tools.staging.clone(),
        disk: TaskTracker::new(),
        disk_watch: Arc::new(DiskWatch::beside(quotas)),
        wanted_images: Arc::default(),
        stages: Arc::default(),
    }))
}

/// With no agent running: stops every task of this node as an infrastructure loss, and leaves the records of
/// how they ended for the next start to report. Returns how many there were.
pub async fn stop_all(config: &Config) -> Result<usize, RunError> {
    let data_dir = DataDir::lock(&config.data_dir)?;
    let tools = Tools::real(config)?;
    stop_all_in(&data_dir, config, tools).await
}

/// [`stop_all`] with other tools.
pub async fn stop_all_with(config: &Config, tools: Tools) -> Result<usize, RunError> {
    let data_dir = DataDir::lock(&config.data_dir)?;
    stop_all_in(&data_dir, config, tools).await
}

async fn stop_all_in(data_dir: &DataDir, config: &Config, tools: Tools) -> Result<usize, RunError> {
    let attempts = attempt::load_all(data_dir.path())?;
    let live: Vec<_> = attempts.into_iter().filter(|attempt| attempt.result.is_none()).collect();
    let count = live.len();
    if count == 0 {
        return Ok(0);
    }
    let node = node(config, &tools, Arc::default())?;
    let mut stopping = JoinSet::new();
    for attempt in live {
        let (orders, stop) = watch::channel(Orders { stop: Some(StopReason::NodeStopped), forget: false });
        // The records say it all; the next start reports them.
        let (reports, _) = mpsc::channel(1);
        let run = Run::adopted(node.clone(), attempt, stop, reports);
        stopping.spawn(async move {
            run.drive(Until::Decided).await;
            drop(orders);
        });
    }
    let all = async { while stopping.join_next().await.is_some() {} };
    let deadline = config.grace_period.0.saturating_add(STOP_DEADLINE);
    let in_time = tokio::time::timeout(deadline, all).await.is_ok();
    let left = stopping.len();
    stopping.shutdown().await;
    node.disk.close();
    node.disk.wait().await;
    if in_time { Ok(count) } else { Err(RunError::NotStopped(left)) }
}
