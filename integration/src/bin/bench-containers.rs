//! Container overhead: how fast Teamster gets `true` tasks done, from the REST API to the durable end, against
//! a bare containerd client that makes the same calls with the same OCI spec and nothing else. Both use one
//! containerd, in turns, in random order; what is printed are ratios, because absolute figures of a busy
//! machine mean little.
//!
//! Usage: `bench-containers [BLOCKS] [TASKS PER BLOCK]`

#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use teamster_integration::bare::BareClient;
use teamster_integration::client::is_terminal;
use teamster_integration::cluster::{Cluster, Options};
use teamster_integration::cpu;
use teamster_integration::stand::{IMAGE, Stand};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let blocks: usize = arguments.next().map_or(Ok(12), |text| text.parse())?;
    let tasks: usize = arguments.next().map_or(Ok(24), |text| text.parse())?;
    println!("{blocks} blocks of {tasks} tasks each way; ratio = Teamster's throughput / the bare client's");
    for parallel in [1, 4, 16] {
        measure(parallel, blocks, tasks).await?;
    }
    Ok(())
}

/// One side of one block.
struct Run {
    seconds: f64,
    cpu_seconds: f64,
}

async fn measure(parallel: usize, blocks: usize, tasks: usize) -> Result<()> {
    let stand = Stand::start().await;
    // One more than is measured: a sleeper lends the bare client its OCI spec.
    let options = Options { cpus: parallel as u32 + 1, ..Options::default() };
    let cluster = stand.cluster(&options).await;
    let sleeper = cluster.client.submit(&task(&["sleep", "100000"])).await;
    cluster.client.wait_state(&sleeper, "RUNNING").await;
    let bare = BareClient::borrow_spec(&stand.containerd.socket(), &sleeper, &["true"]).await?;
    // Both warm: image, page cache, connections.
    teamster(&cluster, parallel, parallel).await?;
    bare_client(&bare, parallel, parallel, "warm").await?;

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for block in 0..blocks {
        let name = format!("b{block}");
        if RandomState::new().build_hasher().finish().is_multiple_of(2) {
            ours.push(teamster(&cluster, parallel, tasks).await?);
            theirs.push(bare_client(&bare, parallel, tasks, &name).await?);
        } else {
            theirs.push(bare_client(&bare, parallel, tasks, &name).await?);
            ours.push(teamster(&cluster, parallel, tasks).await?);
        }
    }
    cluster.client.cancel(&sleeper).await;
    report(parallel, tasks, &ours, &theirs);
    Ok(())
}

fn task(command: &[&str]) -> Value {
    json!({
        "resources": {"cpu_cores": 1, "ram_gb": 0.0625, "disk_gb": 0.1},
        "executors": [{"image": IMAGE, "command": command}],
    })
}

/// `parallel` users who each submit a task, wait for its end and submit the next.
async fn teamster(cluster: &Cluster, parallel: usize, tasks: usize) -> Result<Run> {
    let (started, cpu_before) = (Instant::now(), cpu::used_seconds());
    let mut ids = Vec::with_capacity(tasks);
    let mut submitting = JoinSet::new();
    for _ in 0..tasks {
        let client = cluster.client.clone();
        submitting.spawn(async move { client.submit(&task(&["true"])).await });
        // The queue holds what waits: the node runs `parallel` at a time.
        if submitting.len() >= parallel.max(4) {
            ids.extend(submitting.join_next().await.transpose()?);
        }
    }
    while let Some(id) = submitting.join_next().await {
        ids.push(id?);
    }
    for id in ids.iter().rev() {
        loop {
            let state = cluster.client.state(id).await;
            if is_terminal(&state) {
                ensure!(state == "COMPLETE", "task {id}: {state}");
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    Ok(Run { seconds: started.elapsed().as_secs_f64(), cpu_seconds: cpu::used_seconds() - cpu_before })
}

async fn bare_client(bare: &BareClient, parallel: usize, tasks: usize, name: &str) -> Result<Run> {
    let (started, cpu_before) = (Instant::now(), cpu::used_seconds());
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
    Ok(Run { seconds: started.elapsed().as_secs_f64(), cpu_seconds: cpu::used_seconds() - cpu_before })
}

fn report(parallel: usize, tasks: usize, ours: &[Run], theirs: &[Run]) {
    let ratios = |of: fn(&Run) -> f64| {
        let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| of(b) / of(a)).collect();
        ratios.sort_by(f64::total_cmp);
        let at = |share: f64| ratios[((ratios.len() - 1) as f64 * share).round() as usize];
        format!("{:.2} (quartiles {:.2} to {:.2})", at(0.5), at(0.25), at(0.75))
    };
    let median = |runs: &[Run], of: fn(&Run) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2] / tasks as f64 * 1000.0
    };
    println!("parallel {parallel}:");
    println!("  throughput ratio  {}", ratios(|run| run.seconds));
    println!(
        "  CPU ratio         {}   (bare / Teamster: below 1 means that Teamster spends more)",
        ratios(|run| run.cpu_seconds)
    );
    println!(
        "  per task          Teamster {:.1} ms, {:.1} CPU-ms; bare {:.1} ms, {:.1} CPU-ms",
        median(ours, |run| run.seconds),
        median(ours, |run| run.cpu_seconds),
        median(theirs, |run| run.seconds),
        median(theirs, |run| run.cpu_seconds)
    );
}
