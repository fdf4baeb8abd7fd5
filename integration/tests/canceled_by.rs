//! Whoever cancels a task is named in its system log, once, by whichever API they came.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use serde_json::Value;
use teamster_integration::coordinator::Coordinator;
use teamster_integration::fake_node::{FakeNode, fake_task};
use teamster_proto::tes::v1 as wire;
use wire::task_service_client::TaskServiceClient;

/// The lines that say who canceled a task.
fn cancelers(task: &Value) -> Vec<String> {
    assert_eq!(task["state"], "CANCELED", "{task:#}");
    let lines =
        task["logs"].as_array().unwrap().iter().flat_map(|log| log["system_logs"].as_array().unwrap());
    let by = |line: &Value| line.as_str().unwrap().strip_prefix("CANCELED: canceled by ").map(str::to_owned);
    lines.filter_map(by).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_canceled_a_task_is_in_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path(), "heartbeat = '200ms'").await;
    let client = coordinator.client();
    let queued = client.submit(&fake_task(&["ignore-term"])).await;
    for _ in 0..2 {
        client.cancel(&queued).await;
    }
    let node = FakeNode::start(dir.path(), coordinator.agents);
    let mut running = Vec::new();
    for _ in 0..2 {
        running.push(client.submit(&fake_task(&["ignore-term"])).await);
    }
    for id in &running {
        client.wait_state(id, "RUNNING").await;
    }
    client.cancel(&running[0]).await;
    let mut grpc = TaskServiceClient::connect(format!("http://{}", coordinator.grpc)).await.unwrap();
    grpc.cancel_task(wire::CancelTaskRequest { id: running[1].clone() }).await.unwrap();
    for (id, surface) in [(&queued, "REST"), (&running[0], "REST"), (&running[1], "gRPC")] {
        let found = cancelers(&client.wait(id).await);
        let [by] = found.as_slice() else { panic!("{id}: {found:?}") };
        let (address, over) = by.split_once(" over ").unwrap();
        assert_eq!((address.split(':').next().unwrap(), over), ("127.0.0.1", surface));
    }
    let ended = client.submit(&fake_task(&["exit", "0"])).await;
    client.wait(&ended).await;
    client.cancel(&ended).await;
    let task = client.task(&ended).await;
    assert_eq!(task["state"], "COMPLETE");
    assert!(!task.to_string().contains("canceled by"), "{task:#}");
    node.stop().await;
}
