//! Reading: how much slower a get and a list are among very many ended tasks than among few, and how many
//! requests a second the API answers against a bare hyper server that says "hello". Everything runs in turns
//! in one process; what is printed are ratios.
//!
//! Usage: `bench-api [BLOCKS] [MANY TASKS] [FEW TASKS]`

#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use teamster_coordinator::attempt_log::{AttemptLog, ExecutorLog};
use teamster_coordinator::config::Config;
use teamster_coordinator::spec::{Executor, TaskSpec};
use teamster_coordinator::store::{self, Asks, Change, FinalState};
use teamster_integration::cluster::eventually;
use teamster_integration::figures::Spread;
use teamster_integration::http::{Connection, get};
use teamster_values::TaskId;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Tasks in one commit while the databases are filled.
const FILL_BATCH: u64 = 10_000;
/// Requests of one kind in one block.
const GETS: usize = 2_000;
const LISTS: usize = 20;
/// Connections of the throughput part.
const CONNECTIONS: usize = 32;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: u64| arguments.next().map_or(Ok(default), |text| text.parse());
    let (blocks, many, few) = (next(10)? as usize, next(1_000_000)?, next(10_000)?);
    let dir = tempfile::tempdir()?;
    let stop = CancellationToken::new();
    let mut parts = JoinSet::new();
    let mut sides = Vec::new();
    for tasks in [many, few] {
        let data_dir = dir.path().join(tasks.to_string());
        let (started, at) = (Instant::now(), data_dir.clone());
        tokio::task::spawn_blocking(move || fill(&at, tasks)).await??;
        println!("{tasks} ended tasks written in {:.0} s", started.elapsed().as_secs_f64());
        let http = free_address()?;
        let config = Config { data_dir, http, agents: free_address()?, ..Config::default() };
        let stop = stop.clone();
        parts.spawn(async move { Ok(teamster_coordinator::run(config, stop).await?) });
        let connection = eventually("the API", async || Connection::open(http).await.ok()).await;
        sides.push(Side { http, connection, tasks, asked: 0 });
    }
    let (few, many) = (sides.pop().expect("two were made"), sides.pop().expect("two were made"));
    latencies(blocks, many, few).await?;
    stop.cancel();
    while let Some(ended) = parts.join_next().await {
        let ended: Result<()> = ended?;
        ended?;
    }
    Ok(())
}

/// One coordinator.
struct Side {
    http: SocketAddr,
    connection: Connection,
    tasks: u64,
    asked: u64,
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Ids like the real ones: their first bytes grow with time, the rest is spread.
fn id(seq: u64) -> TaskId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seq.to_be_bytes());
    bytes[8..].copy_from_slice(&seq.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    TaskId::from_bytes(bytes)
}

fn fill(data_dir: &Path, tasks: u64) -> Result<()> {
    let executor = Executor { image: "busybox".into(), command: vec!["true".into()], ..Executor::default() };
    let tags = [("workflow".to_owned(), "bench".to_owned())].into();
    let name = Some("bench".to_owned());
    let spec = Arc::new(TaskSpec { name, executors: vec![executor], tags, ..TaskSpec::default() });
    let mut writer = store::open(data_dir)?.writer;
    for first in (1..=tasks).step_by(FILL_BATCH as usize) {
        let mut changes = Vec::new();
        for seq in first..(first + FILL_BATCH).min(tasks + 1) {
            let log = ExecutorLog { stdout: "done\n".into(), ..ExecutorLog::default() };
            let log =
                AttemptLog { node: Some("node-1".into()), executors: vec![log], ..AttemptLog::default() };
            let (owner, created) = ("anonymous".to_owned(), Timestamp::now());
            let (spec, asks) = (spec.clone(), Asks::default());
            changes.push(Change::Accepted {
                seq,
                id: id(seq),
                owner,
                created,
                spec,
                asks,
                notes: Vec::new(),
            });
            changes.push(Change::AttemptEnded { seq, attempt: 1, log });
            changes.push(Change::Finished { seq, state: FinalState::Complete });
        }
        writer.commit(&changes)?;
    }
    Ok(())
}

impl Side {
    /// A request for a task somewhere among all of them.
    fn get_one(&mut self, view: &str) -> Vec<u8> {
        self.asked += 1;
        let seq = self.asked.wrapping_mul(0x9e37_79b9_7f4a_7c15) % self.tasks + 1;
        get(&format!("/v1/tasks/{}?view={view}", id(seq)))
    }

    /// Mean seconds of a request of this kind, one after the other.
    async fn time(&mut self, kind: &str) -> Result<f64> {
        let requests: Vec<Vec<u8>> = match kind {
            "list" => vec![get("/v1/tasks?page_size=256&view=BASIC"); LISTS],
            view => (0..GETS).map(|_| self.get_one(view)).collect(),
        };
        let started = Instant::now();
        for request in &requests {
            self.connection.ask(request).await?;
        }
        Ok(started.elapsed().as_secs_f64() / requests.len() as f64)
    }

    /// Requests a second over many connections.
    async fn throughput(&mut self) -> Result<f64> {
        let requests: Vec<_> = (0..GETS).map(|_| self.get_one("MINIMAL")).collect();
        throughput(self.http, Arc::new(requests)).await
    }
}

async fn throughput(http: SocketAddr, requests: Arc<Vec<Vec<u8>>>) -> Result<f64> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Connection::open(http).await?);
    }
    let started = Instant::now();
    let mut users = JoinSet::new();
    for mut connection in connections {
        let requests = requests.clone();
        users.spawn(async move {
            for request in requests.iter() {
                connection.ask(request).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(user) = users.join_next().await {
        user??;
    }
    Ok((CONNECTIONS * requests.len()) as f64 / started.elapsed().as_secs_f64())
}

async fn latencies(blocks: usize, mut many: Side, mut few: Side) -> Result<()> {
    let mut servers = JoinSet::new();
    let bare = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let hello = bare.local_addr()?;
    servers.spawn(serve_hello(bare));
    for kind in ["MINIMAL", "FULL", "list"] {
        many.time(kind).await?;
        few.time(kind).await?;
        let mut ratios = Vec::new();
        let mut micros = Vec::new();
        for block in 0..blocks {
            // Whoever goes first changes, so that a drift of the machine hits both.
            let (a, b) = if block % 2 == 0 {
                let a = many.time(kind).await?;
                (a, few.time(kind).await?)
            } else {
                let b = few.time(kind).await?;
                (many.time(kind).await?, b)
            };
            ratios.push(a / b);
            micros.push(a * 1e6);
        }
        println!("{kind}: among many / among few {}", Spread::of(ratios));
        println!("{kind}: among many {} µs", Spread::of(micros));
    }
    let requests = Arc::new(vec![get("/"); GETS]);
    let (mut ratios, mut ours) = (Vec::new(), Vec::new());
    for block in 0..blocks {
        let (a, b) = if block % 2 == 0 {
            let a = many.throughput().await?;
            (a, throughput(hello, requests.clone()).await?)
        } else {
            let b = throughput(hello, requests.clone()).await?;
            (many.throughput().await?, b)
        };
        ratios.push(a / b);
        ours.push(a);
    }
    println!("GET MINIMAL requests/s / hyper hello {}", Spread::of(ratios));
    println!("GET MINIMAL requests/s {}", Spread::of(ours));
    Ok(())
}

/// The least that a server on hyper can do.
async fn serve_hello(listener: tokio::net::TcpListener) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = service_fn(|_| async { Ok::<_, Infallible>(hyper::Response::new("hello".to_owned())) });
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        // What has ended is let go.
        while connections.try_join_next().is_some() {}
    }
}
