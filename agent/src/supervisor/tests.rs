//! The supervisor with a fake runtime: what it makes of commands, leases, restarts and strange containers.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

use super::*;
use crate::assignment::LossCause;
use crate::runtime::{ContainerId, Runtime};
use crate::task::tests::{Bench, assignment};

/// A running supervisor and a session that listens.
struct Agent {
    events: mpsc::Sender<Event>,
    reports: mpsc::Receiver<Report>,
    held: Vec<Held>,
    node: Arc<Node>,
    shutdown: CancellationToken,
    running: JoinSet<()>,
}

impl Agent {
    async fn start(bench: &Bench) -> Self {
        let node = bench.node();
        let (supervisor, events) = Supervisor::new(node.clone());
        let shutdown = CancellationToken::new();
        let mut running = JoinSet::new();
        let attempts = crate::attempt::load_all(bench.data.path()).unwrap();
        running.spawn(supervisor.run(attempts, shutdown.clone()));
        let (held, reports) = attach(&events).await;
        Self { events, reports, held, node, shutdown, running }
    }

    async fn command(&self, command: Command) {
        self.command_as_of(command, BootInstant::now()).await;
    }

    async fn command_as_of(&self, command: Command, heard: BootInstant) {
        self.events.send(Event::Command { command, heard }).await.unwrap();
    }

    async fn run(&self, attempt: u32, commands: &[&str]) -> AttemptId {
        let assignment = assignment(attempt, commands);
        let id = assignment.id;
        self.command(Command::Start(Box::new(assignment))).await;
        id
    }

    async fn until_running(&mut self, id: AttemptId) {
        loop {
            match self.reports.recv().await.unwrap() {
                Report::Progress(found, Stage::Running { .. }) if found == id => return,
                _ => {}
            }
        }
    }

    async fn until_ended(&mut self, id: AttemptId) -> Box<AttemptResult> {
        loop {
            match self.reports.recv().await.unwrap() {
                Report::Ended(found, result) if found == id => return result,
                _ => {}
            }
        }
    }

    async fn until_empty(&mut self) {
        loop {
            // Each session takes the place of the one before.
            let (held, reports) = attach(&self.events).await;
            self.reports = reports;
            if held.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the agent as SIGTERM does.
    async fn end(mut self) {
        self.shutdown.cancel();
        while self.running.join_next().await.is_some() {}
        self.node.disk.close();
        self.node.disk.wait().await;
    }
}

async fn attach(events: &mpsc::Sender<Event>) -> (Vec<Held>, mpsc::Receiver<Report>) {
    let (reports, receiver) = mpsc::channel(REPORTS_MAX);
    let (inventory, held) = oneshot::channel();
    events.send(Event::Attached { reports, inventory }).await.unwrap();
    (held.await.unwrap(), receiver)
}

#[tokio::test(start_paused = true)]
async fn runs_reports_and_forgets() {
    let bench = Bench::new();
    let mut agent = Agent::start(&bench).await;
    let id = agent.run(1, &["sleep 100 0"]).await;
    agent.until_running(id).await;
    // The same start again is the same task.
    agent.run(1, &["sleep 100 0"]).await;
    let result = agent.until_ended(id).await;
    assert_eq!(result.outcome, Outcome::Complete);
    // A new session hears of it again, until it is forgotten.
    assert_eq!(attach(&agent.events).await.0, [Held::Ended(id, result)]);
    agent.command(Command::Forget(id)).await;
    agent.until_empty().await;
    assert_eq!(bench.runtime.starts().values().copied().collect::<Vec<_>>(), [1]);
    while bench.record().is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn shutting_down_leaves_tasks_running_and_the_next_agent_adopts_them() {
    let bench = Bench::new();
    let mut agent = Agent::start(&bench).await;
    let id = agent.run(1, &["sleep 600000 4", "exit 0"]).await;
    agent.until_running(id).await;
    // The phase is on disk before the start; the start itself follows.
    while bench.runtime.starts().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    agent.end().await;
    let mut next = Agent::start(&bench).await;
    assert!(matches!(next.held[..], [Held::Live(held, Stage::Running { executor: 0, .. })] if held == id));
    next.events.send(Event::Heard(BootInstant::now())).await.unwrap();
    let result = next.until_ended(id).await;
    assert_eq!((result.outcome, result.executors[0].exit_code), (Outcome::ExecutorError, 4));
    assert_eq!(bench.runtime.starts().values().copied().collect::<Vec<_>>(), [1]);
}

#[tokio::test(start_paused = true)]
async fn stops_what_is_here_and_says_so_of_what_is_not() {
    let bench = Bench::new();
    let mut agent = Agent::start(&bench).await;
    let id = agent.run(1, &["sleep 600000"]).await;
    agent.until_running(id).await;
    agent.command(Command::Stop(id)).await;
    assert_eq!(agent.until_ended(id).await.outcome, Outcome::Canceled);
    let unknown = AttemptId { attempt: 9, ..id };
    agent.command(Command::Stop(unknown)).await;
    let result = agent.until_ended(unknown).await;
    assert_eq!((result.outcome, result.started), (Outcome::Canceled, false));
    agent.command(Command::Forget(unknown)).await;
    agent.command(Command::Forget(id)).await;
    agent.until_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_newer_attempt_waits_until_the_older_is_gone() {
    let bench = Bench::new();
    let mut agent = Agent::start(&bench).await;
    let old = agent.run(1, &["ignore-term"]).await;
    agent.until_running(old).await;
    while bench.runtime.starts().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let overlapped = AtomicBool::new(false);
    let new = agent.run(2, &["sleep 100 0"]).await;
    let watch = async {
        loop {
            let attempts: Vec<_> =
                bench.runtime.list().await.unwrap().into_iter().map(|container| container.attempt).collect();
            overlapped.fetch_or(attempts.contains(&old) && attempts.contains(&new), Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        result = agent.until_ended(new) => assert_eq!(result.outcome, Outcome::Complete),
        () = watch => unreachable!(),
    }
    assert!(!overlapped.load(Ordering::SeqCst), "both were alive");
    // A start that comes late, of what is older than what is here, is no reason to run it again.
    agent.run(1, &["exit 0"]).await;
    agent.command(Command::Forget(new)).await;
    agent.until_empty().await;
    assert_eq!(bench.runtime.starts().len(), 2);
}

/// The fake's clock is paused, the leases' is not: they count from moments of the past instead.
fn long_ago() -> BootInstant {
    BootInstant::after_boot(Duration::ZERO)
}

#[tokio::test(start_paused = true)]
async fn kills_at_the_end_of_a_lease_and_not_before() {
    let bench = Bench::new();
    let mut agent = Agent::start(&bench).await;
    let mut silent = assignment(1, &["sleep 600000"]);
    silent.lease = Duration::from_nanos(1);
    let id = silent.id;
    agent.command_as_of(Command::Start(Box::new(silent)), long_ago()).await;
    assert_eq!(agent.until_ended(id).await.outcome, Outcome::Lost(LossCause::LeaseEnded));
    agent.command(Command::Forget(id)).await;
    agent.until_empty().await;
    let id = agent.run(2, &["sleep 20000 0"]).await;
    assert_eq!(agent.until_ended(id).await.outcome, Outcome::Complete);
}

#[tokio::test(start_paused = true)]
async fn a_lease_goes_on_across_a_restart_and_is_renewed_on_disk() {
    let bench = Bench::new();
    let mut agent = Agent::start(&bench).await;
    let id = agent.run(1, &["sleep 600000"]).await;
    agent.until_running(id).await;
    let heard = BootInstant::now();
    agent.events.send(Event::Heard(heard)).await.unwrap();
    while lease::read(&bench.dir().lease()) != Some(heard) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    agent.end().await;
    // Nobody was heard for longer than the lease while no agent was there.
    lease::touch(&bench.dir().lease(), long_ago()).unwrap();
    let mut attempt = bench.record().unwrap();
    attempt.assignment.lease = Duration::from_nanos(1);
    bench.dir().store(&attempt).unwrap();
    let mut next = Agent::start(&bench).await;
    assert_eq!(next.until_ended(id).await.outcome, Outcome::Lost(LossCause::LeaseEnded));
}

#[tokio::test(start_paused = true)]
async fn containers_without_a_record_are_removed_and_others_are_not() {
    let bench = Bench::new();
    let mut agent = Agent::start(&bench).await;
    let id = agent.run(1, &["sleep 600000"]).await;
    agent.until_running(id).await;
    while bench.runtime.starts().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    agent.end().await;
    let orphan = Agent::start(&bench).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let kept = ContainerId { attempt: id, executor: 0 };
    assert_eq!(bench.runtime.list().await.unwrap(), [kept]);
    orphan.end().await;
    std::fs::remove_dir_all(bench.data.path().join("tasks")).unwrap();
    bench.runtime.set_down(true);
    let agent = Agent::start(&bench).await;
    assert_eq!(agent.held, []);
    tokio::time::sleep(Duration::from_secs(60)).await;
    bench.runtime.set_down(false);
    while !bench.runtime.list().await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(bench.runtime.attempts(), []);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_does_not_listen_is_ended() {
    let bench = Bench::new();
    let agent = Agent::start(&bench).await;
    let (reports, mut deaf) = mpsc::channel(1);
    let (inventory, held) = oneshot::channel();
    agent.events.send(Event::Attached { reports, inventory }).await.unwrap();
    held.await.unwrap();
    let unknown = assignment(1, &[]).id;
    for _ in 0..3 {
        agent.command(Command::Stop(unknown)).await;
    }
    attach(&agent.events).await;
    assert!(deaf.recv().await.is_some());
    assert!(deaf.recv().await.is_none(), "its end is how it learns that it missed something");
}
