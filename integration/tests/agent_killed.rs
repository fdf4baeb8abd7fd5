//! kill -9 of the agent: its containers go on, the next agent adopts them, exit codes and logs are right,
//! nothing runs twice. At an arbitrary moment, and at every phase of `attempt.json`.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::time::Duration;

use serde_json::Value;
use teamster_agent::failpoint;
use teamster_integration::cluster::{Cluster, Marks, Options, eventually, shell_task};
use teamster_integration::stand::Stand;

/// Scripts of a task with this many executors; the last one ends with `code`. Each leaves a mark and says
/// who it is on both streams.
fn scripts(marks: &Marks, name: &str, executors: usize, gate: Option<&str>, code: usize) -> Vec<String> {
    (0..executors)
        .map(|index| {
            let gate = gate.map_or("true".to_owned(), |gate| marks.shell_gate(gate));
            let code = if index + 1 == executors { code } else { 0 };
            let mark = marks.shell(&format!("{name}-{index}"));
            format!("{mark}; echo out {name} {index}; echo err {name} {index} >&2; {gate}; exit {code}")
        })
        .collect()
}

/// Checks that a task ended with `code`, that each executor ran once, and that each stream is whole.
fn check(task: &Value, marks: &Marks, name: &str, executors: usize, code: usize) {
    let expected = if code == 0 { "COMPLETE" } else { "EXECUTOR_ERROR" };
    assert_eq!(task["state"], expected, "{name}: {task:#}");
    assert_eq!(task["logs"].as_array().unwrap().len(), 1, "{name} had one attempt: {task:#}");
    let logs = task["logs"][0]["logs"].as_array().unwrap();
    assert_eq!(logs.len(), executors, "{name}: {task:#}");
    for (index, log) in logs.iter().enumerate() {
        let code = if index + 1 == executors { code } else { 0 };
        assert_eq!(log["exit_code"], code, "{name} executor {index}: {task:#}");
        assert_eq!(log["stdout"], format!("out {name} {index}\n"), "{name}: {task:#}");
        assert_eq!(log["stderr"], format!("err {name} {index}\n"), "{name}: {task:#}");
        assert_eq!(marks.count(&format!("{name}-{index}")), 1, "{name} executor {index} ran once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_run_and_ten_wait() {
    let stand = Stand::start().await;
    let mut cluster = stand.cluster(&Options { cpus: 10, ..Options::default() }).await;
    let marks = Marks::new(&cluster.shared());
    let mut tasks = Vec::new();
    for number in 0..20 {
        let (name, executors, code) = (format!("t{number}"), 1 + 2 * (number % 2), number % 5);
        let scripts = scripts(&marks, &name, executors, Some("gate"), code);
        tasks.push((cluster.client.submit(&shell_task(&name, &scripts)).await, name, executors, code));
    }
    eventually("10 tasks to run", async || (cluster.client.count("RUNNING").await == 10).then_some(())).await;

    cluster.kill_agent();
    // Half of them end while nobody is there to see it.
    marks.open_gate("gate");
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.start_agent(&[]);

    for (id, name, executors, code) in &tasks {
        let task = cluster.client.wait(id).await;
        check(&task, &marks, name, *executors, *code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polite_stop_leaves_tasks_alone_too() {
    let stand = Stand::start().await;
    let mut cluster = stand.cluster(&Options::default()).await;
    let marks = Marks::new(&cluster.shared());
    let scripts = scripts(&marks, "t", 1, Some("gate"), 3);
    let id = cluster.client.submit(&shell_task("t", &scripts)).await;
    cluster.client.wait_state(&id, "RUNNING").await;
    cluster.stop_agent();
    cluster.start_agent(&[]);
    marks.open_gate("gate");
    check(&cluster.client.wait(&id).await, &marks, "t", 1, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_phase_of_one_executor() {
    at_every_failpoint(1, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_phase_of_the_second_of_three_executors() {
    at_every_failpoint(3, "@2").await;
}

async fn at_every_failpoint(executors: usize, pass: &str) {
    let stand = Stand::start().await;
    let mut cluster = stand.cluster(&Options::default()).await;
    let marks = Marks::new(&cluster.shared());
    // That one is passed with a network only; `network.rs` has it.
    let names = failpoint::NAMES.iter().filter(|name| **name != "link-made");
    for (number, failpoint) in names.enumerate() {
        let name = format!("f{number}");
        // What is passed once in an attempt has no second pass.
        let once = ["intended", "outputs-staged", "staged", "reported"];
        let pass = if once.iter().any(|prefix| failpoint.starts_with(prefix)) { "" } else { pass };
        cluster.stop_agent();
        cluster.start_agent(&[(failpoint::VARIABLE, &format!("{failpoint}{pass}"))]);
        cluster.wait_ready().await;
        let task = shell_task(&name, &scripts(&marks, &name, executors, None, number % 4));
        let id = cluster.client.submit(&task).await;
        cluster.wait_agent_dead().await;
        cluster.start_agent(&[]);
        let task = cluster.client.wait(&id).await;
        check(&task, &marks, &name, executors, number % 4);
        wait_nothing_held(&cluster).await;
    }
}

/// Until the agent has cleared away what it held: the next one shall meet its failpoint with its own task.
async fn wait_nothing_held(cluster: &Cluster) {
    let tasks = cluster.agent_dir().join("tasks");
    eventually("the agent to hold nothing", async || {
        std::fs::read_dir(&tasks).unwrap().next().is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_goes_on_where_the_dead_agent_left_it() {
    let stand = Stand::start().await;
    let mut cluster = stand.cluster(&Options::default()).await;
    let marks = Marks::new(&cluster.shared());
    let stubborn = format!("trap '' TERM; {}; while true; do sleep 0.1; done", marks.shell("stubborn"));
    let task = shell_task("stubborn", &[stubborn, marks.shell("never")]);
    let id = cluster.client.submit(&task).await;
    eventually("the task to run", async || (marks.count("stubborn") == 1).then_some(())).await;
    cluster.client.cancel(&id).await;
    cluster.kill_agent();
    assert_eq!(cluster.client.state(&id).await, "RUNNING", "it is not known to be dead");
    cluster.start_agent(&[]);
    let task = cluster.client.wait(&id).await;
    assert_eq!(task["state"], "CANCELED", "{task:#}");
    assert_eq!(marks.count("never"), 0, "nothing of it was started after the cancel");
    assert_eq!(marks.count("stubborn"), 1);
}
