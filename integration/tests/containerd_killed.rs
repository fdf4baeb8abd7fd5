//! kill -9 of containerd under running tasks: they go on, and end with the right code.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::time::Duration;

use teamster_integration::cluster::{Marks, Options, eventually, shell_task};
use teamster_integration::stand::Stand;

#[tokio::test(flavor = "multi_thread")]
async fn running_tasks_go_on_and_end_with_the_right_code() {
    let mut stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let marks = Marks::new(&cluster.shared());
    let mut tasks = Vec::new();
    for number in 0..6 {
        // Even ones end while containerd is down, odd ones after it is back.
        let gate = if number % 2 == 0 { "down" } else { "up" };
        let mark = marks.shell(&format!("t{number}"));
        let script = format!("{mark}; {}; echo done; exit {}", marks.shell_gate(gate), 10 + number);
        tasks.push(cluster.client.submit(&shell_task(&format!("t{number}"), &[script])).await);
    }
    for number in 0..6 {
        let name = format!("t{number}");
        eventually("the tasks to run", async || (marks.count(&name) == 1).then_some(())).await;
    }

    stand.containerd.kill9();
    marks.open_gate("down");
    tokio::time::sleep(Duration::from_secs(1)).await;
    stand.containerd.restart();
    tokio::time::sleep(Duration::from_millis(500)).await;
    marks.open_gate("up");

    for (number, id) in tasks.iter().enumerate() {
        let task = cluster.client.wait(id).await;
        assert_eq!(task["state"], "EXECUTOR_ERROR", "{task:#}");
        assert_eq!(task["logs"][0]["logs"][0]["exit_code"], 10 + number, "{task:#}");
        assert_eq!(task["logs"][0]["logs"][0]["stdout"], "done\n", "{task:#}");
        assert_eq!(marks.count(&format!("t{number}")), 1, "task {number} ran once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_submitted_while_it_is_down_runs_when_it_is_back() {
    let mut stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let marks = Marks::new(&cluster.shared());
    stand.containerd.kill9();
    let id = cluster.client.submit(&shell_task("late", &[marks.shell("late")])).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    stand.containerd.restart();
    let task = cluster.client.wait(&id).await;
    assert_eq!(task["state"], "COMPLETE", "{task:#}");
    assert_eq!(marks.count("late"), 1);
}
