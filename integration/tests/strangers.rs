//! An older database is put back: what ran meanwhile is a stranger to it. It is stopped, what it left is kept for the
//! time that the operator chose, and then nothing of it remains on the node.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::fs;
use std::path::Path;

use teamster_integration::cluster::eventually;
use teamster_integration::coordinator::Coordinator;
use teamster_integration::fake_node::{FakeNode, fake_task};
use teamster_integration::link::Link;

/// Attempts that the agent keeps something of.
fn kept(agent_dir: &Path) -> Vec<String> {
    let tasks = fs::read_dir(agent_dir.join("tasks")).into_iter().flatten().flatten();
    tasks.map(|task| task.file_name().to_string_lossy().into_owned()).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_database_does_not_know_is_stopped_kept_and_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let (data, copied) = (dir.path().join("coordinator"), dir.path().join("copy"));
    let usual = "heartbeat = '200ms'";
    drop(Coordinator::start(dir.path(), usual).await);
    copy(&data, &copied);

    // The task that the copy has never heard of.
    let coordinator = Coordinator::start(dir.path(), usual).await;
    let link = Link::open(coordinator.agents).await;
    let node = FakeNode::start(dir.path(), link.address());
    let client = coordinator.client();
    let id = client.submit(&fake_task(&["ignore-term"])).await;
    client.wait_state(&id, "RUNNING").await;
    drop(coordinator);
    fs::remove_dir_all(&data).unwrap();
    copy(&copied, &data);

    // With a day of patience it is stopped and kept.
    let coordinator = Coordinator::start(dir.path(), usual).await;
    link.lead_to(coordinator.agents);
    eventually("the coordinator to stop the stranger", async || {
        coordinator.log().contains("does not know; stopping it").then_some(())
    })
    .await;
    let client = coordinator.client();
    let own = client.submit(&fake_task(&["exit", "0"])).await;
    client.wait(&own).await;
    eventually("its own task to be cleaned up", async || {
        (!kept(&node.data_dir).contains(&own)).then_some(())
    })
    .await;
    assert_eq!(kept(&node.data_dir), [id.as_str()]);
    drop(coordinator);

    // With none it is let go.
    let coordinator = Coordinator::start(dir.path(), &format!("{usual}\nstranger_retention = '0s'")).await;
    link.lead_to(coordinator.agents);
    eventually("the node to be empty", async || kept(&node.data_dir).is_empty().then_some(())).await;
    assert!(coordinator.log().contains("letting go"), "{}", coordinator.log());
    node.stop().await;
}
