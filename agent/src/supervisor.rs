//! Owns every task on this node. One loop takes one closed set of events and never waits for anything else,
//! so that nobody who waits for it can be waiting in a circle. It starts, adopts, stops and forgets; how a
//! task runs is `task`'s business, and what the coordinator wants is `session`'s.

mod event;
mod orphans;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use teamster_values::Reason;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::assignment::{Assignment, AttemptId, AttemptResult, Command, Held, Outcome, Report, Stage};
use crate::attempt::{Attempt, StopReason};
use crate::attempt_dir::AttemptDir;
use crate::boot::BootInstant;
use crate::lease::{self, Lease};
use crate::task::{Node, Orders, Run, Until};

pub use event::{Event, REPORTS_MAX};

/// Events that may wait; who has more to say waits. Enough for a coordinator that fills an empty node.
const EVENTS_MAX: usize = 1024;

/// Reports of tasks that may wait to be taken by the loop, which is never long.
const TASK_REPORTS_MAX: usize = 256;

/// How often leases are looked at when none is about to end: a sleeping machine's timers stand still, its
/// leases do not.
const LEASE_TICK: Duration = Duration::from_secs(5);

/// How long a task whose driver failed in a way that is a bug rests before it is adopted again.
const DRIVER_REST: Duration = Duration::from_secs(10);

/// One attempt on this node.
struct Entry {
    stage: Stage,
    result: Option<Box<AttemptResult>>,
    lease: Lease,
    orders: watch::Sender<Orders>,
    gone: CancellationToken,
}

impl Entry {
    fn order(&self, change: impl Fn(&mut Orders)) {
        self.orders.send_modify(change);
    }

    fn stop(&self, reason: StopReason) {
        self.order(|orders| {
            orders.stop.get_or_insert(reason);
        });
    }

    fn forget(&self) {
        self.order(|orders| {
            orders.stop.get_or_insert(StopReason::Canceled);
            orders.forget = true;
        });
    }

    fn is_forgotten(&self) -> bool {
        self.orders.borrow().forget
    }

    fn is_left_alone(&self) -> bool {
        self.result.is_none() && self.orders.borrow().stop.is_none()
    }
}

/// The owner of all tasks.
pub struct Supervisor {
    node: Arc<Node>,
    entries: BTreeMap<AttemptId, Entry>,
    tasks: JoinSet<()>,
    drivers: HashMap<Id, AttemptId>,
    events: mpsc::Receiver<Event>,
    own_events: mpsc::Sender<Event>,
    reports: mpsc::Receiver<Report>,
    report_to: mpsc::Sender<Report>,
    session: Option<mpsc::Sender<Report>>,
    orphans: orphans::Orphans,
    touching: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// A supervisor without tasks, and where its events go.
    pub fn new(node: Arc<Node>) -> (Self, mpsc::Sender<Event>) {
        let (own_events, events) = mpsc::channel(EVENTS_MAX);
        let (report_to, reports) = mpsc::channel(TASK_REPORTS_MAX);
        let supervisor = Self {
            orphans: orphans::Orphans::new(node.clone()),
            node,
            entries: BTreeMap::new(),
            tasks: JoinSet::new(),
            drivers: HashMap::new(),
            events,
            own_events: own_events.clone(),
            reports,
            report_to,
            session: None,
            touching: None,
        };
        (supervisor, own_events)
    }

    /// Goes on with what the disk remembers, then serves events until `shutdown`. Tasks run on after that.
    pub async fn run(mut self, attempts: Vec<Attempt>, shutdown: CancellationToken) {
        for attempt in attempts {
            self.adopt(attempt);
        }
        self.orphans.look(self.own_events.clone());
        while let Some(event) = self.next_event(&shutdown).await {
            self.handle(event);
        }
        self.tasks.shutdown().await;
        self.orphans.shutdown().await;
    }

    async fn next_event(&mut self, shutdown: &CancellationToken) -> Option<Event> {
        let lease_end = self.next_lease_end();
        // Each branch may be dropped at its await: receiving from channels and joining lose nothing then.
        tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            Some(ended) = self.tasks.join_next_with_id() => Some(Event::DriverEnded(ended)),
            Some(report) = self.reports.recv() => Some(Event::Reported(report)),
            Some(event) = self.events.recv() => Some(event),
            () = tokio::time::sleep(lease_end) => Some(Event::LeaseTick),
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Command { command: Command::Start(assignment), heard } => self.start(*assignment, heard),
            Event::Command { command: Command::Stop(id), .. } => self.stop(id),
            Event::Command { command: Command::Forget(id), .. } => self.forget(id),
            Event::Attached { reports, inventory } => {
                self.session = Some(reports);
                // A session that is gone again does not want it.
                let _ = inventory.send(self.inventory());
            }
            Event::Heard(at) => self.renew_leases(at),
            Event::Reported(report) => self.reported(report),
            Event::DriverEnded(ended) => self.driver_ended(ended),
            Event::LeaseTick => self.end_leases(BootInstant::now()),
            Event::Found(containers) => {
                let known = self.entries.keys().copied().collect();
                self.orphans.remove(containers, &known);
            }
        }
    }

    fn start(&mut self, assignment: Assignment, heard: BootInstant) {
        let id = assignment.id;
        if self.entries.contains_key(&id) {
            tracing::info!(task = %id.task, attempt = id.attempt, "is here already");
            return self.say_again(id);
        }
        let newer = AttemptId { task: id.task, attempt: id.attempt.saturating_add(1) };
        let last = AttemptId { task: id.task, attempt: u32::MAX };
        if self.entries.range(newer..=last).next().is_some() {
            tracing::warn!(task = %id.task, attempt = id.attempt, "is older than what is here; not started");
            return;
        }
        for (older, entry) in self.attempts_before(id) {
            tracing::warn!(task = %id.task, attempt = older.attempt, "a newer attempt came; ending this one first");
            entry.forget();
        }
        let lease = Lease::new(heard, assignment.lease);
        let attempt = Attempt::new(assignment, &self.node.boot_id, Timestamp::now());
        let (orders, stage) = self.enter(&attempt, lease);
        debug_assert_eq!(stage, Stage::Preparing);
        let run = Run::fresh(self.node.clone(), attempt, heard, orders, self.report_to.clone());
        self.spawn(id, run.after(self.predecessors(id)).drive(Until::Forgotten));
    }

    fn adopt(&mut self, attempt: Attempt) {
        let id = attempt.id();
        // Without its file a lease is over: whoever took it may have given the task to somebody else.
        let heard = lease::read(&AttemptDir::new(&self.node.config.data_dir, id).lease())
            .unwrap_or(BootInstant::after_boot(Duration::ZERO));
        let lease = Lease::new(heard, attempt.assignment.lease);
        for (_, entry) in self.attempts_before(id) {
            entry.stop(StopReason::Canceled);
        }
        let (orders, _) = self.enter(&attempt, lease);
        let run = Run::adopted(self.node.clone(), attempt, orders, self.report_to.clone());
        self.spawn(id, run.after(self.predecessors(id)).drive(Until::Forgotten));
    }

    fn enter(&mut self, attempt: &Attempt, lease: Lease) -> (watch::Receiver<Orders>, Stage) {
        let forget = attempt.phase == crate::attempt::Phase::Reported;
        let (orders, receiver) = watch::channel(Orders { stop: attempt.stopping, forget });
        let stage = attempt.stage();
        let result = attempt.result.clone().map(Box::new);
        if result.is_none() {
            self.node.stages.set(attempt.id(), stage);
        }
        self.entries
            .insert(attempt.id(), Entry { stage, result, lease, orders, gone: CancellationToken::new() });
        (receiver, stage)
    }

    fn spawn(&mut self, id: AttemptId, driver: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(driver);
        self.drivers.insert(handle.id(), id);
    }

    fn attempts_before(&self, id: AttemptId) -> impl Iterator<Item = (&AttemptId, &Entry)> {
        self.entries.range(AttemptId { task: id.task, attempt: 0 }..id)
    }

    fn predecessors(&self, id: AttemptId) -> Vec<CancellationToken> {
        let older = self.attempts_before(id).map(|(_, entry)| entry.gone.clone());
        older.chain(self.orphans.of(id.task)).collect()
    }

    fn stop(&mut self, id: AttemptId) {
        match self.entries.get(&id) {
            Some(entry) => {
                entry.stop(StopReason::Canceled);
                self.say_again(id);
            }
            None => {
                tracing::info!(task = %id.task, attempt = id.attempt, "is not here; nothing to stop");
                self.tell(Report::Ended(id, Box::new(never_here())));
            }
        }
    }

    fn forget(&mut self, id: AttemptId) {
        if let Some(entry) = self.entries.get(&id) {
            entry.forget();
        }
    }

    /// Whoever asks about something that has ended is told how, once more.
    fn say_again(&mut self, id: AttemptId) {
        let Some(entry) = self.entries.get(&id).filter(|entry| !entry.is_forgotten()) else { return };
        let report = match &entry.result {
            Some(result) => Report::Ended(id, result.clone()),
            None => Report::Progress(id, entry.stage),
        };
        self.tell(report);
    }

    fn reported(&mut self, report: Report) {
        match &report {
            Report::Progress(id, stage) => {
                let Some(entry) = self.entries.get_mut(id) else { return };
                entry.stage = *stage;
                self.node.stages.set(*id, *stage);
            }
            Report::Note(..) => {
                // A session that is busy with what matters can do without it.
                if let Some(session) = &self.session {
                    let _ = session.try_send(report);
                }
                return;
            }
            Report::Ended(id, result) => {
                let Some(entry) = self.entries.get_mut(id) else { return };
                entry.result = Some(result.clone());
                self.node.stages.over(*id);
                // Forgotten meanwhile: nobody wants to know any more.
                if entry.is_forgotten() {
                    return;
                }
            }
        }
        self.tell(report);
    }

    /// A session that does not take what it is told has lost something, so it is ended: its successor
    /// begins with the whole inventory.
    fn tell(&mut self, report: Report) {
        if let Some(session) = &self.session
            && session.try_send(report).is_err()
        {
            self.session = None;
        }
    }

    fn inventory(&self) -> Vec<Held> {
        self.entries
            .iter()
            .filter_map(|(id, entry)| match &entry.result {
                Some(_) if entry.is_forgotten() => None,
                Some(result) => Some(Held::Ended(*id, result.clone())),
                None => Some(Held::Live(*id, entry.stage)),
            })
            .collect()
    }

    fn driver_ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let (driver, error) = match ended {
            Ok((driver, ())) => (driver, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(id) = self.drivers.remove(&driver) else { return };
        match error {
            None => {
                self.node.stages.over(id);
                if let Some(entry) = self.entries.remove(&id) {
                    entry.gone.cancel();
                }
            }
            Some(error) => {
                tracing::error!(task = %id.task, attempt = id.attempt, %error, "its driver failed; adopting it again");
                let Some(entry) = self.entries.get(&id) else { return };
                let readopted =
                    readopt(self.node.clone(), id, entry.orders.subscribe(), self.report_to.clone());
                self.spawn(id, readopted);
            }
        }
    }

    fn next_lease_end(&self) -> Duration {
        let ends = self.entries.values().filter(|entry| entry.is_left_alone()).map(|entry| entry.lease.end());
        ends.min().map_or(LEASE_TICK, |end| BootInstant::now().until(end).min(LEASE_TICK))
    }

    fn end_leases(&mut self, now: BootInstant) {
        for (id, entry) in &self.entries {
            if entry.is_left_alone() && entry.lease.is_over(now) {
                tracing::warn!(task = %id.task, attempt = id.attempt, "its lease has ended; killing it");
                entry.stop(StopReason::LeaseEnded);
            }
        }
    }

    fn renew_leases(&mut self, heard: BootInstant) {
        let mut files = Vec::new();
        for (id, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.is_left_alone()) {
            entry.lease.renew(heard);
            files.push(AttemptDir::new(&self.node.config.data_dir, *id).lease());
        }
        // A disk that is slower than heartbeats gets every other one.
        if files.is_empty() || self.touching.as_ref().is_some_and(|touching| !touching.is_finished()) {
            return;
        }
        self.touching = Some(self.node.disk.spawn_blocking(move || {
            for file in files {
                if let Err(error) = lease::touch(&file, heard)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    tracing::error!(file = %file.display(), %error, "failed to renew a lease on disk");
                }
            }
        }));
    }
}

/// Adopts an attempt from what the disk says of it. A driver that fails is a bug; the record is still right.
async fn readopt(
    node: Arc<Node>,
    id: AttemptId,
    orders: watch::Receiver<Orders>,
    reports: mpsc::Sender<Report>,
) {
    tokio::time::sleep(DRIVER_REST).await;
    let dir = AttemptDir::new(&node.config.data_dir, id);
    match node.disk.spawn_blocking(move || dir.load()).await {
        Ok(Ok(Some(attempt))) => Run::adopted(node, attempt, orders, reports).drive(Until::Forgotten).await,
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::error!(attempt = %id, %error, "the record cannot be read"),
        Err(error) => tracing::error!(attempt = %id, %error, "the record cannot be read"),
    }
}

/// The answer to an order to stop what this node does not know.
fn never_here() -> AttemptResult {
    let now = Timestamp::now();
    AttemptResult {
        outcome: Outcome::Canceled,
        started: false,
        executors: Vec::new(),
        outputs: Vec::new(),
        system_logs: vec![Reason::Canceled.line("canceled before it reached the node")],
        reason: Some(Reason::Canceled),
        metadata: BTreeMap::new(),
        start_time: now,
        end_time: now,
    }
}
