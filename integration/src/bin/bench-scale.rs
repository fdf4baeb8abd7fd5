//! Very many tasks: what a queued one takes in memory, how long a restart takes against reading the rows that
//! it needs, and what a watcher takes. Parts that need a whole coordinator run one in a process of its own.
//!
//! Usage: `bench-scale [BLOCKS] [TASKS] [WATCHERS]`

#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use teamster_coordinator::cluster::{Class, Cluster, Effects, Event, Millis, Policy, Request, Resources};
use teamster_coordinator::spec::{Executor, TaskSpec};
use teamster_coordinator::store::{self, Asks, Change};
use teamster_integration::cluster::{eventually, teamster};
use teamster_integration::figures::Spread;
use teamster_integration::http::{self, Connection};
use teamster_integration::loopback::free_address;
use teamster_proto::tes::v1 as wire;
use teamster_values::TaskId;
use tokio::task::JoinSet;
use wire::task_service_client::TaskServiceClient;

/// Different wishes among the tasks.
const CLASSES: u64 = 100;
const FILL_BATCH: u64 = 10_000;
/// Watches on one connection: less than a connection may have.
const WATCHES_PER_CONNECTION: usize = 1_000;
/// Watched tasks that are canceled.
const CANCELED: usize = 100;
/// How long whoever must not be woken is given to be woken anyway.
const QUIET: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: u64| arguments.next().map_or(Ok(default), |text| text.parse());
    let (blocks, tasks, watchers) = (next(5)?, next(1_000_000)?, next(10_000)? as usize);
    model(tasks)?;
    let dir = tempfile::tempdir()?;
    fill(&dir.path().join("data"), tasks.max(watchers as u64))?;
    restart(dir.path(), blocks, tasks).await?;
    watch(dir.path(), watchers).await
}

/// The model alone, in this process.
fn model(tasks: u64) -> Result<()> {
    let mut cluster = Cluster::new(Policy {
        retry_started_always: false,
        attempts_max: 3,
        lease_millis: 1,
        preemptible_lease_millis: 1,
        lease_margin_millis: 1,
    });
    let before = resident_bytes(std::process::id())?;
    for seq in 1..=tasks {
        let need = Resources { cpu_milli: 1000 + seq % CLASSES, memory_bytes: 1 << 30, disk_bytes: 1 << 30 };
        let class = Class { need, ..Class::default() };
        let event = Event::Submitted(seq, Request { class, preemptible: false });
        cluster.handle(Millis(1), event, &mut Effects::default());
    }
    let taken = resident_bytes(std::process::id())? - before;
    println!("model: {} bytes for each of {tasks} queued tasks", taken / tasks);
    drop(cluster);
    Ok(())
}

fn resident_bytes(pid: u32) -> Result<u64> {
    Ok(procfs::process::Process::new(pid as i32)?.statm()?.resident * procfs::page_size())
}

fn id(seq: u64) -> TaskId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seq.to_be_bytes());
    TaskId::from_bytes(bytes)
}

/// Queued tasks that no node has ever seen.
fn fill(data_dir: &Path, tasks: u64) -> Result<()> {
    let executor = Executor { image: "busybox".into(), command: vec!["true".into()], ..Executor::default() };
    let spec = Arc::new(TaskSpec { executors: vec![executor], ..TaskSpec::default() });
    let mut writer = store::open(data_dir)?.writer;
    for first in (1..=tasks).step_by(FILL_BATCH as usize) {
        let accepted = |seq| Change::Accepted {
            seq,
            id: id(seq),
            owner: "anonymous".to_owned(),
            created: jiff::Timestamp::now(),
            spec: spec.clone(),
            asks: Asks { cpu_milli: 1000 + seq % CLASSES, memory_bytes: 1 << 30, ..Asks::default() },
            notes: Vec::new(),
        };
        let changes: Vec<_> = (first..(first + FILL_BATCH).min(tasks + 1)).map(accepted).collect();
        writer.commit(&changes)?;
    }
    Ok(())
}

/// A coordinator in a process of its own.
struct Coordinator {
    child: Child,
    http: SocketAddr,
    grpc: SocketAddr,
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing is left.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Coordinator {
    /// Returns when it answers.
    async fn start(dir: &Path) -> Result<Self> {
        let (http, grpc, agents) = (free_address(), free_address(), free_address());
        let config = format!(
            "data_dir = '{}'\nhttp = '{http}'\ngrpc = '{grpc}'\nagents = '{agents}'\ndisk_floor = '0B'\n",
            dir.join("data").display()
        );
        let file = dir.join("coordinator.toml");
        std::fs::write(&file, config)?;
        let mut command = Command::new(teamster());
        let command = command.arg("coordinator").arg("--config").arg(&file);
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let coordinator = Self { child: command.spawn().context("start the coordinator")?, http, grpc };
        eventually("the coordinator", async || {
            let mut connection = Connection::open(http).await.ok()?;
            connection.ask(&http::get("/readyz")).await.ok().map(drop)
        })
        .await;
        Ok(coordinator)
    }

    fn cpu_seconds(&self) -> Result<f64> {
        let stat = procfs::process::Process::new(self.child.id() as i32)?.stat()?;
        Ok((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
    }

    /// Asks it to end, and waits until it has closed its database.
    fn stop(mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        ensure!(self.child.wait()?.success(), "the coordinator did not end well");
        Ok(())
    }
}

/// From nothing to the first answer, against reading every live row from the same file.
async fn restart(dir: &Path, blocks: u64, tasks: u64) -> Result<()> {
    let file = dir.join("data").join("state.redb");
    scan(&file)?;
    let (mut walls, mut cpus, mut seconds, mut taken) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..blocks {
        let (started, cpu) = (Instant::now(), own_cpu_seconds()?);
        let read = scan(&file)?;
        ensure!(read >= tasks, "{read} live rows");
        let (scanned, scan_cpu) = (started.elapsed().as_secs_f64(), own_cpu_seconds()? - cpu);
        let started = Instant::now();
        let coordinator = Coordinator::start(dir).await?;
        let up = started.elapsed().as_secs_f64();
        walls.push(up / scanned);
        cpus.push(coordinator.cpu_seconds()? / scan_cpu.max(0.01));
        seconds.push(up);
        taken = resident_bytes(coordinator.child.id())?;
        coordinator.stop()?;
    }
    println!("restart / scan of the live rows, time     {}", Spread::of(walls));
    println!("restart / scan of the live rows, CPU      {}", Spread::of(cpus));
    println!("restart                                   {} s", Spread::of(seconds));
    println!("coordinator after it: {} bytes for each task, its cache of the file included", taken / tasks);
    Ok(())
}

fn own_cpu_seconds() -> Result<f64> {
    let stat = procfs::process::Process::myself()?.stat()?;
    Ok((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}

/// Opens the file, takes the bytes of every live row in hand, and closes it. How many rows there are.
fn scan(file: &PathBuf) -> Result<u64> {
    const LIVE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("live");
    let database = Database::open(file)?;
    let (mut rows, mut bytes) = (0, 0);
    for entry in database.begin_read()?.open_table(LIVE)?.iter()? {
        bytes += entry?.1.value().to_vec().len();
        rows += 1;
    }
    ensure!(bytes > 0, "the rows are empty");
    Ok(rows)
}

/// Watchers of one queued task each; a few of the tasks are canceled.
async fn watch(dir: &Path, watchers: usize) -> Result<()> {
    let coordinator = Coordinator::start(dir).await?;
    let pid = coordinator.child.id();
    let address = format!("http://{}", coordinator.grpc);
    let before = resident_bytes(pid)?;
    let mut clients = Vec::new();
    let mut streams = Vec::new();
    for number in 0..watchers {
        if number % WATCHES_PER_CONNECTION == 0 {
            clients.push(TaskServiceClient::connect(address.clone()).await?);
        }
        let client = clients.last_mut().expect("one was just made");
        let request = wire::WatchTaskRequest { id: id(number as u64 + 1).to_string(), ..Default::default() };
        let mut stream = client.watch_task(request).await?.into_inner();
        ensure!(stream.message().await?.is_some(), "the task is told at once");
        streams.push(stream);
    }
    let taken = resident_bytes(pid)?.saturating_sub(before);
    println!("watchers: {} bytes for each of {watchers}", taken / watchers as u64);
    let mut woken = JoinSet::new();
    for (number, mut stream) in streams.into_iter().enumerate() {
        woken.spawn(async move {
            let news = stream.message().await;
            (number, news, stream)
        });
    }
    let mut rest = Connection::open(coordinator.http).await?;
    let cpu = coordinator.cpu_seconds()?;
    for number in 0..CANCELED.min(watchers) {
        rest.ask(&http::post(&format!("/v1/tasks/{}:cancel", id(number as u64 + 1)), "")).await?;
    }
    for _ in 0..CANCELED.min(watchers) {
        let (number, news, _) = woken.join_next().await.context("a watcher")??;
        ensure!(number < CANCELED && news?.is_some(), "watcher {number} was woken for nothing");
    }
    let spent = coordinator.cpu_seconds()? - cpu;
    println!("watchers: {:.0} µs of CPU for each cancel and its watcher", spent / CANCELED as f64 * 1e6);
    tokio::time::sleep(QUIET).await;
    ensure!(woken.try_join_next().is_none(), "somebody was woken for nothing");
    println!("watchers: {CANCELED} of {watchers} were woken, and nobody else");
    Ok(())
}
