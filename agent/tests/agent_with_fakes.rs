//! The whole agent on a fake runtime: who may have its data directory, how it ends, and how an operator stops
//! a node.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use teamster_agent::assignment::{Assignment, AttemptId, Executor, LossCause, Outcome, Resources};
use teamster_agent::attempt::{Attempt, load_all};
use teamster_agent::attempt_dir::AttemptDir;
use teamster_agent::boot::{BootInstant, boot_id};
use teamster_agent::config::{CapacityOverride, Config};
use teamster_agent::runtime::fake::FakeRuntime;
use teamster_agent::stage::{Plan, StageError, StagedOut};
use teamster_agent::storage::fake::FakeMounter;
use teamster_agent::task::{Node, Orders, Run, Staging, Until};
use teamster_agent::{RunError, Tools, run_with, stop_all_with};
use teamster_values::{ByteCount, TaskId};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

struct NothingToStage;

#[async_trait]
impl Staging for NothingToStage {
    async fn stage_in(&self, _: &Plan) -> Result<(), StageError> {
        Ok(())
    }

    async fn capture_stdin(&self, _: &Plan, _: u32) -> Result<(), StageError> {
        Ok(())
    }

    async fn install_streams(&self, _: &Plan, _: u32) -> Result<(), StageError> {
        Ok(())
    }

    async fn stage_out(&self, _: &Plan) -> Result<StagedOut, StageError> {
        Ok(StagedOut::default())
    }

    async fn release(&self, _: &AttemptDir) -> Result<(), StageError> {
        Ok(())
    }
}

fn config(data_dir: &Path) -> Config {
    Config {
        data_dir: data_dir.to_owned(),
        // Nobody listens there.
        coordinator: "127.0.0.1:1".into(),
        capacity: CapacityOverride {
            cpus: Some(4.0),
            memory: Some(ByteCount(8 << 30)),
            disk: Some(ByteCount(8 << 30)),
        },
        ..Config::default()
    }
}

fn tools(runtime: &Arc<FakeRuntime>) -> Tools {
    Tools {
        runtime: runtime.clone(),
        mounter: Arc::new(FakeMounter::default()),
        staging: Arc::new(NothingToStage),
    }
}

/// An agent that takes a task up, starts it and is killed.
async fn leave_running(config: &Config, runtime: &Arc<FakeRuntime>, task: u8, command: &[&str]) {
    let executor = Executor {
        image: "busybox".into(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        workdir: None,
        stdin: None,
        stdout: None,
        stderr: None,
        env: BTreeMap::new(),
        ignore_error: false,
    };
    let assignment = Assignment {
        id: AttemptId { task: TaskId::from_bytes([task; 16]), attempt: 1 },
        executors: vec![executor],
        inputs: Vec::new(),
        outputs: Vec::new(),
        volumes: Vec::new(),
        limits: Resources { cpu_milli: 1000, memory_bytes: 1 << 30, disk_bytes: 1 << 30 },
        lease: Duration::from_secs(3600),
        network: None,
        time_limit: None,
        image_entrypoint: false,
    };
    let before = runtime.starts().len();
    let boot_id = boot_id().expect("the kernel says which boot this is");
    let attempt = Attempt::new(assignment, &boot_id, Timestamp::now());
    let node = Arc::new(Node {
        config: config.clone(),
        boot_id,
        capacity: Resources { cpu_milli: 4000, memory_bytes: 8 << 30, disk_bytes: 8 << 30 },
        runtime: runtime.clone(),
        staging: Arc::new(NothingToStage),
        disk: TaskTracker::new(),
        disk_watch: Arc::default(),
        wanted_images: Arc::default(),
        stages: Arc::default(),
    });
    let (_orders, orders) = watch::channel(Orders::default());
    let run = Run::fresh(node.clone(), attempt, BootInstant::now(), orders, mpsc::channel(1).0);
    let started = async {
        while runtime.starts().len() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = run.drive(Until::Forgotten) => panic!("it does not end by itself"),
        () = started => {}
    }
    node.disk.close();
    node.disk.wait().await;
}

#[tokio::test(start_paused = true)]
async fn stopping_a_node_kills_its_tasks_and_keeps_how_they_ended() {
    let data = tempfile::tempdir().unwrap();
    let config = config(data.path());
    let runtime = Arc::new(FakeRuntime::new());
    assert_eq!(stop_all_with(&config, tools(&runtime)).await.unwrap(), 0);
    leave_running(&config, &runtime, 1, &["ignore-term"]).await;
    leave_running(&config, &runtime, 2, &["sleep", "600000"]).await;
    assert_eq!(stop_all_with(&config, tools(&runtime)).await.unwrap(), 2);
    let results: Vec<_> =
        load_all(data.path()).unwrap().into_iter().map(|attempt| attempt.result.unwrap()).collect();
    for result in &results {
        assert_eq!((result.outcome, result.started), (Outcome::Lost(LossCause::NodeStopped), true));
    }
    let codes: Vec<_> = results.iter().map(|result| result.executors[0].exit_code).collect();
    assert_eq!(codes, [137, 143]);
    assert!(runtime.attempts().is_empty());
    assert_eq!(
        stop_all_with(&config, tools(&runtime)).await.unwrap(),
        0,
        "what has ended is not counted again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_containerd_is_down_is_not_called_stopped() {
    let data = tempfile::tempdir().unwrap();
    let config = config(data.path());
    let runtime = Arc::new(FakeRuntime::new());
    leave_running(&config, &runtime, 1, &["ignore-term"]).await;
    runtime.set_down(true);
    assert!(matches!(stop_all_with(&config, tools(&runtime)).await, Err(RunError::NotStopped(1))));
    runtime.set_down(false);
    let attempts = load_all(data.path()).unwrap();
    assert!(attempts[0].stopping.is_some() && attempts[0].result.is_none(), "the next start goes on with it");
}

#[tokio::test]
async fn one_agent_has_the_data_directory_and_ends_when_it_is_told() {
    let data = tempfile::tempdir().unwrap();
    let config = config(data.path());
    let runtime = Arc::new(FakeRuntime::new());
    let shutdown = CancellationToken::new();
    let other = async {
        while !data.path().join("node-id").exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let second = run_with(config.clone(), tools(&runtime), CancellationToken::new()).await;
        assert!(second.unwrap_err().to_string().contains("another agent"));
        let stop = stop_all_with(&config, tools(&runtime)).await;
        assert!(matches!(stop, Err(RunError::DataDir(_))));
        shutdown.cancel();
    };
    let (first, ()) = tokio::join!(run_with(config.clone(), tools(&runtime), shutdown.clone()), other);
    first.unwrap();
}
