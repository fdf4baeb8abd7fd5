//! Every way in which an attempt may end, without a restart of the agent.

use super::*;
use crate::assignment::LossCause;
use crate::runtime::{ContainerId, ContainerState, Runtime};

#[tokio::test(start_paused = true)]
async fn exit_codes_decide() {
    let cases: [(&[&str], Outcome, &[i32]); 7] = [
        (&["exit 0", "exit 0"], Outcome::Complete, &[0, 0]),
        (&["exit 3", "exit 0"], Outcome::ExecutorError, &[3]),
        (&["!exit 3", "exit 0"], Outcome::Complete, &[3, 0]),
        (&["exit 0", "!exit 9"], Outcome::Complete, &[0, 9]),
        (&["exit 137"], Outcome::ExecutorError, &[137]),
        (&["fail-to-start", "exit 0"], Outcome::ExecutorError, &[127]),
        (&["!fail-to-start", "exit 0"], Outcome::Complete, &[127, 0]),
    ];
    for (commands, outcome, expected) in cases {
        let bench = Bench::new();
        let result = bench.result_of(assignment(1, commands)).await;
        assert_eq!(result.outcome, outcome, "{commands:?}");
        assert_eq!(codes(&result), expected, "{commands:?}");
        assert!(result.started && result.executors.iter().all(|log| !log.out_of_memory), "{commands:?}");
        assert!(!result.system_logs.iter().any(|line| line.contains("memory")), "{commands:?}");
        bench.assert_dead();
    }
}

#[tokio::test(start_paused = true)]
async fn says_what_could_not_be_started_and_what_the_kernel_killed() {
    let bench = Bench::new();
    let result = bench.result_of(assignment(1, &["fail-to-start"])).await;
    assert!(result.system_logs.iter().any(|line| line.contains("not found")), "{result:?}");
    let bench = Bench::new();
    let result = bench.result_of(assignment(1, &["oom"])).await;
    assert_eq!(result.outcome, Outcome::ExecutorError);
    assert!(result.executors[0].out_of_memory);
    let line = "OUT_OF_MEMORY: out of memory: executor 0 was killed by the kernel at its limit of 2GiB";
    assert!(result.system_logs.iter().any(|found| found == line), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_before_its_command_begins_is_made_again() {
    for executor in [0, 1] {
        let bench = Bench::new();
        let mut commands = ["exit 0", "exit 0"];
        commands[executor] = "balk 2";
        let result = bench.result_of(assignment(1, &commands)).await;
        assert_eq!((result.outcome, codes(&result).as_slice()), (Outcome::Complete, [0, 0].as_slice()));
        assert!(bench.runtime.starts().values().all(|starts| *starts == 1), "{:?}", bench.runtime.starts());
        bench.assert_dead();
        // Where none ever begins the node is at fault, and another one may try where nothing has run.
        let bench = Bench::new();
        commands[executor] = "balk 1000";
        let result = bench.result_of(assignment(1, &commands)).await;
        assert_eq!(result.outcome, Outcome::Lost(LossCause::NodeFault));
        assert_eq!(result.started, executor == 1);
        assert!(last_line(&result).contains("before its command"), "{result:?}");
        bench.assert_dead();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_the_task_is_found_before_anything_runs() {
    type Change = fn(&mut Assignment);
    let cases: [(Change, Outcome, &str); 5] = [
        (|a| a.executors[1].image = "missing".into(), Outcome::SystemError, "the registry says 404"),
        (|a| a.executors[1].image = "broken".into(), Outcome::SystemError, "it is broken"),
        (|a| a.executors[1].command.clear(), Outcome::SystemError, "executors[1].command"),
        (|a| a.executors[0].image = String::new(), Outcome::SystemError, "executors[0].image"),
        (|a| a.limits.cpu_milli = 4001, Outcome::Lost(LossCause::NodeFault), "4.001 of CPUs"),
    ];
    for (change, outcome, text) in cases {
        let bench = Bench::new();
        let mut assignment = assignment(1, &["exit 0", "exit 0"]);
        change(&mut assignment);
        let result = bench.result_of(assignment).await;
        assert_eq!(result.outcome, outcome, "{text}");
        assert!(last_line(&result).contains(text), "{result:?}");
        assert!(!result.started);
        assert!(bench.runtime.starts().is_empty(), "{text}");
        bench.assert_dead();
    }
}

#[tokio::test(start_paused = true)]
async fn the_node_and_its_storage_may_be_at_fault() {
    let lost = Outcome::Lost(LossCause::NodeFault);
    let task = || StageError::Task("it is the task".into());
    let node = || StageError::Node("it is the node".into());
    let cases: [(&str, StageError, &str, Outcome, bool); 8] = [
        ("stage_in", task(), "exit 0", Outcome::SystemError, false),
        ("stage_in", node(), "exit 0", lost, false),
        ("capture_stdin", task(), "exit 0", Outcome::SystemError, false),
        ("install_streams", task(), "exit 0", Outcome::SystemError, true),
        ("install_streams", task(), "exit 4", Outcome::ExecutorError, true),
        ("stage_out", task(), "exit 0", Outcome::SystemError, true),
        ("stage_out", node(), "exit 0", lost, true),
        ("stage_out", node(), "exit 4", Outcome::ExecutorError, true),
    ];
    for (step, error, command, outcome, started) in cases {
        let bench = Bench::new();
        bench.staging.fail.lock().unwrap().insert(step, error);
        let result = bench.result_of(assignment(1, &[command])).await;
        assert_eq!((result.outcome, result.started), (outcome, started), "{step} {command}");
        assert!(result.system_logs.iter().any(|line| line.contains("it is the")), "{result:?}");
        bench.assert_dead();
    }
    let bench = Bench::new();
    let result = bench.result_of(assignment(1, &["fail-node"])).await;
    assert_eq!((result.outcome, result.started), (lost, false));
    assert!(last_line(&result).contains("as the test wants it"));
}

#[tokio::test(start_paused = true)]
async fn a_lost_container_is_a_lost_attempt_and_never_137() {
    let bench = Bench::new();
    let id = ContainerId { attempt: assignment(1, &[]).id, executor: 0 };
    let lose = async {
        while !bench.runtime.starts().contains_key(&id) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bench.runtime.lose(id);
    };
    let (result, ()) = tokio::join!(bench.result_of(assignment(1, &["ignore-term"])), lose);
    assert_eq!(result.outcome, Outcome::Lost(LossCause::NodeFault));
    assert!(result.started);
    assert!(result.executors.is_empty());
    assert!(last_line(&result).contains("exit code"), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn a_containerd_that_is_away_for_a_while_disturbs_nothing() {
    let bench = Bench::new();
    let outage = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.runtime.set_down(true);
        tokio::time::sleep(Duration::from_secs(120)).await;
        bench.runtime.set_down(false);
    };
    // The first ends during the outage, and the next one is made when containerd is back.
    let (result, ()) = tokio::join!(bench.result_of(assignment(1, &["sleep 5000 0", "exit 0"])), outage);
    assert_eq!((result.outcome, codes(&result)), (Outcome::Complete, vec![0, 0]));
    bench.assert_dead();
}

#[tokio::test(start_paused = true)]
async fn a_containerd_that_stays_away_sends_the_task_elsewhere() {
    let bench = Bench::new();
    bench.runtime.set_down(true);
    let back = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        bench.runtime.set_down(false);
    };
    let (result, ()) = tokio::join!(bench.result_of(assignment(1, &["exit 0"])), back);
    assert_eq!((result.outcome, result.started), (Outcome::Lost(LossCause::NodeFault), false));
    assert!(bench.runtime.starts().is_empty());
}

/// Drives `command` with the stager hanging at `hang`; gives the order once `ready` holds.
async fn stopped_at(
    bench: &Bench,
    commands: &[&str],
    hang: Option<&'static str>,
    order: Orders,
    ready: impl Fn(&Bench) -> bool,
) -> AttemptResult {
    *bench.staging.hang.lock().unwrap() = hang;
    let (orders, receiver) = watch::channel(Orders::default());
    let attempt = bench.attempt(assignment(1, commands));
    let run = Run::fresh(bench.node(), attempt, BootInstant::now(), receiver, nobody());
    let stopper = async {
        while !ready(bench) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        orders.send_replace(order);
    };
    tokio::join!(run.drive(Until::Decided), stopper);
    bench.assert_dead();
    bench.record().unwrap().result.unwrap()
}

fn has_called(step: &'static str) -> impl Fn(&Bench) -> bool {
    move |bench| bench.staging.calls.lock().unwrap().contains(&step)
}

fn runs(bench: &Bench) -> bool {
    !bench.runtime.starts().is_empty()
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_obeyed_wherever_it_comes() {
    let reasons = [
        (StopReason::Canceled, Outcome::Canceled),
        (StopReason::LeaseEnded, Outcome::Lost(LossCause::LeaseEnded)),
        (StopReason::NodeStopped, Outcome::Lost(LossCause::NodeStopped)),
    ];
    for (reason, outcome) in reasons {
        for step in ["stage_in", "capture_stdin", "install_streams", "stage_out"] {
            let bench = Bench::new();
            let result = stopped_at(&bench, &["exit 0"], Some(step), stop(reason), has_called(step)).await;
            assert_eq!(result.outcome, outcome, "{step}");
            let has_run = matches!(step, "install_streams" | "stage_out");
            assert_eq!(result.started, has_run, "{step}");
            assert_eq!(codes(&result).len(), usize::from(has_run), "{step}");
            assert!(has_called("release")(&bench), "a child that was killed may still be in a write");
        }
        let bench = Bench::new();
        let result = stopped_at(&bench, &["sleep 900000", "exit 0"], None, stop(reason), runs).await;
        assert_eq!(result.outcome, outcome);
        let expected = if reason == StopReason::LeaseEnded { 137 } else { 143 };
        assert_eq!(codes(&result), [expected]);
        assert_eq!(bench.runtime.starts().len(), 1, "the second executor never starts");
    }
}

#[tokio::test(start_paused = true)]
async fn who_ignores_sigterm_is_killed_after_the_grace_period() {
    let bench = Bench::new();
    let begin = tokio::time::Instant::now();
    let result = stopped_at(&bench, &["ignore-term"], None, stop(StopReason::Canceled), runs).await;
    assert_eq!((result.outcome, codes(&result)), (Outcome::Canceled, vec![137]));
    assert!(begin.elapsed() >= Duration::from_secs(10));
    assert!(!result.executors[0].out_of_memory);
}

#[tokio::test(start_paused = true)]
async fn stopping_is_on_disk_before_the_first_kill() {
    let bench = Bench::new();
    let (orders, receiver) = watch::channel(Orders::default());
    let attempt = bench.attempt(assignment(1, &["ignore-term"]));
    let id = ContainerId { attempt: attempt.id(), executor: 0 };
    let mut run = std::pin::pin!(
        Run::fresh(bench.node(), attempt, BootInstant::now(), receiver, nobody()).drive(Until::Decided)
    );
    let until = |ready: Box<dyn Fn() -> bool>| async move {
        while !ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let runtime = bench.runtime.clone();
    tokio::select! {
        () = &mut run => panic!("it does not end by itself"),
        () = until(Box::new(move || !runtime.starts().is_empty())) => {}
    }
    orders.send_replace(stop(StopReason::Canceled));
    let dir = bench.dir();
    tokio::select! {
        () = &mut run => panic!("it has ten seconds of grace"),
        () = until(Box::new(move || dir.load().unwrap().unwrap().stopping.is_some())) => {}
    }
    assert_eq!(bench.runtime.state(id).await.unwrap(), ContainerState::Running);
    run.await;
    assert_eq!(bench.record().unwrap().result.unwrap().outcome, Outcome::Canceled);
}

#[tokio::test(start_paused = true)]
async fn a_decided_result_beats_a_later_stop() {
    let bench = Bench::new();
    let (orders, receiver) = watch::channel(Orders::default());
    let (reports, mut told) = mpsc::channel(100);
    let attempt = bench.attempt(assignment(1, &["exit 0"]));
    let run = Run::fresh(bench.node(), attempt, BootInstant::now(), receiver, reports);
    let late = async {
        while let Some(report) = told.recv().await {
            if let Report::Ended(_, result) = report {
                orders.send_replace(stop(StopReason::Canceled));
                tokio::time::sleep(Duration::from_secs(30)).await;
                assert_eq!(bench.record().unwrap().result.unwrap().outcome, result.outcome);
                orders.send_modify(|orders| orders.forget = true);
                return result.outcome;
            }
        }
        panic!("no end was told");
    };
    let ((), outcome) = tokio::join!(run.drive(Until::Forgotten), late);
    assert_eq!(outcome, Outcome::Complete);
}

#[tokio::test(start_paused = true)]
async fn what_is_unwanted_goes_without_grace_and_quietly() {
    let bench = Bench::new();
    let (orders, receiver) = watch::channel(Orders::default());
    let (reports, mut told) = mpsc::channel(100);
    let attempt = bench.attempt(assignment(1, &["ignore-term"]));
    let run = Run::fresh(bench.node(), attempt, BootInstant::now(), receiver, reports);
    let forget = async {
        while !runs(&bench) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        orders.send_replace(Orders { stop: Some(StopReason::Canceled), forget: true });
        tokio::time::Instant::now()
    };
    let ((), begin) = tokio::join!(run.drive(Until::Forgotten), forget);
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(bench.record(), None);
    while let Some(report) = told.recv().await {
        assert!(matches!(report, Report::Progress(..)), "{report:?}");
    }
}
