//! `teamster up`: a coordinator, an agent and a private containerd as three child processes on one machine.
//! It starts them in order, starts again what dies, and at the end leaves nothing running: the tasks that
//! run then are killed as an infrastructure loss and are queued again at the next `up`. It handles no task
//! itself; the children are this very program with a configuration each.

mod child;
mod layout;
mod machine;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use teamster_values::ByteCount;
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::child::{Recipe, Running, tail};
use self::layout::Layout;
use crate::args::ServerArgs;
use crate::client::Client;
use crate::{FINE, table};

/// How long a child may take until it is ready. A containerd with many images on a slow disk needs a while.
const READY_DEADLINE: Duration = Duration::from_secs(60);
const PROBE_PAUSE: Duration = Duration::from_millis(50);
/// How long the tasks that run at the end may take to be killed.
const STOP_TASKS_DEADLINE: Duration = Duration::from_secs(60);

/// What `up` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  teamster up
  teamster up --data-dir /srv/teamster --http 127.0.0.1:9000 --grpc 127.0.0.1:9001 --agents 127.0.0.1:9002
  teamster up --containerd /run/containerd/containerd.sock   an existing containerd instead of a private one

Files on shared storage lie below <data-dir>/shared; that path is the same in URLs, on this machine and in
tasks. Needs root. Ctrl-C stops everything; tasks that run then are queued again at the next `up`.")]
pub(crate) struct UpArgs {
    /// Where everything is kept
    #[arg(long, env = "TEAMSTER_DATA_DIR", default_value = "/var/lib/teamster/up", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Listener of the REST API
    #[arg(long, env = "TEAMSTER_HTTP", default_value = "127.0.0.1:8000", value_name = "ADDR")]
    pub(crate) http: SocketAddr,
    /// Listener of the gRPC API
    #[arg(long, env = "TEAMSTER_GRPC", default_value = "127.0.0.1:8001", value_name = "ADDR")]
    pub(crate) grpc: SocketAddr,
    /// Listener for agents
    #[arg(long, env = "TEAMSTER_AGENTS", default_value = "127.0.0.1:8002", value_name = "ADDR")]
    pub(crate) agents: SocketAddr,
    /// Socket of a containerd that runs already, instead of a private one
    #[arg(long, env = "TEAMSTER_CONTAINERD", value_name = "SOCKET")]
    pub(crate) containerd: Option<PathBuf>,
    /// Allow listeners that others can reach, although anybody who reaches them may do anything
    #[arg(long)]
    pub(crate) insecure_open: bool,
    /// CPUs that tasks may use, instead of what is measured
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<f64>,
    /// Memory that tasks may use, instead of what is measured
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<ByteCount>,
    /// Scratch space that tasks may use, instead of what is measured
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk: Option<ByteCount>,
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(mut args: UpArgs) -> anyhow::Result<u8> {
    machine::check_root()?;
    args.data_dir = std::path::absolute(&args.data_dir).context("find the data directory")?;
    let layout = Layout::new(&args)?;
    layout.check_socket()?;
    machine::check_addresses([("--http", args.http), ("--grpc", args.grpc), ("--agents", args.agents)])?;
    let programs = machine::Programs::find(layout.private_containerd)?;
    layout.make_root()?;
    // Before anything is written: another `up` may be using it.
    let _lock = machine::lock(&layout.lock_file())?;
    layout.prepare()?;
    // One thread for all: a child is told to end when the thread that started it ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(until_told_to_stop(&layout, &programs))?;
    Ok(FINE)
}

async fn until_told_to_stop(layout: &Layout, programs: &machine::Programs) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mut stack = Stack::default();
    // Cancel safe: whatever was started until then is in the stack, and a half-waited probe is nothing.
    let started = tokio::select! {
        started = stack.start(layout, programs) => started,
        () = signals.any() => Err(anyhow::anyhow!("told to stop while starting")),
    };
    if started.is_ok() {
        announce(layout);
        signals.any().await;
        table::say("\nStopping; tasks that run now are queued again at the next start.");
    }
    let stopped = tokio::select! {
        stopped = stack.stop(layout) => stopped,
        () = signals.any() => bail!("left at once; the children end by themselves, running tasks go on"),
    };
    started.and(stopped)?;
    table::say("Stopped; nothing is left running.");
    Ok(())
}

/// The two signals that mean the same here.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn any(&mut self) {
        // Cancel safe: receiving a signal is.
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The children, in the order in which they start.
#[derive(Default)]
struct Stack {
    /// The one that runs but is not ready yet.
    starting: Option<Running>,
    containerd: Option<Kept>,
    /// Whether there was a containerd to talk to, so that there may be tasks to stop.
    containerd_answered: bool,
    coordinator: Option<Kept>,
    agent: Option<Kept>,
}

/// A child that is started again when it dies, until it is stopped.
struct Kept {
    stop: CancellationToken,
    keeper: JoinSet<anyhow::Result<()>>,
}

impl Kept {
    fn new(child: Running) -> Self {
        let stop = CancellationToken::new();
        let mut keeper = JoinSet::new();
        keeper.spawn(child.keep(stop.clone()));
        Self { stop, keeper }
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        // The keeper has its own deadline for the child.
        self.keeper.join_next().await.context("the keeper is there")??
    }
}

impl Stack {
    async fn start(&mut self, layout: &Layout, programs: &machine::Programs) -> anyhow::Result<()> {
        if let Some(containerd) = &programs.containerd {
            let recipe = Recipe {
                name: "containerd",
                program: containerd.clone(),
                called: "containerd",
                arguments: vec!["--config".into(), layout.config_file("containerd").into()],
                log: layout.log_file("containerd"),
            };
            self.containerd = Some(self.one(&recipe, containerd_answers(layout)).await?);
        } else {
            timeout(READY_DEADLINE, containerd_answers(layout))
                .await
                .with_context(|| format!("reach containerd at {}", layout.containerd.display()))?;
        }
        self.containerd_answered = true;
        let client = Client::new(&ServerArgs { server: url(layout) })?;
        let recipe = own("coordinator", layout);
        self.coordinator = Some(self.one(&recipe, coordinator_is_well(&client)).await?);
        let recipe = own("agent", layout);
        self.agent = Some(self.one(&recipe, node_is_ready(&client, layout)).await?);
        Ok(())
    }

    /// Starts a child and waits until `ready` ends, or says why it never will.
    async fn one(&mut self, recipe: &Recipe, ready: impl Future<Output = ()>) -> anyhow::Result<Kept> {
        let child = self.starting.insert(recipe.start()?);
        // Cancel safe: nothing is lost with any of these, and the child stays in the stack.
        tokio::select! {
            () = ready => {}
            died = child.died() => return Err(died?.into()),
            () = sleep(READY_DEADLINE) => bail!(
                "{} was not ready after {READY_DEADLINE:?}; the end of {}:\n{}",
                recipe.name, recipe.log.display(), tail(&recipe.log)
            ),
        }
        self.starting.take().map(Kept::new).context("find the child that was just started")
    }

    /// Stops everything, whatever of it was started, and tells of the first thing that went wrong.
    async fn stop(&mut self, layout: &Layout) -> anyhow::Result<()> {
        let mut result = Ok(());
        if let Some(child) = self.starting.take() {
            result = result.and(child.stop().await);
        }
        if let Some(agent) = self.agent.take() {
            result = result.and(agent.stop().await);
        }
        if self.containerd_answered {
            let tasks = timeout(STOP_TASKS_DEADLINE, teamster_agent::stop_all(&layout.agent)).await;
            result = result.and(match tasks {
                Ok(stopped) => stopped.map(drop).context("stop the tasks that run"),
                Err(_) => Err(anyhow::anyhow!("tasks still run after {STOP_TASKS_DEADLINE:?}")),
            });
        }
        for child in [self.containerd.take(), self.coordinator.take()].into_iter().flatten() {
            result = result.and(child.stop().await);
        }
        result
    }
}

/// This program again, as one of its two services: the file that runs now, even if an upgrade has replaced
/// it on disk.
fn own(name: &'static str, layout: &Layout) -> Recipe {
    Recipe {
        name,
        program: "/proc/self/exe".into(),
        called: "teamster",
        arguments: vec![name.into(), "--config".into(), layout.config_file(name).into()],
        log: layout.log_file(name),
    }
}

async fn containerd_answers(layout: &Layout) {
    // containerd listens only once all of its plugins are there.
    while UnixStream::connect(&layout.containerd).await.is_err() {
        sleep(PROBE_PAUSE).await;
    }
}

async fn coordinator_is_well(client: &Client) {
    while !client.is_healthy().await {
        sleep(PROBE_PAUSE).await;
    }
}

async fn node_is_ready(client: &Client, layout: &Layout) {
    let node_id = layout.agent.node_id.as_deref();
    let is_ours = |node: &serde_json::Value| node["id"].as_str() == node_id && node["state"] == "READY";
    while !client.nodes().await.is_ok_and(|nodes| nodes.iter().any(is_ours)) {
        sleep(PROBE_PAUSE).await;
    }
}

fn url(layout: &Layout) -> String {
    format!("http://{}", layout::reachable(layout.coordinator.http))
}

fn announce(layout: &Layout) {
    if layout.coordinator.insecure_open {
        table::write_error("teamster: --insecure-open: anybody who reaches a listener may do anything\n");
    }
    table::say(&format!(
        "Teamster is up.\n  \
         API         {url}   (curl {url}/v1/nodes)\n  \
         gRPC        {grpc}   (tes.v1.TaskService)\n  \
         agents      {agents}\n  \
         containerd  {containerd}   (ctr -a {containerd} -n teamster tasks ls)\n  \
         storage     {shared}   (the same path in URLs, here and in tasks)\n  \
         data, logs  {root}   (logs/)\n\
         Ctrl-C stops it.",
        url = url(layout),
        grpc = layout.coordinator.grpc,
        agents = layout.coordinator.agents,
        containerd = layout.containerd.display(),
        shared = layout.shared().display(),
        root = layout.root().display(),
    ));
}
