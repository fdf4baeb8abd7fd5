//! Container overhead: how fast Teamster gets `true` tasks done, from the REST API to the durable end, against
//! a bare containerd client that makes the same calls with the same OCI spec and nothing else. Both use one
//! containerd, in turns, in random order; what is printed are ratios and CPU times, because other times of a
//! busy machine mean little.
//!
//! Usage: `bench-containers [BLOCKS] [TASKS PER BLOCK] [PARALLEL ...]`

#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use teamster_integration::accounting::Spent;
use teamster_integration::bare::BareClient;
use teamster_integration::cluster::{Cluster, Options, teamster};
use teamster_integration::figures::Spread;
use teamster_integration::meter::Meter;
use teamster_integration::stand::{IMAGE, Stand};
use teamster_proto::tes::v1 as wire;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use wire::State;
use wire::task_service_client::TaskServiceClient;

/// What a side may still have to clear away when its last task has ended: it counts as its CPU time.
const SETTLING: Duration = Duration::from_millis(1500);

/// The programs of containerd, copied so that the kernel can tell this benchmark's from anybody else's.
const PROGRAMS: [&str; 3] = ["containerd", "containerd-shim-runc-v2", "runc"];

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let blocks: usize = arguments.next().map_or(Ok(12), |text| text.parse())?;
    let tasks: usize = arguments.next().map_or(Ok(24), |text| text.parse())?;
    let mut parallels = arguments.map(|text| text.parse()).collect::<Result<Vec<usize>, _>>()?;
    if parallels.is_empty() {
        parallels = vec![1, 4, 16];
    }
    println!("{blocks} blocks of {tasks} tasks each way; ratio = Teamster's throughput / the bare client's");
    for parallel in parallels {
        measure(parallel, blocks, tasks).await?;
    }
    Ok(())
}

/// One side of one block.
struct Run {
    seconds: f64,
    spent: Spent,
}

async fn measure(parallel: usize, blocks: usize, tasks: usize) -> Result<()> {
    let programs = tempfile::tempdir()?;
    copy_programs(programs.path())?;
    let stand = Stand::start_from(Some(programs.path())).await;
    // One more than is measured: a sleeper lends the bare client its OCI spec.
    let options = Options { cpus: parallel as u32 + 1, log: "info".to_owned(), ..Options::default() };
    let cluster = stand.cluster(&options).await;
    let sleeper = cluster.client.submit(&task(&["sleep", "100000"])).await;
    cluster.client.wait_state(&sleeper, "RUNNING").await;
    let bare = BareClient::borrow_spec(&stand.containerd.socket(), &sleeper, &["true"]).await?;
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{}", cluster.grpc))?.connect().await?;
    let told = TaskServiceClient::new(channel);
    // Both warm: image, page cache, connections.
    with_teamster(&cluster, &told, parallel, parallel).await?;
    with_bare_client(&bare, parallel, parallel, "warm").await?;

    let mut meter = meter(&stand, &cluster, programs.path())?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for block in 0..blocks {
        let name = format!("b{block}");
        let bare_first = RandomState::new().build_hasher().finish().is_multiple_of(2);
        for is_bare in [bare_first, !bare_first] {
            let begun = Instant::now();
            if is_bare {
                with_bare_client(&bare, parallel, tasks, &name).await?;
            } else {
                with_teamster(&cluster, &told, parallel, tasks).await?;
            }
            let seconds = begun.elapsed().as_secs_f64();
            tokio::time::sleep(SETTLING).await;
            let run = Run { seconds, spent: meter.take()? };
            if is_bare { theirs.push(run) } else { ours.push(run) }
        }
    }
    cluster.client.cancel(&sleeper).await;
    report(parallel, tasks, &ours, &theirs);
    Ok(())
}

fn copy_programs(to: &Path) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for name in PROGRAMS {
        let found =
            std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file());
        fs::copy(found.with_context(|| format!("{name} is not installed"))?, to.join(name))?;
    }
    Ok(())
}

fn meter(stand: &Stand, cluster: &Cluster, programs: &Path) -> Result<Meter> {
    let [coordinator, agent] = cluster.processes();
    let daemons =
        [(stand.containerd.process(), "containerd"), (coordinator, "coordinator"), (agent, "agent")];
    let daemons = daemons.into_iter().map(|(process, name)| Some((process?, name)));
    let daemons = daemons.collect::<Option<Vec<_>>>().context("all of them run")?;
    let beside = fs::read_dir(cluster.agent_dir().join("programs"))?.next().context("the programs")??.path();
    let files: Vec<(PathBuf, &str)> = vec![
        (programs.join("containerd-shim-runc-v2"), "shim"),
        (programs.join("runc"), "runc"),
        (beside.join("teamster-shim"), "shim"),
        (beside.join("teamster-runc"), "runc"),
        (beside.join("teamster-keeper"), "keeper"),
        (beside.join("inside/teamster-init"), "in the container"),
        (teamster(), "staging"),
    ];
    let files: Vec<(&Path, &'static str)> =
        files.iter().map(|(path, name)| (path.as_path(), *name)).collect();
    Meter::start(daemons, &files, "in the container")
}

fn task(command: &[&str]) -> Value {
    json!({
        "resources": {"cpu_cores": 1, "ram_gb": 0.0625, "disk_gb": 0.1},
        "executors": [{"image": IMAGE, "command": command}],
    })
}

/// All tasks are submitted, and the node runs `parallel` at a time.
async fn with_teamster(
    cluster: &Cluster,
    told: &TaskServiceClient<Channel>,
    parallel: usize,
    tasks: usize,
) -> Result<()> {
    let mut ending = JoinSet::new();
    let room = std::sync::Arc::new(tokio::sync::Semaphore::new(parallel.max(4)));
    for _ in 0..tasks {
        let (client, told, turn) =
            (cluster.client.clone(), told.clone(), room.clone().acquire_owned().await?);
        ending.spawn(async move {
            let id = client.submit(&task(&["true"])).await;
            drop(turn);
            end_of(told, id).await
        });
    }
    while let Some(ended) = ending.join_next().await {
        ended??;
    }
    Ok(())
}

async fn end_of(mut told: TaskServiceClient<Channel>, id: String) -> Result<()> {
    let request = wire::WatchTaskRequest { id: id.clone(), view: wire::View::Minimal.into() };
    let mut news = told.watch_task(request).await?.into_inner();
    while let Some(answer) = news.message().await? {
        match answer.task.context("a task")?.state() {
            State::Complete => return Ok(()),
            State::Queued | State::Initializing | State::Running => {}
            other => bail!("task {id}: {other:?}"),
        }
    }
    bail!("task {id}: nothing more is told")
}

async fn with_bare_client(bare: &BareClient, parallel: usize, tasks: usize, name: &str) -> Result<()> {
    let mut running = JoinSet::new();
    for number in 0..tasks {
        let (bare, id) = (bare.clone(), format!("{name}-p{parallel}-{number}"));
        running.spawn(async move { bare.run(&id).await });
        if running.len() >= parallel {
            let code = running.join_next().await.context("one runs")???;
            ensure!(code == 0, "exit code {code}");
        }
    }
    while let Some(code) = running.join_next().await {
        ensure!(code?? == 0, "exit code");
    }
    Ok(())
}

fn report(parallel: usize, tasks: usize, ours: &[Run], theirs: &[Run]) {
    let cpu = |run: &Run| run.spent.values().sum::<u64>() as f64;
    let pairs = || ours.iter().zip(theirs);
    let per_task =
        |runs: &[Run]| 1000.0 * Spread::of(runs.iter().map(|run| run.seconds)).median / tasks as f64;
    println!("parallel {parallel}:");
    println!("  throughput ratio  {}", Spread::of(pairs().map(|(our, their)| their.seconds / our.seconds)));
    println!(
        "  CPU ratio         {}   (bare / Teamster)",
        Spread::of(pairs().map(|(our, their)| cpu(their) / cpu(our)))
    );
    println!("  ms a task         Teamster {:.1}, bare {:.1}", per_task(ours), per_task(theirs));
    let (ours, theirs) = (by_process(ours, tasks), by_process(theirs, tasks));
    println!("  CPU-ms a task     {:>10} {:>10}", "Teamster", "bare");
    let row = |name: &str, our: f64, their: f64| println!("    {name:<16}{our:>10.1} {their:>10.1}");
    for (name, our) in &ours {
        row(name, *our, theirs.get(name).copied().unwrap_or_default());
    }
    row("all", ours.values().sum(), theirs.values().sum());
}

/// Means, because the time of daemons comes in whole ticks.
fn by_process(runs: &[Run], tasks: usize) -> BTreeMap<&'static str, f64> {
    let mut sums = BTreeMap::new();
    for (name, nanos) in runs.iter().flat_map(|run| &run.spent) {
        *sums.entry(*name).or_default() += *nanos as f64 / 1e6 / (tasks * runs.len()) as f64;
    }
    sums
}
