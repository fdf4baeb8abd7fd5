//! A coordinator and several agents in one process, the agents with a runtime without containers: many nodes
//! and many tasks cost little here, so this is where scheduling, retries and restarts meet in numbers.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use teamster_agent::Tools;
use teamster_agent::runtime::fake::FakeRuntime;
use teamster_agent::stage::Stager;
use teamster_agent::storage::fake::FakeMounter;
use teamster_integration::client::Client;
use teamster_integration::cluster::eventually;
use teamster_integration::loopback::free_address;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Something that runs until it is told to stop.
struct Service {
    stop: CancellationToken,
    running: JoinSet<()>,
}

impl Service {
    fn start<F: Future<Output = ()> + Send + 'static>(run: impl FnOnce(CancellationToken) -> F) -> Self {
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(run(stop.clone()));
        Self { stop, running }
    }

    async fn stop(mut self) {
        self.stop.cancel();
        self.running.join_next().await.expect("it ran").expect("it does not panic");
    }
}

fn coordinator(dir: &Path, http: SocketAddr, agents: SocketAddr) -> Service {
    let config = teamster_coordinator::config::Config {
        data_dir: dir.join("coordinator"),
        http,
        // Nobody asks there; any port that is free.
        grpc: SocketAddr::from(([127, 0, 0, 1], 0)),
        agents,
        heartbeat: "200ms".parse().unwrap(),
        ..Default::default()
    };
    Service::start(|stop| async move { teamster_coordinator::run(config, stop).await.unwrap() })
}

fn agent(dir: &Path, agents: SocketAddr, name: &str, runtime: Arc<FakeRuntime>) -> Service {
    let mut config = teamster_agent::config::Config {
        data_dir: dir.join(name),
        coordinator: agents.to_string(),
        node_id: Some(name.to_owned()),
        grace_period: "100ms".parse().unwrap(),
        ..Default::default()
    };
    config.capacity.cpus = Some(8.0);
    config.capacity.memory = Some("32GiB".parse().unwrap());
    config.capacity.disk = Some("1TiB".parse().unwrap());
    let staging = Arc::new(Stager::new("/nonexistent".into()));
    let tools = Tools { runtime, mounter: Arc::new(FakeMounter::default()), staging };
    Service::start(|stop| async move { teamster_agent::run_with(config, tools, stop).await.unwrap() })
}

fn task(name: &str, commands: &[&[&str]]) -> Value {
    let executors: Vec<_> = commands.iter().map(|c| json!({"image": "fake", "command": c})).collect();
    json!({"name": name, "resources": {"cpu_cores": 1, "ram_gb": 1, "disk_gb": 1}, "executors": executors})
}

/// What task number `n` does, and how it must end.
fn kind(n: usize) -> (Value, &'static str) {
    let name = format!("t{n}");
    match n % 6 {
        0 => (task(&name, &[&["exit", "0"]]), "COMPLETE"),
        1 => (task(&name, &[&["exit", "3"]]), "EXECUTOR_ERROR"),
        2 => (task(&name, &[&["sleep", "40"], &["exit", "0"], &["sleep", "20"]]), "COMPLETE"),
        3 => (task(&name, &[&["sleep", "10"], &["exit", "5"], &["exit", "0"]]), "EXECUTOR_ERROR"),
        4 => (task(&name, &[&["oom"]]), "EXECUTOR_ERROR"),
        _ => (task(&name, &[&["sleep", "600000"]]), "CANCELED"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_nodes_and_restarts_of_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (http, agents) = (free_address(), free_address());
    let mut head = coordinator(dir.path(), http, agents);
    let runtimes: Vec<Arc<FakeRuntime>> = (0..4).map(|_| Arc::new(FakeRuntime::new())).collect();
    let start = |n: usize| agent(dir.path(), agents, &format!("node-{n}"), runtimes[n].clone());
    let mut nodes: Vec<Service> = (0..4).map(start).collect();
    let client = Client::new(http);
    let mut ids = Vec::new();
    for n in 0..240 {
        let (task, state) = kind(n);
        let id = eventually("the task to be taken", async || client.try_submit(&task).await).await;
        ids.push((id, state));
        // Everything is restarted in the middle of it, one after the other.
        if n % 40 == 20 {
            let which = (n / 40) % 4;
            nodes.remove(which).stop().await;
            nodes.insert(which, start(which));
        }
        if n == 100 || n == 180 {
            head.stop().await;
            head = coordinator(dir.path(), http, agents);
        }
    }
    cancel_all_that_never_end(&client, &ids).await;
    for (id, state) in &ids {
        let task = client.wait(id).await;
        assert_eq!(task["state"], *state, "{task:#}");
    }
    eventually("the nodes to be empty", async || {
        let nodes = client.get("/v1/nodes").await;
        let nodes = nodes["nodes"].as_array()?.clone();
        nodes.iter().all(|node| node["tasks"] == 0 && node["free"] == node["capacity"]).then_some(())
    })
    .await;
    let mut attempts = BTreeMap::new();
    for runtime in &runtimes {
        for (container, starts) in runtime.starts() {
            assert_eq!(starts, 1, "{container} was started {starts} times");
            *attempts.entry((container.attempt.task, container.executor)).or_insert(0) += 1;
        }
        eventually("nothing to be left", async || runtime.attempts().is_empty().then_some(())).await;
    }
    assert!(attempts.values().all(|count| *count == 1), "no executor ran in two attempts");
    for node in nodes {
        node.stop().await;
    }
    head.stop().await;
}

async fn cancel_all_that_never_end(client: &Client, ids: &[(String, &str)]) {
    for (id, _) in ids.iter().filter(|(_, state)| *state == "CANCELED") {
        client.cancel(id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_nowhere_waits_with_a_reason_and_runs_when_a_node_joins() {
    let dir = tempfile::tempdir().unwrap();
    let (http, agents) = (free_address(), free_address());
    let head = coordinator(dir.path(), http, agents);
    let client = Client::new(http);
    let mut large = task("large", &[&["exit", "0"]]);
    let id = eventually("the task to be taken", async || client.try_submit(&large).await).await;
    let waiting = client.task(&id).await;
    assert_eq!(waiting["state"], "QUEUED");
    assert!(waiting["logs"][0]["system_logs"].to_string().contains("waiting for a node"), "{waiting:#}");

    large["resources"]["cpu_cores"] = json!(64);
    let too_large = client.submit(&large).await;
    let runtime = Arc::new(FakeRuntime::new());
    let node = agent(dir.path(), agents, "node-0", runtime);
    assert_eq!(client.wait(&id).await["state"], "COMPLETE");
    let waiting = client.task(&too_large).await;
    assert_eq!(waiting["state"], "QUEUED");
    assert!(waiting["logs"][0]["system_logs"].to_string().contains("larger node"), "{waiting:#}");
    node.stop().await;
    head.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_of_one_name_and_one_of_another_cluster_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (http, agents) = (free_address(), free_address());
    let head = coordinator(dir.path(), http, agents);
    let client = Client::new(http);
    let runtime = Arc::new(FakeRuntime::new());
    let first = agent(&dir.path().join("a"), agents, "node-0", runtime.clone());
    eventually("the node to be ready", async || {
        (client.try_get("/v1/nodes").await?["nodes"][0]["state"] == "READY").then_some(())
    })
    .await;
    let second = agent(&dir.path().join("b"), agents, "node-0", Arc::new(FakeRuntime::new()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    second.stop().await;
    let id = client.submit(&task("t", &[&["exit", "0"]])).await;
    assert_eq!(client.wait(&id).await["state"], "COMPLETE");
    assert_eq!(runtime.starts().len(), 1, "the first one has the session");
    head.stop().await;

    // Another cluster takes the same port; the agent must not work for it.
    let other = coordinator(&dir.path().join("other"), http, agents);
    let id =
        eventually("the task to be taken", async || client.try_submit(&task("x", &[&["exit", "0"]])).await);
    let id = id.await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(client.state(&id).await, "QUEUED");
    assert_eq!(runtime.starts().len(), 1);
    first.stop().await;
    other.stop().await;
}
