//! A kill of the agent at every point, and what the next one makes of it.

use std::future::Future;
use std::task::Poll;

use super::*;
use crate::assignment::{ExecutorLog, LossCause};
use crate::attempt::Phase;
use crate::runtime::{ContainerId, Exit, Runtime};

/// Drops `future` after it has been woken `polls` times; whether it ended before that.
async fn cut(future: impl Future<Output = ()>, polls: usize) -> bool {
    let mut future = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(move |context| {
        if future.as_mut().poll(context).is_ready() {
            return Poll::Ready(true);
        }
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        Poll::Pending
    })
    .await
}

/// An agent that is killed after so many wake-ups, with all that its disk threads have begun.
async fn killed_agent(bench: &Bench, attempt: Attempt, order: Orders, polls: usize) -> bool {
    let node = bench.node();
    let (_orders, orders) = watch::channel(order);
    let run = match bench.record() {
        Some(record) => Run::adopted(node.clone(), record, orders, nobody()),
        None => Run::fresh(node.clone(), attempt, BootInstant::now(), orders, nobody()),
    };
    // A run that waits for what never comes is killed at some time, too.
    let an_hour = Duration::from_secs(3600);
    let ended = tokio::time::timeout(an_hour, cut(run.drive(Until::Decided), polls)).await.unwrap_or(false);
    node.disk.close();
    node.disk.wait().await;
    ended
}

#[tokio::test(start_paused = true)]
async fn killed_anywhere_it_is_finished_by_the_next_agent_and_starts_nothing_twice() {
    let commands = ["print one", "!exit 5", "sleep 20 0"];
    for polls in 0.. {
        let bench = Bench::new();
        let attempt = bench.attempt(assignment(1, &commands));
        if killed_agent(&bench, attempt.clone(), Orders::default(), polls).await {
            // Work on disk that is done before it is waited for is no place to be cut: how many there are
            // differs from run to run, but the sleep is always one.
            assert!(polls > 0, "it was killed somewhere");
            return;
        }
        // Killed again after one more step each time, until nothing is left to do.
        for more in 1.. {
            if killed_agent(&bench, attempt.clone(), Orders::default(), more).await {
                break;
            }
        }
        let result = bench.record().unwrap().result.unwrap();
        assert_eq!((result.outcome, codes(&result)), (Outcome::Complete, vec![0, 5, 0]), "{polls}");
        assert_eq!(result.executors[0].stdout_tail, "one");
        assert_eq!(bench.runtime.starts().len(), 3);
        bench.assert_dead();
    }
}

#[tokio::test(start_paused = true)]
async fn killed_while_it_stops_it_stays_stopped() {
    for polls in 0.. {
        let bench = Bench::new();
        let attempt = bench.attempt(assignment(1, &["ignore-term", "exit 0"]));
        // It runs when the order comes.
        let mut so_far = 0;
        while bench.runtime.starts().is_empty() {
            killed_agent(&bench, attempt.clone(), Orders::default(), so_far).await;
            so_far += 1;
        }
        let ended = killed_agent(&bench, attempt, stop(StopReason::Canceled), polls).await;
        let was_noted = bench.record().unwrap().stopping.is_some();
        if was_noted && !ended {
            // The next agent has no order, and needs none.
            bench.adopt().await;
        }
        if was_noted {
            let result = bench.record().unwrap().result.unwrap();
            assert_eq!(result.outcome, Outcome::Canceled, "{polls}");
            assert_eq!(bench.runtime.starts().len(), 1, "{polls}");
            bench.assert_dead();
        }
        if ended {
            // The grace period is always waited for.
            assert!(polls > 0, "it was killed somewhere");
            return;
        }
    }
}

fn log(exit_code: i32) -> ExecutorLog {
    ExecutorLog {
        exit_code,
        start_time: Timestamp::UNIX_EPOCH,
        end_time: Timestamp::UNIX_EPOCH,
        stdout_tail: "kept".into(),
        stderr_tail: String::new(),
        out_of_memory: false,
        stdout_bytes: 4,
        stderr_bytes: 0,
    }
}

const PHASES: [Phase; 7] = [
    Phase::Intended,
    Phase::Created(0),
    Phase::Started(0),
    Phase::Ended(0),
    Phase::Created(1),
    Phase::Started(1),
    Phase::Ended(1),
];

/// A record in `phase` of two executors, as an agent left it.
fn left_in(bench: &Bench, phase: Phase) -> Attempt {
    let mut attempt = bench.attempt(assignment(1, &["exit 0", "exit 0"]));
    attempt.phase = phase;
    let ended = match phase {
        Phase::Intended | Phase::Created(0) | Phase::Started(0) => 0,
        Phase::Ended(executor) => executor + 1,
        Phase::Created(executor) | Phase::Started(executor) => executor,
        Phase::Staged | Phase::Reported => 0,
    };
    attempt.executors = (0..ended).map(|_| log(0)).collect();
    bench.dir().make().unwrap();
    for executor in 0..ended {
        bench.dir().make_logs(executor).unwrap();
        std::fs::write(bench.dir().stdout(executor), "kept").unwrap();
    }
    if let (Phase::Ended(_), Some(last)) = (phase, attempt.executors.last_mut()) {
        // What it wrote is taken when its container is gone.
        last.stdout_tail.clear();
    }
    bench.dir().store(&attempt).unwrap();
    attempt
}

#[tokio::test(start_paused = true)]
async fn a_started_executor_without_its_container_is_lost_and_not_started_again() {
    for executor in [0, 1] {
        let bench = Bench::new();
        left_in(&bench, Phase::Started(executor));
        let result = bench.adopt().await;
        assert_eq!(result.outcome, Outcome::Lost(LossCause::NodeFault));
        assert!(result.started);
        assert!(bench.runtime.starts().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn goes_on_from_every_phase_whose_step_was_not_begun() {
    for phase in PHASES.into_iter().filter(|phase| !matches!(phase, Phase::Started(_))) {
        let bench = Bench::new();
        let before = left_in(&bench, phase);
        let result = bench.adopt().await;
        assert_eq!((result.outcome, codes(&result)), (Outcome::Complete, vec![0, 0]), "{phase:?}");
        let kept = result.executors.iter().filter(|log| log.stdout_tail == "kept").count();
        assert_eq!(kept, before.executors.len(), "what has ended is not run again: {phase:?}");
        assert_eq!(bench.runtime.starts().len(), 2 - kept);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_reboot_nothing_is_started_and_all_is_lost_at_once() {
    for phase in PHASES {
        let bench = Bench::new();
        let mut attempt = left_in(&bench, phase);
        attempt.boot_id = "another boot".into();
        attempt.stopping = Some(StopReason::Canceled);
        bench.dir().store(&attempt).unwrap();
        // Not even containerd is needed to know it.
        bench.runtime.set_down(true);
        let result = bench.adopt().await;
        assert_eq!(result.outcome, Outcome::Lost(LossCause::Reboot), "{phase:?}");
        let started = !matches!(phase, Phase::Intended | Phase::Created(0));
        assert_eq!(result.started, started, "{phase:?}");
        assert!(bench.runtime.starts().is_empty());
        assert_eq!(bench.record().unwrap().phase, Phase::Staged);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_being_stopped_goes_on_with_the_kill_in_every_phase() {
    for phase in PHASES {
        let bench = Bench::new();
        let mut attempt = left_in(&bench, phase);
        attempt.stopping = Some(StopReason::LeaseEnded);
        bench.dir().store(&attempt).unwrap();
        let result = bench.adopt().await;
        assert_eq!(result.outcome, Outcome::Lost(LossCause::LeaseEnded), "{phase:?}");
        assert!(bench.runtime.starts().is_empty(), "{phase:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_is_told_again_after_a_restart_and_kept_until_it_is_forgotten() {
    let bench = Bench::new();
    let result = bench.result_of(assignment(1, &["exit 3"])).await;
    let (orders, receiver) = watch::channel(Orders::default());
    let (reports, mut told) = mpsc::channel(10);
    let run = Run::adopted(bench.node(), bench.record().unwrap(), receiver, reports);
    let forget = async {
        let Some(Report::Ended(_, again)) = told.recv().await else { panic!("nothing was told") };
        assert_eq!(*again, result);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(bench.record().is_some());
        orders.send_modify(|orders| orders.forget = true);
    };
    tokio::join!(run.drive(Until::Forgotten), forget);
    assert_eq!(bench.record(), None);
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_is_cleaned_up_and_not_told_again() {
    let bench = Bench::new();
    bench.result_of(assignment(1, &["exit 0"])).await;
    let mut attempt = bench.record().unwrap();
    attempt.phase = Phase::Reported;
    bench.dir().store(&attempt).unwrap();
    let (_orders, receiver) = watch::channel(Orders::default());
    let (reports, mut told) = mpsc::channel(10);
    Run::adopted(bench.node(), attempt, receiver, reports).drive(Until::Forgotten).await;
    assert_eq!(told.recv().await, None);
    assert_eq!(bench.record(), None);
}

#[tokio::test(start_paused = true)]
async fn an_executor_that_ended_while_no_agent_was_there_keeps_its_code() {
    let bench = Bench::new();
    let attempt = bench.attempt(assignment(1, &["sleep 600000 7"]));
    let id = ContainerId { attempt: attempt.id(), executor: 0 };
    let node = bench.node();
    let (_orders, orders) = watch::channel(Orders::default());
    let run = Run::fresh(node.clone(), attempt, BootInstant::now(), orders, nobody());
    let killed = async {
        while bench.runtime.starts().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = run.drive(Until::Decided) => panic!("it runs for ten minutes"),
        () = killed => {}
    }
    node.disk.close();
    node.disk.wait().await;
    assert!(matches!(bench.runtime.wait(id).await, Ok(Exit { code: 7, .. })));
    let result = bench.adopt().await;
    assert_eq!((result.outcome, codes(&result)), (Outcome::ExecutorError, vec![7]));
}
