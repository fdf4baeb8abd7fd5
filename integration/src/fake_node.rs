//! An agent in the test's own process, with a runtime without containers: executors do what their command line
//! says, see `teamster_agent::runtime::fake`. For tests of all that happens without a container.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use teamster_agent::Tools;
use teamster_agent::config::Config;
use teamster_agent::runtime::fake::FakeRuntime;
use teamster_agent::stage::Stager;
use teamster_agent::storage::fake::FakeMounter;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// An agent that runs.
#[derive(Debug)]
pub struct FakeNode {
    /// What the agent keeps.
    pub data_dir: PathBuf,
    stop: CancellationToken,
    running: JoinSet<()>,
}

impl FakeNode {
    /// Starts one with its files in `dir`, that dials `agents`.
    pub fn start(dir: &Path, agents: SocketAddr) -> Self {
        let data_dir = dir.join("agent");
        let mut config = Config {
            data_dir: data_dir.clone(),
            coordinator: agents.to_string(),
            node_id: Some("node-1".to_owned()),
            grace_period: "100ms".parse().unwrap(),
            ..Config::default()
        };
        config.capacity.cpus = Some(4.0);
        config.capacity.memory = Some("16GiB".parse().unwrap());
        config.capacity.disk = Some("1TiB".parse().unwrap());
        let (runtime, mounter) = (Arc::new(FakeRuntime::new()), Arc::new(FakeMounter::default()));
        let tools = Tools { runtime, mounter, staging: Arc::new(Stager::new("/nonexistent".into())) };
        let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
        let stopped = stop.clone();
        running.spawn(async move { teamster_agent::run_with(config, tools, stopped).await.unwrap() });
        Self { data_dir, stop, running }
    }

    /// Stops it, and returns when it has gone.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.running.join_next().await.expect("it runs").expect("it does not panic");
    }
}

/// A small task of one such executor.
pub fn fake_task(command: &[&str]) -> Value {
    json!({ "name": "n", "tags": { "k": "v" }, "executors": [{ "image": "fake", "command": command }],
            "resources": { "cpu_cores": 1, "ram_gb": 0.5, "disk_gb": 1 } })
}
