//! Drives one attempt from whatever phase it is in to its end. Taking up and adopting are the same path:
//! each phase is on disk before its step, and each step may be done again. It never asks why it is stopped,
//! and never reports an end before it is on disk and nothing of the task is alive.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use teamster_values::Reason;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::limits::Armed;
use super::plan::Plan;
use super::{Node, Orders};
use crate::assignment::{AttemptId, LossCause, Outcome, Report, Stage};
use crate::attempt::{Attempt, Phase, RecordError, StopReason};
use crate::attempt_dir::AttemptDir;
use crate::boot::BootInstant;
use crate::disk::Overrun;
use crate::failpoint;
use crate::image_care::Wish;
use crate::runtime::{Image, RuntimeError};
use crate::stage::StageError;

/// How long a runtime that does not answer is asked again, before anything was started (the task is better
/// off on another node) and after (the work that was done would be lost).
const PATIENCE_BEFORE_START: Duration = Duration::from_secs(15);
const PATIENCE_AFTER_START: Duration = Duration::from_secs(600);
/// First and longest pause between two tries of anything.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often a record is tried to be written before the disk is called a fault of this node.
const RECORD_TRIES: u32 = 10;

/// Up to where an attempt is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Until its result is forgotten and nothing is left of it.
    Forgotten,
    /// Until its result is on disk and nothing of it is left in the runtime.
    Decided,
}

/// Why an attempt does not go on.
#[derive(Debug)]
pub(super) enum Halt {
    /// It was told to end.
    Stop(StopReason),
    /// It passed a limit.
    Limit(Overrun),
    /// It cannot go on; the reason is for the user.
    Fault { outcome: Outcome, reason: Reason, text: String },
}

impl Halt {
    /// This node is at fault.
    pub(super) fn lost(text: impl Into<String>) -> Self {
        let outcome = Outcome::Lost(LossCause::NodeFault);
        Self::Fault { outcome, reason: Reason::NodeFault, text: text.into() }
    }

    /// The task is, and would be elsewhere too.
    pub(super) fn refused(reason: Reason, text: impl Into<String>) -> Self {
        Self::Fault { outcome: Outcome::SystemError, reason, text: text.into() }
    }

    pub(super) fn from_inputs(error: StageError) -> Self {
        match error {
            StageError::Missing(text) => Self::refused(Reason::InputMissing, text),
            StageError::Task(text) => Self::refused(Reason::InputUnusable, text),
            StageError::Node(text) => Self::lost(text),
        }
    }

    pub(super) fn from_outputs(error: StageError) -> Self {
        match error {
            StageError::Missing(text) | StageError::Task(text) => Self::refused(Reason::OutputUnusable, text),
            StageError::Node(text) => Self::lost(text),
        }
    }
}

impl From<RuntimeError> for Halt {
    fn from(error: RuntimeError) -> Self {
        let text = error.to_string();
        match error {
            RuntimeError::ImageNotFound { .. } => Self::refused(Reason::ImageNotFound, text),
            RuntimeError::ImageUnauthorized { .. } => Self::refused(Reason::ImageUnauthorized, text),
            RuntimeError::ImageRefused { .. } => Self::refused(Reason::ImageRefused, text),
            RuntimeError::ImageUnusable { .. } => Self::refused(Reason::ImageUnusable, text),
            RuntimeError::CommandUnusable(_) => Self::refused(Reason::CommandUnusable, text),
            RuntimeError::LeaseEnded(_) => {
                let outcome = Outcome::Lost(LossCause::LeaseEnded);
                Self::Fault { outcome, reason: Reason::NodeLost, text }
            }
            RuntimeError::Unavailable(_)
            | RuntimeError::NotFound(_)
            | RuntimeError::KeeperLost(_)
            | RuntimeError::NeverBegan(_)
            | RuntimeError::PullFailed { .. }
            | RuntimeError::NoAddress(_)
            | RuntimeError::Failed { .. } => Self::lost(text),
        }
    }
}

/// Pauses that grow.
pub(super) struct Pauses(Duration);

impl Pauses {
    pub(super) fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// One attempt and all that it needs.
pub struct Run {
    pub(super) node: Arc<Node>,
    pub(super) attempt: Attempt,
    pub(super) dir: AttemptDir,
    pub(super) orders: watch::Receiver<Orders>,
    pub(super) plan: Option<Arc<Plan>>,
    pub(super) images: Vec<Image>,
    /// The phase was read from disk, so its step may have been done already.
    pub(super) adopted: bool,
    /// A record of it was written, now or by an agent before this one.
    pub(super) is_recorded: bool,
    /// The runtime says that the container of the first executor was never started.
    pub(super) never_ran: bool,
    /// Nothing of it is left in the runtime.
    pub(super) is_removed: bool,
    /// The limits that count now.
    pub(super) armed: Option<Armed>,
    reports: mpsc::Sender<Report>,
    /// How far it is, as it was reported.
    told: Option<Stage>,
    fresh: Option<BootInstant>,
    predecessors: Vec<CancellationToken>,
    /// Keeps the images of all executors on the node.
    _wish: Wish,
}

impl Run {
    /// Goes on with an attempt whose record is on disk. Orders come in by `orders`, reports go out by
    /// `reports`; a receiver that is gone is fine.
    pub fn adopted(
        node: Arc<Node>,
        attempt: Attempt,
        orders: watch::Receiver<Orders>,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let dir = AttemptDir::new(&node.config.data_dir, attempt.id());
        let images = attempt.assignment.executors.iter().map(|executor| executor.image.as_str());
        Self {
            _wish: node.wanted_images.wish(images),
            node,
            attempt,
            dir,
            orders,
            plan: None,
            images: Vec::new(),
            adopted: true,
            is_recorded: true,
            never_ran: false,
            is_removed: false,
            armed: None,
            reports,
            told: None,
            fresh: None,
            predecessors: Vec::new(),
        }
    }

    /// Takes up an attempt that has no record yet; its lease counts from `heard`.
    pub fn fresh(
        node: Arc<Node>,
        mut attempt: Attempt,
        heard: BootInstant,
        orders: watch::Receiver<Orders>,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        // Kept with the attempt: another default later does not change what it was given.
        attempt.assignment.network.get_or_insert(node.config.network.default);
        Self {
            adopted: false,
            is_recorded: false,
            fresh: Some(heard),
            ..Self::adopted(node, attempt, orders, reports)
        }
    }

    /// Does nothing for the task before all of these are cancelled: older attempts that are still here.
    pub fn after(mut self, predecessors: Vec<CancellationToken>) -> Self {
        self.predecessors = predecessors;
        self
    }

    /// Drives it to its end. Dropping this leaves the task running, to be adopted.
    pub async fn drive(mut self, until: Until) {
        if let Err(halt) = self.go_on().await {
            self.halt(self.blame_disk(halt)).await;
        }
        match until {
            Until::Forgotten => self.hand_over().await,
            Until::Decided => self.remove_the_dead().await,
        }
    }

    async fn go_on(&mut self) -> Result<(), Halt> {
        if self.attempt.result.is_some() {
            return Ok(());
        }
        if self.attempt.boot_id != self.node.boot_id {
            return Err(Halt::Fault {
                outcome: Outcome::Lost(LossCause::Reboot),
                reason: Reason::NodeRestarted,
                text: "the node was restarted while it had the task".to_owned(),
            });
        }
        if let Some(reason) = self.attempt.stopping {
            return Err(Halt::Stop(reason));
        }
        self.take_up().await?;
        loop {
            self.obey()?;
            match self.attempt.phase {
                Phase::Intended => self.prepare().await?,
                Phase::Created(executor) => self.create(executor).await?,
                Phase::Started(executor) => {
                    self.arm_limits();
                    match self.run_executor(executor).await {
                        Err(Halt::Limit(overrun)) => self.unless_ended(executor, overrun).await?,
                        other => other?,
                    }
                }
                Phase::Ended(executor) => self.after_executor(executor).await?,
                Phase::Staged | Phase::Reported => return Ok(()),
            }
            self.adopted = false;
        }
    }

    async fn take_up(&mut self) -> Result<(), Halt> {
        let id = self.id();
        if let Some(heard) = self.fresh.take() {
            tracing::info!(task = %id.task, attempt = id.attempt, "taken up");
            let dir = self.dir.clone();
            self.on_disk(move || {
                dir.make()?;
                crate::lease::create(&dir.lease(), heard).map_err(|source| RecordError::Io {
                    action: "write the lease",
                    path: dir.lease(),
                    source,
                })
            })
            .await
            .map_err(|error| Halt::lost(format!("failed to {error}")))?;
            self.enter(Phase::Intended).await?;
            self.is_recorded = true;
        } else {
            tracing::info!(task = %id.task, attempt = id.attempt, phase = ?self.attempt.phase, "adopted");
            self.report_stage().await;
        }
        for predecessor in std::mem::take(&mut self.predecessors) {
            self.unless_stopped(predecessor.cancelled_owned()).await?;
        }
        Ok(())
    }

    pub(super) fn id(&self) -> AttemptId {
        self.attempt.id()
    }

    /// Writes the phase before its step is done, where it needs a record. Once something was started the disk is given some time.
    pub(super) async fn enter(&mut self, phase: Phase) -> Result<(), Halt> {
        let before = std::mem::replace(&mut self.attempt.phase, phase);
        if matches!(phase, Phase::Started(_)) {
            self.attempt.running_since.get_or_insert_with(|| BootInstant::now().since_boot());
        }
        let may_wait = self.attempt.started() && phase != Phase::Started(0);
        let tries = if may_wait { RECORD_TRIES } else { 1 };
        let mut pauses = Pauses::new();
        for number in 1.. {
            let Err(error) = self.save().await else { break };
            tracing::error!(attempt = %self.id(), %error, "failed to keep the record of an attempt");
            let patience = if number < tries {
                self.unless_stopped(tokio::time::sleep(pauses.next())).await
            } else {
                Err(Halt::lost(format!("this node failed to {error}")))
            };
            if let Err(halt) = patience {
                self.attempt.phase = before;
                return Err(halt);
            }
        }
        self.report_stage().await;
        Ok(())
    }

    /// One try to replace the record, where the phase needs it.
    pub(super) async fn save(&self) -> Result<(), RecordError> {
        let (before, after) = failpoints(self.attempt.phase);
        failpoint::pass(before);
        if self.needs_record() {
            let store = if self.is_recorded { AttemptDir::store } else { AttemptDir::store_first };
            let (dir, attempt) = (self.dir.clone(), self.attempt.clone());
            self.on_disk(move || store(&dir, &attempt)).await?;
        }
        failpoint::pass(after);
        Ok(())
    }

    /// Whether the next agent would do something else if it found the record before this one.
    fn needs_record(&self) -> bool {
        match self.attempt.phase {
            // To be stopped is never forgotten.
            _ if self.attempt.stopping.is_some() => true,
            // Nothing of a container that was made has run, and it is taken as it is.
            Phase::Created(0) => false,
            // The keeper's record says so too. It does not say what the cgroup counted, by which failures are
            // explained.
            Phase::Ended(_) => {
                self.attempt.executors.last().is_none_or(|log| log.exit_code != 0 || log.out_of_memory)
            }
            // It would be told once more, and acknowledged once more.
            Phase::Reported => false,
            Phase::Intended | Phase::Created(_) | Phase::Started(_) | Phase::Staged => true,
        }
    }

    /// Does `work` on a thread that may block, and that the agent waits for before it leaves.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, RecordError> {
        self.node.disk.spawn_blocking(work).await.unwrap_or_else(|error| {
            Err(RecordError::Io {
                action: "work in",
                path: self.dir.path().to_owned(),
                source: std::io::Error::other(error),
            })
        })
    }

    pub(super) async fn report(&self, report: Report) {
        // The supervisor always takes what comes; with nobody there, nobody wants to know.
        let _ = self.reports.send(report).await;
    }

    async fn report_stage(&mut self) {
        let stage = self.attempt.stage();
        // An end that comes at once says enough.
        let is_short = stage == Stage::Finalizing && self.has_no_outputs();
        if self.told.replace(stage) != Some(stage) && !is_short {
            self.report(Report::Progress(self.id(), stage)).await;
        }
    }

    fn has_no_outputs(&self) -> bool {
        let executors = &self.attempt.assignment.executors;
        self.attempt.assignment.outputs.is_empty()
            && executors.iter().all(|executor| executor.stdout.is_none() && executor.stderr.is_none())
    }

    fn obey(&self) -> Result<(), Halt> {
        self.orders.borrow().stop.map_or(Ok(()), |reason| Err(Halt::Stop(reason)))
    }

    /// `future`, unless an order to stop comes first or a limit is passed; then it is dropped.
    pub(super) async fn unless_stopped<T>(&self, future: impl Future<Output = T>) -> Result<T, Halt> {
        let mut orders = self.orders.clone();
        let stopped = async move {
            match orders.wait_for(|orders| orders.stop.is_some()).await.map(|orders| orders.stop) {
                Ok(Some(reason)) => reason,
                // Nobody is left who could give an order; whoever drives this is about to drop it.
                _ => std::future::pending().await,
            }
        };
        // All may be dropped at any await: the first two only look, `future` is what the caller says may be.
        tokio::select! {
            biased;
            reason = stopped => Err(Halt::Stop(reason)),
            overrun = self.limit_passed() => Err(Halt::Limit(overrun)),
            value = future => Ok(value),
        }
    }

    /// Asks again while the runtime does not answer. An order to stop ends the waiting, never the asking: a
    /// request on its way could otherwise be carried out after the task was declared dead.
    pub(super) async fn patiently<T, F>(
        &self,
        mut ask: impl FnMut() -> F,
    ) -> Result<Result<T, RuntimeError>, Halt>
    where
        F: Future<Output = Result<T, RuntimeError>>,
    {
        let patience = if self.attempt.started() { PATIENCE_AFTER_START } else { PATIENCE_BEFORE_START };
        let deadline = Instant::now() + patience;
        let mut pauses = Pauses::new();
        loop {
            match ask().await {
                Err(RuntimeError::Unavailable(reason)) if Instant::now() < deadline => {
                    tracing::warn!(attempt = %self.id(), reason, "containerd does not answer; asking again");
                    self.unless_stopped(tokio::time::sleep(pauses.next())).await?;
                }
                answer => return Ok(answer),
            }
        }
    }
}

/// One line for each image that was pulled, however many executors use it.
pub(super) fn pulls(images: &[Image]) -> BTreeSet<String> {
    images.iter().filter_map(|image| image.pulled.as_ref()).map(ToString::to_string).collect()
}

fn failpoints(phase: Phase) -> (&'static str, &'static str) {
    match phase {
        Phase::Intended => ("intended.before", "intended.after"),
        Phase::Created(_) => ("created.before", "created.after"),
        Phase::Started(_) => ("started.before", "started.after"),
        Phase::Ended(_) => ("ended.before", "ended.after"),
        Phase::Staged => ("staged.before", "staged.after"),
        Phase::Reported => ("reported.before", "reported.after"),
    }
}
