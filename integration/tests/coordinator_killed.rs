//! kill -9 of the coordinator: nothing that was accepted is lost, nothing runs twice, running tasks do not
//! notice.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::collections::BTreeSet;
use std::time::Duration;

use teamster_integration::cluster::{Cluster, Marks, Options, eventually, shell_task};
use teamster_integration::stand::Stand;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_run_and_twenty_wait() {
    let stand = Stand::start().await;
    let mut cluster = stand.cluster(&Options { cpus: 20, ..Options::default() }).await;
    let marks = Marks::new(&cluster.shared());
    let mut ids = Vec::new();
    for number in 0..40 {
        let script = format!("{}; {}", marks.shell(&format!("t{number}")), marks.shell_gate("gate"));
        ids.push(cluster.client.submit(&shell_task(&format!("t{number}"), &[script])).await);
    }
    eventually("20 tasks to run", async || (cluster.client.count("RUNNING").await == 20).then_some(())).await;
    assert_eq!(cluster.client.count("QUEUED").await, 20);
    // A started container becomes its command a moment later: its mark says that it has.
    let has_begun = |number: &usize| marks.count(&format!("t{number}")) == 1;
    eventually("20 commands to run", async || ((0..40).filter(has_begun).count() == 20).then_some(())).await;
    let running_before = pids_of_tasks(&cluster);
    assert_eq!(running_before.len(), 20);

    cluster.kill_coordinator();
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.start_coordinator();
    cluster.wait_ready().await;
    assert_eq!(pids_of_tasks(&cluster), running_before, "the tasks that ran are the very same processes");
    marks.open_gate("gate");

    for (number, id) in ids.iter().enumerate() {
        let task = cluster.client.wait(id).await;
        assert_eq!(task["state"], "COMPLETE", "{task:#}");
        assert_eq!(task["logs"].as_array().unwrap().len(), 1, "one attempt: {task:#}");
        assert_eq!(marks.count(&format!("t{number}")), 1, "task {number} ran once");
    }
}

/// First processes of containers that hold the script of this cluster's gate: those whose parent is a shim. A child
/// that the shell has forked and that has not yet become `sleep` has the same command line, and is not meant.
fn pids_of_tasks(cluster: &Cluster) -> BTreeSet<i32> {
    let gate = cluster.shared().join("marks/gate").display().to_string();
    let processes: Vec<_> = procfs::process::all_processes().unwrap().filter_map(Result::ok).collect();
    let command = |process: &procfs::process::Process| process.cmdline().unwrap_or_default();
    let shims: BTreeSet<i32> = processes
        .iter()
        .filter(|process| command(process).first().is_some_and(|word| word.contains("containerd-shim")))
        .map(|process| process.pid)
        .collect();
    processes
        .iter()
        .filter(|process| command(process).iter().any(|word| word.contains(&gate)))
        .filter(|process| process.stat().is_ok_and(|stat| shims.contains(&stat.ppid)))
        .map(|process| process.pid)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_in_the_storm_is_there_afterwards() {
    let stand = Stand::start().await;
    let mut cluster = stand.cluster(&Options { cpus: 4, ..Options::default() }).await;
    let marks = Marks::new(&cluster.shared());
    let mut accepted = Vec::new();
    for round in 0..5 {
        accepted.extend(storm(&mut cluster, &marks, round).await);
        cluster.start_coordinator();
        cluster.wait_ready().await;
    }
    assert!(accepted.len() >= 5, "the storm was heard at all");
    for (name, id) in &accepted {
        let task = cluster.client.wait(id).await;
        assert_eq!(task["state"], "COMPLETE", "{task:#}");
        assert_eq!(task["name"], name.as_str());
        assert_eq!(marks.count(name), 1, "{name} ran once");
    }
}

/// Submits without pause and kills the coordinator in the middle; the names and ids that were acknowledged.
async fn storm(cluster: &mut Cluster, marks: &Marks, round: u64) -> Vec<(String, String)> {
    let client = cluster.client.clone();
    let marks = marks.clone();
    let mut submitting = tokio::task::JoinSet::new();
    submitting.spawn(async move {
        let mut accepted = Vec::new();
        for number in 0..10_000 {
            let name = format!("r{round}-t{number}");
            let task = shell_task(&name, &[marks.shell(&name)]);
            match client.try_submit(&task).await {
                Some(id) => accepted.push((name, id)),
                None => return accepted,
            }
            // A few at a time are enough; each is a container.
            if number > 8 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        panic!("the coordinator was never killed");
    });
    tokio::time::sleep(Duration::from_millis(60 + 37 * round)).await;
    cluster.kill_coordinator();
    submitting.join_next().await.unwrap().unwrap()
}
