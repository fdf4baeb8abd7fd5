//! The same promises on every release of containerd: a task that ends while containerd is down keeps its exit
//! code and all that it wrote, and a shim or a keeper that is killed is a loss and no exit code.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use teamster_integration::cluster::{Cluster, Marks, Options, eventually, shell_task};
use teamster_integration::releases::{self, SUITES};
use teamster_integration::stand::Stand;

/// Lines that each task writes after containerd is gone.
const LINES: usize = 50_000;

/// The processes whose command line holds both words.
fn processes(first: &str, second: &str) -> Vec<i32> {
    let found = procfs::process::all_processes().unwrap().filter_map(Result::ok).filter(|process| {
        let words = process.cmdline().unwrap_or_default();
        words.first().is_some_and(|word| word.contains(first))
            && words.iter().any(|word| word.contains(second))
    });
    found.map(|process| process.pid).collect()
}

async fn on(programs: Option<&Path>) {
    let mut stand = Stand::start_from(programs).await;
    let options = Options { coordinator_toml: "max_attempts = 1\n".to_owned(), ..Options::default() };
    let cluster = stand.cluster(&options).await;
    ends_while_it_is_down(&mut stand, &cluster).await;
    for victim in ["containerd-shim", "teamster-keeper"] {
        is_lost_with(&cluster, victim).await;
    }
}

async fn ends_while_it_is_down(stand: &mut Stand, cluster: &Cluster) {
    let marks = Marks::new(&cluster.shared());
    let mut tasks = Vec::new();
    for number in 0..6 {
        let name = format!("t{number}");
        let (mark, gate, end) =
            (marks.shell(&name), marks.shell_gate("down"), marks.shell(&format!("{name}-end")));
        let last = if number == 5 { "kill -9 $$".to_owned() } else { format!("exit {}", 40 + number) };
        let script = format!("{mark}; {gate}; seq 1 {LINES}; echo last >&2; {end}; {last}");
        tasks.push((cluster.client.submit(&shell_task(&name, &[script])).await, name));
    }
    for (_, name) in &tasks {
        eventually("the tasks to run", async || (marks.count(name) == 1).then_some(())).await;
    }
    stand.containerd.kill9();
    marks.open_gate("down");
    for (_, name) in &tasks {
        let end = format!("{name}-end");
        eventually("the tasks to end", async || (marks.count(&end) == 1).then_some(())).await;
    }
    eventually("init to end", async || {
        processes("teamster-init", &cluster.shared().to_string_lossy()).is_empty().then_some(())
    })
    .await;
    stand.containerd.restart();
    let expected: String = (1..=LINES).map(|line| format!("{line}\n")).collect();
    for (number, (id, _)) in tasks.iter().enumerate() {
        let task = cluster.client.wait(id).await;
        assert_eq!(task["state"], "EXECUTOR_ERROR", "{task:#}");
        let log = &task["logs"][0]["logs"][0];
        assert_eq!(log["exit_code"], if number == 5 { 137 } else { 40 + number }, "{task:#}");
        assert_eq!(log["stderr"], "last\n", "{task:#}");
        let tail = log["stdout"].as_str().unwrap();
        assert!(expected.ends_with(tail) && tail.len() > 60_000, "{} bytes", tail.len());
        let whole = cluster.agent_dir().join("logs").join(id).join("1/0.stdout");
        let whole = eventually("the log to be kept", async || fs::read_to_string(&whole).ok()).await;
        assert!(whole == expected, "{} of {} bytes", whole.len(), expected.len());
    }
}

async fn is_lost_with(cluster: &Cluster, victim: &str) {
    let marks = Marks::new(&cluster.shared());
    let name = format!("with-{victim}");
    // Nobody else's sleeper is as long.
    let length = (1_000_000 + std::process::id()).to_string();
    let script = format!("{}; sleep {length}", marks.shell(&name));
    let id = cluster.client.submit(&shell_task(&name, &[script])).await;
    eventually("the task to run", async || (marks.count(&name) == 1).then_some(())).await;
    let victims = processes(victim, &id);
    assert_eq!(victims.len(), 1, "{victim}");
    kill(Pid::from_raw(victims[0]), Signal::SIGKILL).unwrap();
    let task = cluster.client.wait(&id).await;
    assert_eq!(task["state"], "SYSTEM_ERROR", "{victim}: {task:#}");
    assert_eq!(task["logs"][0]["logs"].as_array().map_or(0, Vec::len), 0, "{victim}: {task:#}");
    assert_ne!(task["logs"][0]["system_logs"], Value::Null, "{task:#}");
    assert_eq!(processes("sleep", &length).len(), 0, "nothing of it is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_that_is_installed() {
    on(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn debian_13() {
    on_suite(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn debian_sid() {
    on_suite(1).await;
}

async fn on_suite(index: usize) {
    let (suite, version) = SUITES[index];
    if let Some(programs) = releases::containerd_of(suite, version) {
        on(Some(&programs)).await;
    }
}
