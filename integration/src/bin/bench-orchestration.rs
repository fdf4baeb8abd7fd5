//! Orchestration with the executor stubbed: what the coordinator spends on a task from the REST request to
//! its durable end, and how many it gets through a second while the load generator and the stub agents share
//! the machine.
//!
//! Usage: `bench-orchestration [BLOCKS] [TASKS PER BLOCK] [CONNECTIONS]`

#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use teamster_integration::cluster::{eventually, teamster};
use teamster_integration::figures::Spread;
use teamster_integration::http::{self, Connection};
use teamster_integration::loopback::free_address;
use teamster_integration::stub_agent;
use tokio::task::JoinSet;

/// Agents that take the tasks.
const AGENTS: usize = 4;
/// How often it is looked whether a block is done.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

struct Coordinator(Child);

impl Drop for Coordinator {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing is left.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Coordinator {
    fn cpu_seconds(&self) -> Result<f64> {
        let stat = procfs::process::Process::new(self.0.id() as i32)?.stat()?;
        Ok((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse());
    let (blocks, tasks, connections) = (next(8)?, next(20_000)?, next(64)?);
    let dir = tempfile::tempdir()?;
    let (http, grpc, agents) = (free_address(), free_address(), free_address());
    let config = format!(
        "data_dir = '{}'\nhttp = '{http}'\ngrpc = '{grpc}'\nagents = '{agents}'\ndisk_floor = '0B'\n",
        dir.path().join("data").display()
    );
    let file = dir.path().join("coordinator.toml");
    std::fs::write(&file, config)?;
    let mut command = Command::new(teamster());
    let coordinator = Coordinator(start(command.arg("coordinator").arg("--config").arg(&file))?);
    eventually("the coordinator", async || Connection::open(http).await.ok()).await;
    let mut parts = JoinSet::new();
    for number in 0..AGENTS {
        // Room for many: the queue is not what is measured here.
        let capacity = teamster_proto::agent::v1::Capacity {
            cpu_milli: 1_000_000,
            memory_bytes: 4 << 40,
            disk_bytes: 64 << 40,
        };
        parts.spawn(stub_agent::run(agents.to_string(), format!("node-{number}"), capacity));
    }
    let mut watch = Connection::open(http).await?;
    while figure(&mut watch, "teamster_agent_sessions").await? < AGENTS as u64 {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    println!("{blocks} blocks of {tasks} tasks over {connections} connections, {AGENTS} stub agents");
    block(&coordinator, http, tasks / 10, connections).await?;
    let mut runs = Vec::new();
    for _ in 0..blocks {
        runs.push(block(&coordinator, http, tasks, connections).await?);
    }
    println!("durable tasks/s      {}", Spread::of(runs.iter().map(|run| tasks as f64 / run.0)));
    let cpu_micros = runs.iter().map(|run| run.1 / tasks as f64 * 1e6);
    println!("coordinator CPU/task {} µs", Spread::of(cpu_micros));
    let commits = figure(&mut watch, "teamster_commit_duration_seconds_count").await?;
    println!("tasks per commit     {:.0}", (blocks * tasks) as f64 / commits as f64);
    ensure!(parts.try_join_next().is_none(), "a stub agent ended");
    Ok(())
}

fn start(command: &mut Command) -> Result<Child> {
    // Its log is what operators have; where it goes costs nothing here.
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("start the coordinator")
}

/// Submits `tasks` and waits for the last end. Seconds, and the coordinator's seconds of CPU.
async fn block(
    coordinator: &Coordinator,
    http: SocketAddr,
    tasks: usize,
    connections: usize,
) -> Result<(f64, f64)> {
    let mut watch = Connection::open(http).await?;
    let done = "teamster_tasks_ended_total{state=\"COMPLETE\"}";
    let before = figure(&mut watch, done).await?;
    let task = json!({
        "name": "bench", "resources": {"cpu_cores": 1, "ram_gb": 0.5, "disk_gb": 1},
        "executors": [{"image": "busybox", "command": ["true"]}],
    });
    let request = Arc::new(http::post("/v1/tasks", &task.to_string()));
    let (started, cpu) = (Instant::now(), coordinator.cpu_seconds()?);
    let mut users = JoinSet::new();
    for number in 0..connections {
        let (request, mut connection) = (request.clone(), Connection::open(http).await?);
        let share = tasks / connections + usize::from(number < tasks % connections);
        users.spawn(async move {
            for _ in 0..share {
                connection.ask(&request).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(user) = users.join_next().await {
        user??;
    }
    while figure(&mut watch, done).await? < before + tasks as u64 {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok((started.elapsed().as_secs_f64(), coordinator.cpu_seconds()? - cpu))
}

/// A figure of `/metrics`.
async fn figure(connection: &mut Connection, name: &str) -> Result<u64> {
    let text = std::str::from_utf8(connection.ask(&http::get("/metrics")).await?)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("{name} is not in /metrics"))?.parse()?)
}
