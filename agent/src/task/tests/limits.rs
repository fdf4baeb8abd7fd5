//! Limits that the agent holds: what a task that passes one ends as, also when the agent was not there.

use super::*;
use crate::attempt::Phase;
use crate::disk::DiskWatch;
use crate::runtime::{ContainerId, Runtime};
use teamster_values::{ByteCount, Reason};

fn limited(commands: &[&str]) -> Assignment {
    Assignment { time_limit: Some(Duration::from_millis(50)), ..assignment(1, commands) }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_runs_too_long_is_ended_with_the_reason_and_its_outputs() {
    let bench = Bench::new();
    let result = bench.result_of(limited(&["exit 0", "ignore-term", "exit 0"])).await;
    assert_eq!((result.outcome, result.reason), (Outcome::ExecutorError, Some(Reason::TimeLimit)));
    assert_eq!(codes(&result), [0, 137], "the third never starts");
    assert_eq!(result.outputs.len(), 1, "what it left is put in place, as after a command that failed");
    let line = "TIME_LIMIT: the task ran for longer than its limit of 50ms";
    assert!(result.system_logs.iter().any(|found| found == line), "{result:?}");
    bench.assert_dead();
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ends_in_time_is_left_alone() {
    let bench = Bench::new();
    let mut assignment = limited(&["exit 0", "exit 0"]);
    assignment.time_limit = Some(Duration::from_secs(3600));
    let result = bench.result_of(assignment).await;
    assert_eq!((result.outcome, result.reason), (Outcome::Complete, None));
}

/// An attempt whose only executor runs, with a clock that has run out.
async fn overdue(bench: &Bench, command: &str) -> Attempt {
    let mut attempt = bench.attempt(limited(&[command]));
    let dir = bench.dir();
    dir.make().unwrap();
    dir.make_logs(0).unwrap();
    crate::lease::create(&dir.lease(), BootInstant::now()).unwrap();
    attempt.phase = Phase::Started(0);
    attempt.running_since = Some(Duration::ZERO);
    dir.store(&attempt).unwrap();
    let node = bench.node();
    let config = &node.config;
    let plan = crate::task::plan::plan(&attempt.assignment, &config.sandbox, &config.storage, &dir).unwrap();
    let image = bench.runtime.image("busybox").await.unwrap();
    bench.runtime.prepare_attempt(attempt.id(), &attempt.assignment.limits).await.unwrap();
    bench.runtime.create(&plan.container(0, image, 1 << 20)).await.unwrap();
    bench.runtime.start(ContainerId { attempt: attempt.id(), executor: 0 }).await.unwrap();
    attempt
}

#[tokio::test(start_paused = true)]
async fn the_time_counts_on_while_no_agent_is_there() {
    let bench = Bench::new();
    overdue(&bench, "ignore-term").await;
    let result = bench.adopt().await;
    assert_eq!((result.outcome, result.reason), (Outcome::ExecutorError, Some(Reason::TimeLimit)));
    assert_eq!(codes(&result), [137]);

    let bench = Bench::new();
    overdue(&bench, "exit 0").await;
    let result = bench.adopt().await;
    assert_eq!(
        (result.outcome, codes(&result)),
        (Outcome::Complete, vec![0]),
        "nobody can say that it was late"
    );
}

#[tokio::test(start_paused = true)]
async fn a_kill_for_a_limit_is_gone_on_with() {
    let bench = Bench::new();
    let mut attempt = overdue(&bench, "ignore-term").await;
    attempt.stopping = Some(StopReason::LimitPassed);
    attempt.reason = Some(Reason::DiskLimit);
    attempt.system_logs = vec!["DISK_LIMIT: too much".to_owned()];
    bench.dir().store(&attempt).unwrap();
    let result = bench.adopt().await;
    assert_eq!((result.outcome, result.reason), (Outcome::ExecutorError, Some(Reason::DiskLimit)));
    assert_eq!(result.system_logs, ["DISK_LIMIT: too much", "warning: something is odd"]);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_writes_too_much_is_ended_at_once() {
    let bench = Bench::new();
    let node = bench.node();
    let mut assignment = assignment(1, &["ignore-term"]);
    assignment.limits.disk_bytes = 4096;
    std::fs::create_dir_all(bench.dir().scratch()).unwrap();
    std::fs::write(bench.dir().scratch().join("large"), vec![1; 1 << 20]).unwrap();
    let (_orders, orders) = watch::channel(Orders::default());
    let attempt = bench.attempt(assignment);
    let run = Run::fresh(node.clone(), attempt, BootInstant::now(), orders, nobody());
    let (closed, _is_closed) = watch::channel(None);
    let all: Arc<DiskWatch> = node.disk_watch.clone();
    let tracker = node.disk.clone();
    let watching =
        all.run(bench.data.path().to_owned(), ByteCount(0), bench.runtime.clone(), tracker, closed);
    tokio::select! {
        () = run.drive(Until::Decided) => {}
        () = watching => unreachable!("it watches for ever"),
    }
    let result = bench.record().unwrap().result.unwrap();
    assert_eq!((result.outcome, result.reason), (Outcome::ExecutorError, Some(Reason::DiskLimit)));
    assert!(
        result.system_logs[0].contains("may have 4KiB; ask for more with resources.disk_gb"),
        "{result:?}"
    );
    assert_eq!(codes(&result), [137]);
}
