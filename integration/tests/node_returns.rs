//! A node that disappears: what happens to its tasks while it is gone, and when it is back.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::time::Duration;

use serde_json::{Value, json};
use teamster_integration::cluster::{Cluster, Marks, Options, eventually, shell_task};
use teamster_integration::stand::Stand;

async fn wait_node(cluster: &Cluster, state: &str) {
    eventually(&format!("the node to be {state}"), async || {
        (cluster.client.get("/v1/nodes").await["nodes"][0]["state"] == state).then_some(())
    })
    .await;
}

fn preemptible(mut task: Value) -> Value {
    task["resources"]["preemptible"] = json!(true);
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn its_tasks_go_on_and_are_neither_lost_nor_doubled() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options { cpus: 3, ..Options::default() }).await;
    let marks = Marks::new(&cluster.shared());
    let script =
        |name: &str, gate: &str| format!("{}; {}; exit 4", marks.shell(name), marks.shell_gate(gate));
    let ends_alone = cluster.client.submit(&shell_task("a", &[script("a", "first")])).await;
    let ends_later = cluster.client.submit(&shell_task("b", &[script("b", "second")])).await;
    let cancelled = cluster.client.submit(&shell_task("c", &[script("c", "never")])).await;
    let waits = cluster.client.submit(&shell_task("d", &[marks.shell("d")])).await;
    for name in ["a", "b", "c"] {
        eventually("the tasks to run", async || (marks.count(name) == 1).then_some(())).await;
    }

    cluster.link.cut();
    wait_node(&cluster, "DISCONNECTED").await;
    marks.open_gate("first");
    cluster.client.cancel(&cancelled).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for id in [&ends_alone, &ends_later, &cancelled] {
        assert_eq!(cluster.client.state(id).await, "RUNNING", "tasks stay as they are");
    }
    cluster.link.mend();
    wait_node(&cluster, "READY").await;
    marks.open_gate("second");

    for (id, state) in [
        (&ends_alone, "EXECUTOR_ERROR"),
        (&ends_later, "EXECUTOR_ERROR"),
        (&cancelled, "CANCELED"),
        (&waits, "COMPLETE"),
    ] {
        let task = cluster.client.wait(id).await;
        assert_eq!(task["state"], state, "{task:#}");
        assert_eq!(task["logs"].as_array().unwrap().len(), 1, "one attempt: {task:#}");
    }
    assert_eq!(cluster.client.task(&ends_alone).await["logs"][0]["logs"][0]["exit_code"], 4);
    for name in ["a", "b", "c", "d"] {
        assert_eq!(marks.count(name), 1, "{name} ran once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_agent_is_no_reason_to_run_anything_again() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let marks = Marks::new(&cluster.shared());
    let script = format!("{}; {}; exit 4", marks.shell("a"), marks.shell_gate("gate"));
    let id = cluster.client.submit(&shell_task("a", &[script])).await;
    eventually("the task to run", async || (marks.count("a") == 1).then_some(())).await;
    cluster.freeze_agent();
    wait_node(&cluster, "DISCONNECTED").await;
    marks.open_gate("gate");
    cluster.thaw_agent();
    let task = cluster.client.wait(&id).await;
    assert_eq!(task["logs"][0]["logs"][0]["exit_code"], 4, "{task:#}");
    assert_eq!(marks.count("a"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_its_tasks_are_judged_by_what_they_allow() {
    let mut stand = Stand::start().await;
    let mut cluster = stand.cluster(&Options { cpus: 2, ..Options::default() }).await;
    let marks = Marks::new(&cluster.shared());
    let script = |name: &str| format!("{}; {}", marks.shell(name), marks.shell_gate("gate"));
    let plain = cluster.client.submit(&shell_task("plain", &[script("plain")])).await;
    let again = cluster.client.submit(&preemptible(shell_task("again", &[script("again")]))).await;
    for id in [&plain, &again] {
        cluster.client.wait_state(id, "RUNNING").await;
    }
    for name in ["plain", "again"] {
        eventually("the tasks to run", async || (marks.count(name) == 1).then_some(())).await;
    }

    cluster.kill_agent();
    stand.containerd.lose_everything_that_runs();
    cluster.pretend_reboot();
    stand.containerd.restart();
    marks.open_gate("gate");
    cluster.start_agent(&[]);

    let task = cluster.client.wait(&plain).await;
    assert_eq!(task["state"], "SYSTEM_ERROR", "it had started and does not allow a second time: {task:#}");
    assert!(task["logs"][0]["system_logs"].to_string().contains("restarted"), "{task:#}");
    assert_eq!(marks.count("plain"), 1);
    let task = cluster.client.wait(&again).await;
    assert_eq!(task["state"], "COMPLETE", "{task:#}");
    assert_eq!(task["logs"].as_array().unwrap().len(), 2, "two attempts: {task:#}");
    assert_eq!(marks.count("again"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_ends_an_attempt_on_a_node_that_stays_away() {
    let stand = Stand::start().await;
    let options = Options {
        coordinator_toml: "preemptible_lease = '3s'\nlease_margin = '3s'\nmax_attempts = 1\n".to_owned(),
        ..Options::default()
    };
    let cluster = stand.cluster(&options).await;
    let marks = Marks::new(&cluster.shared());
    let beat = format!("while true; do {}; sleep 0.1; done", marks.shell("beat"));
    let id = cluster.client.submit(&preemptible(shell_task("beat", &[beat]))).await;
    eventually("the task to run", async || (marks.count("beat") > 3).then_some(())).await;
    cluster.link.cut();
    let task = cluster.client.wait(&id).await;
    // The agent killed it before the coordinator gave it up: it has fallen silent by now.
    let beats = marks.count("beat");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(marks.count("beat"), beats, "nothing of it runs when it is given up");
    assert_eq!(task["state"], "SYSTEM_ERROR", "{task:#}");
}
