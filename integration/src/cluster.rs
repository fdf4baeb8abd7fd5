//! A whole Teamster: a coordinator and an agent as processes of their own, each of which a test may kill,
//! and a client that speaks to the REST API as users do.

use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Client;
use crate::link::Link;
use crate::loopback::free_address;
use crate::stand::IMAGE;

/// How long anything may take before a test gives up. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What tests want to read when they fail.
const LOG: &str = "debug,h2=info,hyper=info,tower=info,tonic=info";

/// What a test may choose.
#[derive(Debug, Clone)]
pub struct Options {
    /// CPUs that the node claims to have: how many tasks run at one time.
    pub cpus: u32,
    /// Between two heartbeats of the agent; after four in silence its session ends.
    pub heartbeat: &'static str,
    /// More lines for the coordinator's configuration.
    pub coordinator_toml: String,
    /// More lines for the agent's configuration.
    pub agent_toml: String,
    /// What both log.
    pub log: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cpus: 20,
            heartbeat: "300ms",
            coordinator_toml: String::new(),
            agent_toml: String::new(),
            log: LOG.to_owned(),
        }
    }
}

/// One coordinator, one agent, one shared storage. Whatever still runs is killed at the end.
#[derive(Debug)]
pub struct Cluster {
    /// Everything on disk: `coordinator/`, `agent/`, `shared/`, `logs/`.
    pub dir: PathBuf,
    /// The REST API.
    pub client: Client,
    /// Where the gRPC API listens.
    pub grpc: SocketAddr,
    /// What lies between agent and coordinator; a test may cut it.
    pub link: Link,
    log: String,
    coordinator: Option<Child>,
    agent: Option<Child>,
}

impl Cluster {
    /// Starts everything on the containerd behind `socket`, with its files in `dir`, and waits until the
    /// node is ready.
    pub async fn start(dir: &Path, socket: &Path, options: &Options) -> Self {
        let (http, grpc, agents) = (free_address(), free_address(), free_address());
        let link = Link::open(agents).await;
        let mut cluster = Self {
            dir: dir.to_owned(),
            client: Client::new(http),
            grpc,
            link,
            log: options.log.clone(),
            coordinator: None,
            agent: None,
        };
        for name in ["coordinator", "agent", "shared", "logs"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        fs::set_permissions(dir.join("shared"), fs::Permissions::from_mode(0o1777)).unwrap();
        cluster.write_config(http, agents, socket, options);
        cluster.start_coordinator();
        cluster.start_agent(&[]);
        cluster.wait_ready().await;
        cluster
    }

    fn write_config(&self, http: SocketAddr, agents: SocketAddr, socket: &Path, options: &Options) {
        let (dir, shared) = (self.dir.display(), self.shared());
        let shared = shared.display();
        let coordinator = format!(
            "data_dir = '{dir}/coordinator'\nhttp = '{http}'\ngrpc = '{}'\nagents = '{agents}'\n\
             storage = ['{shared}']\nheartbeat = '{}'\n{}",
            self.grpc, options.heartbeat, options.coordinator_toml
        );
        let agent = format!(
            "data_dir = '{dir}/agent'\ncoordinator = '{}'\nnode_id = 'node-1'\ncontainerd = '{}'\n\
             grace_period = '1s'\n{}\n[capacity]\ncpus = {}\nmemory = '64GiB'\ndisk = '1TiB'\n\
             [[storage]]\nname = 'shared'\nkind = 'directory'\npath = '{shared}'\n",
            self.link.address(),
            socket.display(),
            options.agent_toml,
            options.cpus
        );
        fs::write(self.dir.join("coordinator.toml"), coordinator).unwrap();
        fs::write(self.dir.join("agent.toml"), agent).unwrap();
    }

    /// The shared storage: the same path for host and tasks.
    pub fn shared(&self) -> PathBuf {
        self.dir.join("shared")
    }

    /// The agent's data directory.
    pub fn agent_dir(&self) -> PathBuf {
        self.dir.join("agent")
    }

    /// The processes of coordinator and agent, while they run.
    pub fn processes(&self) -> [Option<u32>; 2] {
        [&self.coordinator, &self.agent].map(|child| child.as_ref().map(Child::id))
    }

    /// Starts the coordinator; it must not run.
    pub fn start_coordinator(&mut self) {
        assert!(self.coordinator.is_none(), "the coordinator runs");
        self.coordinator = Some(self.spawn("coordinator", &[]));
    }

    /// Starts the agent with more environment; it must not run.
    pub fn start_agent(&mut self, environment: &[(&str, &str)]) {
        assert!(self.agent.is_none(), "the agent runs");
        self.agent = Some(self.spawn("agent", environment));
    }

    fn spawn(&self, service: &str, environment: &[(&str, &str)]) -> Child {
        let log = self.dir.join("logs").join(format!("{service}.log"));
        let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
        Command::new(teamster())
            .arg(service)
            .arg("--config")
            .arg(self.dir.join(format!("{service}.toml")))
            .env("TEAMSTER_LOG", &self.log)
            .envs(environment.iter().copied())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("start teamster")
    }

    /// SIGKILL to the coordinator, as a crash would.
    pub fn kill_coordinator(&mut self) {
        kill(self.coordinator.take().expect("the coordinator runs"));
    }

    /// SIGKILL to the agent, as a crash would.
    pub fn kill_agent(&mut self) {
        kill(self.agent.take().expect("the agent runs"));
    }

    /// SIGTERM to the agent, as an upgrade would; returns when it has gone.
    pub fn stop_agent(&mut self) {
        let mut agent = self.agent.take().expect("the agent runs");
        signal(&agent, nix::sys::signal::Signal::SIGTERM);
        assert!(agent.wait().unwrap().success(), "an agent that is asked to stop ends well");
    }

    /// Stops the agent in its tracks: it is there, and says nothing.
    pub fn freeze_agent(&self) {
        signal(self.agent.as_ref().expect("the agent runs"), nix::sys::signal::Signal::SIGSTOP);
    }

    /// Lets a frozen agent go on.
    pub fn thaw_agent(&self) {
        signal(self.agent.as_ref().expect("the agent runs"), nix::sys::signal::Signal::SIGCONT);
    }

    /// Makes every record of the stopped agent one of an earlier boot of the machine.
    pub fn pretend_reboot(&self) {
        assert!(self.agent.is_none(), "the agent runs");
        let mut records = 0;
        for task in fs::read_dir(self.agent_dir().join("tasks")).unwrap().flatten() {
            for attempt in fs::read_dir(task.path()).unwrap().flatten() {
                let path = attempt.path().join("attempt.json");
                let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                record["boot_id"] = json!("00000000-0000-0000-0000-000000000000");
                fs::write(path, record.to_string()).unwrap();
                records += 1;
            }
        }
        assert!(records > 0, "the agent held something");
    }

    /// Waits until the agent has died by itself, at a failpoint.
    pub async fn wait_agent_dead(&mut self) {
        let mut agent = self.agent.take().expect("the agent runs");
        eventually("the agent to reach its failpoint", async || agent.try_wait().unwrap()).await;
    }

    /// Waits until the API answers and the node takes work.
    pub async fn wait_ready(&self) {
        eventually("the node to be ready", async || {
            let nodes = self.client.try_get("/v1/nodes").await?;
            (nodes["nodes"][0]["state"] == "READY").then_some(())
        })
        .await;
    }

    /// Everything that coordinator and agent logged, for the message of a failed test.
    pub fn logs(&self) -> String {
        ["coordinator", "agent"]
            .map(|name| {
                let path = self.dir.join("logs").join(format!("{name}.log"));
                let text = fs::read_to_string(path).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                format!("--- {name}\n{}", lines[lines.len().saturating_sub(80)..].join("\n"))
            })
            .join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for child in [self.agent.take(), self.coordinator.take()].into_iter().flatten() {
            kill(child);
        }
    }
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// The program under test: `teamster`, built beside the tests.
pub fn teamster() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().find(|path| path.join("deps").is_dir()).expect("tests run from target/");
    let program = target.join("teamster");
    assert!(program.is_file(), "{} is missing: run `cargo build --bins` first", program.display());
    program
}

/// Asks again and again until there is an answer; panics with `what` was waited for after [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Marks that tasks leave on the shared storage: the oracle of what really ran, and how often.
#[derive(Debug, Clone)]
pub struct Marks(PathBuf);

impl Marks {
    /// Marks in their own directory of the shared storage.
    pub fn new(shared: &Path) -> Self {
        let dir = shared.join("marks");
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
        Self(dir)
    }

    /// Shell text that leaves a mark under `name`.
    pub fn shell(&self, name: &str) -> String {
        format!("echo ran >> {}/{name}", self.0.display())
    }

    /// How often `name` was left.
    pub fn count(&self, name: &str) -> usize {
        fs::read_to_string(self.0.join(name)).unwrap_or_default().lines().count()
    }

    /// A file whose appearance lets `shell_gate` go on.
    pub fn open_gate(&self, name: &str) {
        File::create(self.0.join(name)).unwrap();
    }

    /// Shell text that waits for the gate `name`.
    pub fn shell_gate(&self, name: &str) -> String {
        format!("until [ -e {}/{name} ]; do sleep 0.1; done", self.0.display())
    }
}

/// A task with one small executor per script, run by the shell of the test image.
pub fn shell_task(name: &str, scripts: &[String]) -> Value {
    let executors: Vec<_> =
        scripts.iter().map(|script| json!({"image": IMAGE, "command": ["/bin/sh", "-c", script]})).collect();
    json!({
        "name": name,
        "resources": {"cpu_cores": 1, "ram_gb": 0.0625, "disk_gb": 0.1},
        "executors": executors,
    })
}
