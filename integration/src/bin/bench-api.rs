//! Reading: how much slower a get and a list are among very many ended tasks than among few, and how many
//! requests a second the API answers against a bare hyper server that says "hello". Everything runs in turns
//! in one process, with warm caches; what is printed are ratios. Client and servers share the machine, so a
//! ratio of requests a second has the client's own work on both sides; the one by CPU time has not.
//!
//! Usage: `bench-api [BLOCKS] [MANY TASKS] [FEW TASKS]`

#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::convert::Infallible;
use std::net::SocketAddr;
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
use teamster_integration::loopback::free_address;
use teamster_values::TaskId;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Tasks in one commit while the databases are filled.
const FILL_BATCH: u64 = 10_000;
/// Requests of one kind in one block.
const GETS: usize = 2_000;
const LISTS: usize = 20;
/// Connections of the throughput part.
const CONNECTIONS: usize = 32;
/// One task in so many is asked for before anything is measured, so that the index of ids has been read: its
/// pages hold more than that.
const WARM_STEP: u64 = 64;

/// What is asked for, one after the other.
#[derive(Clone, Copy)]
enum Kind {
    /// A task somewhere among all.
    Any(&'static str),
    /// One of the newest, as many as there are on the smaller side: what engines ask for.
    Newest(&'static str),
    /// The first page.
    List,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: u64| arguments.next().map_or(Ok(default), |text| text.parse());
    let (blocks, many, few) = (next(10)? as usize, next(1_000_000)?, next(10_000)?);
    let dir = tempfile::tempdir()?;
    let stop = CancellationToken::new();
    // Each part has threads of its own, so that the kernel counts its CPU time apart.
    let (client, hello) = (runtime("bench-client")?, runtime("bench-hello")?);
    let mut servers = Vec::new();
    let mut sides = Vec::new();
    for (tasks, name) in [(many, "bench-many"), (few, "bench-few")] {
        let data_dir = dir.path().join(tasks.to_string());
        let started = Instant::now();
        fill(&data_dir, tasks)?;
        println!("{tasks} ended tasks written in {:.0} s", started.elapsed().as_secs_f64());
        let (http, grpc, agents) = (free_address(), free_address(), free_address());
        let config = Config { data_dir, http, grpc, agents, ..Config::default() };
        let server = runtime(name)?;
        let running = server.spawn(teamster_coordinator::run(config, stop.clone()));
        servers.push((server, running));
        let mut side = client.block_on(async {
            let connection = eventually("the API", async || Connection::open(http).await.ok()).await;
            Side { http, connection, tasks, newest: few.min(tasks), asked: 0 }
        });
        client.block_on(side.warm())?;
        sides.push(side);
    }
    let (mut few, mut many) = (sides.pop().expect("two were made"), sides.pop().expect("two were made"));
    client.block_on(latencies(blocks, &mut many, &mut few))?;
    let bare = hello.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let address = bare.local_addr()?;
    let serving = hello.spawn(serve_hello(bare));
    client.block_on(against_hello(blocks, &mut many, address))?;
    serving.abort();
    stop.cancel();
    for (server, running) in servers {
        server.block_on(running)??;
    }
    Ok(())
}

fn runtime(name: &str) -> Result<Runtime> {
    Ok(Builder::new_multi_thread().thread_name(name).enable_all().build()?)
}

/// Seconds of CPU that threads of this name have used.
fn cpu_seconds(name: &str) -> Result<f64> {
    let mut ticks = 0;
    for task in procfs::process::Process::myself()?.tasks()? {
        // A thread may end while we look.
        let Ok(stat) = task.and_then(|task| task.stat()) else { continue };
        if stat.comm == name {
            ticks += stat.utime + stat.stime;
        }
    }
    Ok(ticks as f64 / procfs::ticks_per_second() as f64)
}

/// One coordinator.
struct Side {
    http: SocketAddr,
    connection: Connection,
    tasks: u64,
    newest: u64,
    asked: u64,
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
    /// A request for one of the newest `among` tasks.
    fn get_one(&mut self, view: &str, among: u64) -> Vec<u8> {
        self.asked += 1;
        let seq = self.tasks - self.asked.wrapping_mul(0x9e37_79b9_7f4a_7c15) % among;
        get(&format!("/v1/tasks/{}?view={view}", id(seq)))
    }

    /// Reads every small row once, so that what is measured is not the first look into a cold file.
    async fn warm(&mut self) -> Result<()> {
        for seq in (1..=self.tasks).step_by(WARM_STEP as usize) {
            self.connection.ask(&get(&format!("/v1/tasks/{}", id(seq)))).await?;
        }
        let mut token = String::new();
        loop {
            let request = get(&format!("/v1/tasks?page_size=2000{token}"));
            let page: serde_json::Value = serde_json::from_slice(self.connection.ask(&request).await?)?;
            let Some(next) = page["next_page_token"].as_str() else { return Ok(()) };
            token = format!("&page_token={next}");
        }
    }

    /// Median of the seconds that a request of this kind takes, one after the other.
    async fn time(&mut self, kind: Kind) -> Result<f64> {
        let requests: Vec<Vec<u8>> = match kind {
            Kind::List => vec![get("/v1/tasks?page_size=256&view=BASIC"); LISTS],
            Kind::Any(view) => (0..GETS).map(|_| self.get_one(view, self.tasks)).collect(),
            Kind::Newest(view) => (0..GETS).map(|_| self.get_one(view, self.newest)).collect(),
        };
        let mut seconds = Vec::with_capacity(requests.len());
        for request in &requests {
            let started = Instant::now();
            self.connection.ask(request).await?;
            seconds.push(started.elapsed().as_secs_f64());
        }
        Ok(Spread::of(seconds).median)
    }
}

/// Requests a second over many connections, and CPU seconds of the server's threads for each.
async fn throughput(server: &str, http: SocketAddr, requests: Arc<Vec<Vec<u8>>>) -> Result<(f64, f64)> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Connection::open(http).await?);
    }
    let (started, cpu) = (Instant::now(), cpu_seconds(server)?);
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
    let count = (CONNECTIONS * requests.len()) as f64;
    Ok((count / started.elapsed().as_secs_f64(), (cpu_seconds(server)? - cpu) / count))
}

async fn latencies(blocks: usize, many: &mut Side, few: &mut Side) -> Result<()> {
    for (name, kind) in [
        ("MINIMAL, newest", Kind::Newest("MINIMAL")),
        ("MINIMAL, any", Kind::Any("MINIMAL")),
        ("FULL, newest", Kind::Newest("FULL")),
        ("FULL, any", Kind::Any("FULL")),
        ("list", Kind::List),
    ] {
        many.time(kind).await?;
        few.time(kind).await?;
        let (mut ratios, mut micros) = (Vec::new(), Vec::new());
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
        println!("{name}: among many / among few {}", Spread::of(ratios));
        println!("{name}: among many {} µs", Spread::of(micros));
    }
    Ok(())
}

async fn against_hello(blocks: usize, many: &mut Side, hello: SocketAddr) -> Result<()> {
    let plain = Arc::new(vec![get("/"); GETS]);
    let asked: Vec<_> = (0..GETS).map(|_| many.get_one("MINIMAL", many.newest)).collect();
    let asked = Arc::new(asked);
    let (mut rates, mut cpus, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    for block in 0..=blocks {
        let ((a, a_cpu), (b, b_cpu)) = if block % 2 == 0 {
            let a = throughput("bench-many", many.http, asked.clone()).await?;
            (a, throughput("bench-hello", hello, plain.clone()).await?)
        } else {
            let b = throughput("bench-hello", hello, plain.clone()).await?;
            (throughput("bench-many", many.http, asked.clone()).await?, b)
        };
        // The first block warms up.
        if block > 0 {
            rates.push(a / b);
            cpus.push(b_cpu / a_cpu);
            ours.push(a_cpu * 1e6);
        }
    }
    println!("GET MINIMAL requests/s / hyper hello, client included {}", Spread::of(rates));
    println!("GET MINIMAL requests per CPU second / hyper hello {}", Spread::of(cpus));
    println!("GET MINIMAL server CPU {} µs", Spread::of(ours));
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
