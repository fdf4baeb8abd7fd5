//! The life of a task against a fake runtime and a fake stager: every way it may end, and a kill of the
//! agent at every point where it waits.

mod ends;
mod limits;
mod restarts;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use teamster_values::{AbsolutePath, Period, TaskId};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

use super::plan::Plan;
use super::{Node, Orders, Run, Staging, Until};
use crate::assignment::{
    Assignment, AttemptId, AttemptResult, Executor, Outcome, OutputFile, Report, Resources,
};
use crate::attempt::{Attempt, StopReason};
use crate::attempt_dir::AttemptDir;
use crate::boot::BootInstant;
use crate::config::Config;
use crate::runtime::fake::FakeRuntime;
use crate::stage::{StageError, StagedOut};

/// An attempt at one task with an executor for each command line; `!` before one lets it fail.
pub(crate) fn assignment(attempt: u32, commands: &[&str]) -> Assignment {
    let executor = |command: &&str| Executor {
        image: "busybox".into(),
        command: command.trim_start_matches('!').split(' ').map(str::to_owned).collect(),
        workdir: None,
        stdin: None,
        stdout: None,
        stderr: None,
        env: BTreeMap::new(),
        ignore_error: command.starts_with('!'),
    };
    Assignment {
        id: AttemptId { task: TaskId::from_bytes([7; 16]), attempt },
        executors: commands.iter().map(executor).collect(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        volumes: vec![AbsolutePath::parse("/work").unwrap()],
        limits: Resources { cpu_milli: 1000, memory_bytes: 2 << 30, disk_bytes: 1 << 30 },
        lease: Duration::from_secs(60),
        network: None,
        time_limit: None,
        image_entrypoint: false,
    }
}

/// Stages nothing, and fails or hangs at the step that a test names.
#[derive(Default)]
pub(crate) struct FakeStaging {
    pub(crate) fail: Mutex<BTreeMap<&'static str, StageError>>,
    pub(crate) hang: Mutex<Option<&'static str>>,
    pub(crate) calls: Mutex<Vec<&'static str>>,
}

impl FakeStaging {
    async fn step(&self, name: &'static str) -> Result<(), StageError> {
        self.calls.lock().unwrap().push(name);
        let hangs = *self.hang.lock().unwrap() == Some(name);
        if hangs {
            std::future::pending::<()>().await;
        }
        match self.fail.lock().unwrap().get(name) {
            Some(StageError::Task(reason)) => Err(StageError::Task(reason.clone())),
            Some(StageError::Missing(reason)) => Err(StageError::Missing(reason.clone())),
            Some(StageError::Node(reason)) => Err(StageError::Node(reason.clone())),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Staging for FakeStaging {
    async fn stage_in(&self, _: &Plan) -> Result<(), StageError> {
        self.step("stage_in").await
    }

    async fn capture_stdin(&self, _: &Plan, _: u32) -> Result<(), StageError> {
        self.step("capture_stdin").await
    }

    async fn install_streams(&self, _: &Plan, _: u32) -> Result<(), StageError> {
        self.step("install_streams").await
    }

    async fn stage_out(&self, _: &Plan) -> Result<StagedOut, StageError> {
        self.step("stage_out").await?;
        let file = OutputFile { url: "/mnt/x".into(), path: "/out/x".into(), size_bytes: 3 };
        Ok(StagedOut { files: vec![file], warnings: vec!["something is odd".into()] })
    }

    async fn release(&self, _: &AttemptDir) -> Result<(), StageError> {
        self.step("release").await
    }
}

/// A node on a temporary directory, whose runtime outlives every "restart" of the agent.
pub(crate) struct Bench {
    pub(crate) runtime: Arc<FakeRuntime>,
    pub(crate) staging: Arc<FakeStaging>,
    pub(crate) data: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self {
            runtime: Arc::new(FakeRuntime::new()),
            staging: Arc::new(FakeStaging::default()),
            data: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn node(&self) -> Arc<Node> {
        let config = Config {
            data_dir: self.data.path().to_owned(),
            grace_period: Period(Duration::from_secs(10)),
            ..Config::default()
        };
        Arc::new(Node {
            config,
            boot_id: "this boot".into(),
            capacity: Resources { cpu_milli: 4000, memory_bytes: 8 << 30, disk_bytes: 100 << 30 },
            runtime: self.runtime.clone(),
            staging: self.staging.clone(),
            disk: TaskTracker::new(),
            disk_watch: Arc::default(),
            wanted_images: Arc::default(),
            stages: Arc::default(),
        })
    }

    pub(crate) fn attempt(&self, assignment: Assignment) -> Attempt {
        Attempt::new(assignment, "this boot", Timestamp::now())
    }

    pub(crate) fn dir(&self) -> AttemptDir {
        AttemptDir::new(self.data.path(), assignment(1, &[]).id)
    }

    pub(crate) fn record(&self) -> Option<Attempt> {
        self.dir().load().unwrap()
    }

    /// Takes the assignment up and drives it until its result is on disk.
    async fn result_of(&self, assignment: Assignment) -> AttemptResult {
        let (_orders, orders) = watch::channel(Orders::default());
        let run = Run::fresh(self.node(), self.attempt(assignment), BootInstant::now(), orders, nobody());
        run.drive(Until::Decided).await;
        self.record().unwrap().result.unwrap()
    }

    /// Goes on with what is on disk until there is a result.
    async fn adopt(&self) -> AttemptResult {
        let (_orders, orders) = watch::channel(Orders::default());
        let run = Run::adopted(self.node(), self.record().unwrap(), orders, nobody());
        run.drive(Until::Decided).await;
        let result = self.record().unwrap().result.unwrap();
        self.assert_dead();
        result
    }

    fn assert_dead(&self) {
        assert_eq!(self.runtime.attempts(), [], "the cgroup is still there");
        for (container, starts) in self.runtime.starts() {
            assert_eq!(starts, 1, "{container} was started more than once");
        }
    }
}

fn nobody() -> mpsc::Sender<Report> {
    mpsc::channel(1).0
}

fn codes(result: &AttemptResult) -> Vec<i32> {
    result.executors.iter().map(|log| log.exit_code).collect()
}

fn last_line(result: &AttemptResult) -> &str {
    result.system_logs.last().map_or("", String::as_str)
}

#[tokio::test(start_paused = true)]
async fn runs_to_its_end_and_leaves_nothing() {
    let bench = Bench::new();
    let (orders, receiver) = watch::channel(Orders::default());
    let (reports, mut told) = mpsc::channel(100);
    let mut assignment = assignment(1, &["print one", "sleep 1000", "print three"]);
    assignment.executors[0].stdout = Some(AbsolutePath::parse("/work/one").unwrap());
    let attempt = bench.attempt(assignment);
    let run = Run::fresh(bench.node(), attempt, BootInstant::now(), receiver, reports);
    let watcher = async {
        let mut stages = Vec::new();
        loop {
            match told.recv().await.unwrap() {
                Report::Progress(_, stage) => stages.push(stage),
                Report::Note(..) => panic!("its image was there"),
                Report::Ended(_, result) => {
                    // On disk before anybody hears of it.
                    assert_eq!(bench.record().unwrap().result.as_ref(), Some(&*result));
                    orders.send_modify(|orders| orders.forget = true);
                    return (stages, result);
                }
            }
        }
    };
    let ((), (stages, result)) = tokio::join!(run.drive(Until::Forgotten), watcher);
    assert_eq!(result.outcome, Outcome::Complete);
    assert!(result.started);
    let tails: Vec<_> = result.executors.iter().map(|log| log.stdout_tail.as_str()).collect();
    assert_eq!(tails, ["one", "", "three"]);
    assert_eq!(result.outputs.len(), 1);
    assert_eq!(result.system_logs, ["warning: something is odd"]);
    assert!(matches!(stages[0], crate::assignment::Stage::Preparing));
    assert_eq!(stages.last(), Some(&crate::assignment::Stage::Finalizing));
    bench.assert_dead();
    assert_eq!(bench.runtime.starts().len(), 3);
    assert!(!bench.data.path().join("tasks").read_dir().unwrap().any(|_| true), "nothing is left on disk");
}

#[tokio::test(start_paused = true)]
async fn tells_how_far_a_pull_is_until_it_is_over() {
    let bench = Bench::new();
    let mut task = assignment(1, &["true"]);
    task.executors[0].image = "large".into();
    let (_orders, orders) = watch::channel(Orders::default());
    let (reports, mut told) = mpsc::channel(100);
    Run::fresh(bench.node(), bench.attempt(task), BootInstant::now(), orders, reports)
        .drive(Until::Decided)
        .await;
    let mut lines = Vec::new();
    while let Some(report) = told.recv().await {
        match report {
            Report::Note(_, line) => lines.push(line),
            Report::Progress(_, stage) => lines.push(format!("{stage:?}")),
            Report::Ended(..) => unreachable!("nobody hands it over"),
        }
    }
    // The image takes five seconds.
    let pulling = "image large: pulling";
    assert_eq!(lines[..4], ["Preparing", pulling, pulling, "Preparing"], "{lines:?}");
    assert!(!lines[4..].iter().any(|line| line == pulling), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_made_is_only_reported() {
    let bench = Bench::new();
    std::fs::write(bench.data.path().join("tasks"), "in the way").unwrap();
    let (_orders, receiver) = watch::channel(Orders { stop: None, forget: false });
    let (reports, mut told) = mpsc::channel(100);
    let attempt = bench.attempt(assignment(1, &["true"]));
    let run = Run::fresh(bench.node(), attempt, BootInstant::now(), receiver, reports);
    tokio::select! {
        () = run.drive(Until::Forgotten) => unreachable!("nobody has forgotten it"),
        report = async { loop { if let Some(Report::Ended(_, result)) = told.recv().await { return result } } } => {
            assert_eq!(report.outcome, Outcome::Lost(crate::assignment::LossCause::NodeFault));
            assert!(!report.started);
            assert!(last_line(&report).contains("tasks"), "{report:?}");
        }
    }
    assert!(bench.runtime.starts().is_empty());
}

fn stop(reason: StopReason) -> Orders {
    Orders { stop: Some(reason), forget: false }
}
