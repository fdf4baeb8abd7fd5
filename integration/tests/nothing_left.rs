//! After 200 mixed tasks the node is as it was before them.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use teamster_integration::cluster::{Cluster, Marks, Options, PATIENCE, eventually, shell_task};
use teamster_integration::remains::{Remains, SLEEPER};
use teamster_integration::stand::Stand;

/// The five kinds of task, by number.
fn task(number: usize, marks: &Marks) -> Value {
    let name = format!("t{number}");
    let mark = marks.shell(&name);
    match number % 5 {
        0 => shell_task(&name, &[mark]),
        1 => shell_task(&name, &[format!("{mark}; exit 9")]),
        // Leaves children behind that ignore SIGTERM, in a session of their own.
        2 => {
            let sleep = format!("sleep {SLEEPER}");
            shell_task(&name, &[format!("{mark}; trap '' TERM; setsid {sleep} & setsid {sleep} & {sleep}")])
        }
        3 => shell_task(&name, &[format!("{mark}; x=x; while true; do x=$x$x$x$x; done")]),
        _ => with_files(shell_task(&name, &[format!("{mark}; cat /in/a > /out/b; echo to-stdout")])),
    }
}

fn with_files(mut task: Value) -> Value {
    let name = task["name"].as_str().unwrap().to_owned();
    task["inputs"] = json!([{"path": "/in/a", "content": "hello\n"}]);
    task["outputs"] = json!([{"path": "/out/b", "url": format!("@SHARED@/out/{name}/b")}]);
    task["volumes"] = json!(["/out", "/scratch"]);
    task["executors"][0]["stdout"] = json!("/out/stdout");
    task
}

fn expected(number: usize) -> &'static str {
    ["COMPLETE", "EXECUTOR_ERROR", "CANCELED", "EXECUTOR_ERROR", "COMPLETE"][number % 5]
}

async fn submit(cluster: &Cluster, number: usize, marks: &Marks) -> String {
    let shared = cluster.shared().display().to_string();
    let text = task(number, marks).to_string().replace("@SHARED@", &shared);
    cluster.client.submit(&serde_json::from_str(&text).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_mixed_tasks() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options { cpus: 8, ..Options::default() }).await;
    let marks = Marks::new(&cluster.shared());
    let before = Remains::look(&stand, &cluster, &[]);
    let mut ids = Vec::new();
    for number in 0..200 {
        ids.push(submit(&cluster, number, &marks).await);
    }
    for (number, id) in ids.iter().enumerate().filter(|(number, _)| number % 5 == 2) {
        let name = format!("t{number}");
        eventually("the task to run", async || (marks.count(&name) == 1).then_some(())).await;
        cluster.client.cancel(id).await;
    }
    for (number, id) in ids.iter().enumerate() {
        let task = cluster.client.wait(id).await;
        assert_eq!(task["state"], expected(number), "{task:#}");
        assert_eq!(marks.count(&format!("t{number}")), 1, "task {number} ran once");
        check_details(number, &task, &cluster);
    }
    // The last result is told before the last directory is gone.
    let mut after = Remains::look(&stand, &cluster, &ids);
    let deadline = Instant::now() + PATIENCE;
    while after != before && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
        after = Remains::look(&stand, &cluster, &ids);
    }
    assert_eq!(after, before, "what is left over");
}

fn check_details(number: usize, task: &Value, cluster: &Cluster) {
    let log = &task["logs"][0];
    match number % 5 {
        1 => assert_eq!(log["logs"][0]["exit_code"], 9, "{task:#}"),
        3 => {
            assert_eq!(log["logs"][0]["exit_code"], 137, "{task:#}");
            assert!(log["system_logs"].to_string().contains("out of memory"), "{task:#}");
        }
        4 => {
            let copied = cluster.shared().join(format!("out/t{number}/b"));
            assert_eq!(std::fs::read_to_string(copied).unwrap(), "hello\n");
            assert_eq!(log["outputs"][0]["size_bytes"], "6", "{task:#}");
        }
        _ => {}
    }
}
