//! Live logs of real containers: followed from the first byte to the last, under floods, past stalled
//! readers and through restarts of the agent.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use serde_json::Value;
use teamster_integration::cluster::{Cluster, Marks, Options, eventually, shell_task};
use teamster_integration::stand::Stand;

/// What a follower has got so far.
#[derive(Debug, Default)]
struct Followed {
    stdout: String,
    stderr: String,
    system: String,
    end: Option<String>,
    last_id: String,
}

/// One open `follow=true`.
struct Follower {
    answer: reqwest::Response,
    text: Vec<u8>,
}

impl Follower {
    async fn open(cluster: &Cluster, id: &str, query: &str, last_id: &str) -> Self {
        let url = format!("{}/v1/tasks/{id}/logs?follow=true{query}", cluster.client.base());
        let mut request = reqwest::Client::new().get(url);
        if !last_id.is_empty() {
            request = request.header("last-event-id", last_id);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        Self { answer, text: Vec::new() }
    }

    /// Takes what comes next; false at the end of the answer.
    async fn take(&mut self, followed: &mut Followed) -> bool {
        let Some(piece) = self.answer.chunk().await.unwrap() else { return false };
        self.text.extend_from_slice(&piece);
        while let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
            let block: Vec<u8> = self.text.drain(..end + 2).collect();
            followed.add(std::str::from_utf8(&block).unwrap());
        }
        true
    }
}

impl Followed {
    fn add(&mut self, block: &str) {
        let field = |name| block.lines().find_map(|line| line.strip_prefix(name));
        let (Some(id), Some(name), Some(data)) = (field("id: "), field("event: "), field("data: ")) else {
            return;
        };
        let data: Value = serde_json::from_str(data).unwrap();
        let data = data.as_str().unwrap();
        self.last_id = id.to_owned();
        match name {
            "stdout" => self.stdout.push_str(data),
            "stderr" => self.stderr.push_str(data),
            "system" => self.system.push_str(data),
            _ => self.end = Some(data.to_owned()),
        }
    }
}

async fn follow_to_the_end(cluster: &Cluster, id: &str) -> Followed {
    let mut followed = Followed::default();
    let mut follower = Follower::open(cluster, id, "", "").await;
    while follower.take(&mut followed).await {}
    followed
}

async fn text(cluster: &Cluster, id: &str, query: &str) -> (String, String) {
    let url = format!("{}/v1/tasks/{id}/logs?{query}", cluster.client.base());
    let answer = reqwest::get(url).await.unwrap();
    let extent = answer.headers()["teamster-logs"].to_str().unwrap().to_owned();
    (answer.text().await.unwrap(), extent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sees_each_line_while_the_task_still_runs_and_all_of_it_in_the_end() {
    let stand = Stand::start().await;
    let mut cluster = stand.cluster(&Options::default()).await;
    let marks = Marks::new(&cluster.shared());
    let scripts = [
        format!("echo one; echo err >&2; {}; echo two ü", marks.shell_gate("go")),
        "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done".to_owned(),
    ];
    let id = cluster.client.submit(&shell_task("t", &scripts)).await;
    let mut followed = Followed::default();
    let mut follower = Follower::open(&cluster, &id, "", "").await;
    while followed.stdout != "one\n" || followed.stderr != "err\n" {
        assert!(follower.take(&mut followed).await, "{followed:?}");
    }
    // The agent is replaced in the middle of it.
    cluster.stop_agent();
    cluster.start_agent(&[]);
    marks.open_gate("go");
    while follower.take(&mut followed).await {}
    let lines: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    assert_eq!(followed.end.as_deref(), Some("COMPLETE"));
    assert_eq!(followed.stdout, format!("one\ntwo ü\n{lines}"));
    assert_eq!(followed.stderr, "err\n");

    // Afterwards the whole of it is on the node, and once that is gone the end of it with the task.
    let all = format!("one\ntwo ü\n{lines}");
    assert_eq!(text(&cluster, &id, "stream=stdout").await, (all.clone(), "whole".into()));
    assert_eq!(text(&cluster, &id, "stream=stdout&tail=9").await.0, all[all.len() - 9..]);
    let again = follow_to_the_end(&cluster, &id).await;
    assert_eq!((again.stdout.as_str(), again.end.as_deref()), (all.as_str(), Some("COMPLETE")));
    eventually("the logs to be kept", async || {
        cluster.agent_dir().join("logs").join(&id).join("1/0.stdout").exists().then_some(())
    })
    .await;
    std::fs::remove_dir_all(cluster.agent_dir().join("logs")).unwrap();
    let (end, extent) = text(&cluster, &id, "stream=stdout&executor=1").await;
    assert_eq!(extent, "tail");
    assert!(end.len() < lines.len() && lines.ends_with(&end));
    let late = follow_to_the_end(&cluster, &id).await;
    assert!(late.system.contains("missed") && late.stdout.ends_with("line 19999\n"), "{}", late.system);
    let task = cluster.client.task(&id).await;
    check_metadata(&task["logs"][0]["metadata"]);
}

fn check_metadata(metadata: &Value) {
    let number = |key: &str| -> f64 {
        let text = metadata[key].as_str().unwrap_or_else(|| panic!("{key} is missing in {metadata:#}"));
        text.parse().unwrap()
    };
    for key in ["queue_seconds", "pull_seconds", "stage_in_seconds", "run_seconds", "stage_out_seconds"] {
        assert!(number(key) >= 0.0);
    }
    assert!(number("peak_memory_bytes") > 0.0 && number("cpu_time_ms") > 0.0, "{metadata:#}");
    assert_eq!(metadata["oom"], "false");
    assert_eq!(metadata["image_digest"].as_str().unwrap().matches("sha256:").count(), 2);
    assert!(metadata.get("reason").is_none(), "{metadata:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_and_a_stalled_reader_delay_neither_heartbeats_nor_others() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let marks = Marks::new(&cluster.shared());
    let flood = format!(
        "while [ ! -e {}/marks/stop ]; do echo 0123456789012345678901234567890123456789; done",
        cluster.shared().display()
    );
    let id = cluster.client.submit(&shell_task("flood", &[flood])).await;
    cluster.client.wait_state(&id, "RUNNING").await;
    let mut stalled = Follower::open(&cluster, &id, "", "").await;
    let mut nothing = Followed::default();
    assert!(stalled.take(&mut nothing).await);
    // A reader that takes what comes is served meanwhile, and so are other tasks.
    let mut eager = Followed::default();
    let mut follower = Follower::open(&cluster, &id, "&stream=stdout", "").await;
    while eager.stdout.len() < 4 << 20 {
        assert!(follower.take(&mut eager).await);
    }
    let other = cluster.client.submit(&shell_task("other", &["echo other".to_owned()])).await;
    assert_eq!(cluster.client.wait(&other).await["state"], "COMPLETE");
    assert_eq!(follow_to_the_end(&cluster, &other).await.stdout, "other\n");
    marks.open_gate("stop");
    assert_eq!(cluster.client.wait(&id).await["state"], "COMPLETE");
    let log = std::fs::read_to_string(cluster.dir.join("logs/coordinator.log")).unwrap();
    assert!(!log.contains("agent disconnected"), "the session held");
    // The stalled one has missed nothing, and goes on from where another connection left off.
    let mut rest = Followed { stdout: eager.stdout.clone(), ..Followed::default() };
    let mut follower = Follower::open(&cluster, &id, "&stream=stdout", &eager.last_id).await;
    while follower.take(&mut rest).await {}
    while stalled.take(&mut nothing).await {}
    assert_eq!((rest.end.as_deref(), nothing.end.as_deref()), (Some("COMPLETE"), Some("COMPLETE")));
    assert!(rest.stdout == nothing.stdout, "both have read the same");
    assert!(rest.stdout == text(&cluster, &id, "stream=stdout").await.0, "which is all of it");
}
