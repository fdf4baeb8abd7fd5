//! The ways out of an attempt: being stopped, failing, handing the result over. A result is written only
//! when nothing of the task is alive, and nothing is deleted before somebody else has the result.

use std::time::Duration;

use teamster_values::Reason;

use super::result;
use super::run::{Halt, Pauses, Run};
use crate::assignment::{LossCause, Outcome, OutputFile, Report};
use crate::attempt::{Phase, StopReason};
use crate::disk::Overrun;
use crate::kept_logs;
use crate::runtime::{ContainerId, ContainerState, Exit, Signal};

/// How long a killed process may take to be reported as ended, before we go on without its exit code.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// How often cleaning up is tried before it is left to the next start of the agent.
const CLEAN_UP_TRIES: u32 = 6;

impl Run {
    /// Brings an attempt that cannot or must not go on to its result.
    pub(super) async fn halt(&mut self, halt: Halt) {
        let id = self.id();
        self.armed = None;
        let mut outputs = Vec::new();
        let outcome = match halt {
            Halt::Stop(reason) => {
                tracing::info!(task = %id.task, attempt = id.attempt, ?reason, "stopping");
                outputs = self.stop(reason).await;
                outcome_of(reason)
            }
            Halt::Limit(Overrun { reason, text }) => {
                tracing::warn!(task = %id.task, attempt = id.attempt, reason = reason.code(), text, "over a limit");
                self.attempt.system_logs.push(reason.line(text));
                self.attempt.reason = Some(reason);
                outputs = self.stop(StopReason::LimitPassed).await;
                outcome_of(StopReason::LimitPassed)
            }
            Halt::Fault { outcome, reason, text } => {
                tracing::warn!(task = %id.task, attempt = id.attempt, ?outcome, text, "cannot go on");
                self.attempt.system_logs.push(reason.line(text));
                self.attempt.reason = Some(reason);
                // A reboot has killed everything; what is left of it is deleted with the rest.
                if outcome != Outcome::Lost(LossCause::Reboot) {
                    self.kill_everything().await;
                    self.end_staging().await;
                    self.keep_last_words().await;
                }
                outcome
            }
        };
        self.conclude(outcome, outputs).await;
    }

    /// Ends all that runs, and returns what was put in place even so.
    async fn stop(&mut self, reason: StopReason) -> Vec<OutputFile> {
        if self.attempt.stopping.is_none() {
            self.attempt.stopping = Some(reason);
            // On disk before the first kill, so that a restarted agent starts nothing. A disk that refuses
            // must not keep the task alive, though.
            if let Err(error) = self.save().await {
                tracing::error!(attempt = %self.id(), %error, "failed to keep that an attempt is being stopped");
            }
        }
        if let Phase::Started(executor) = self.attempt.phase {
            self.end_executor(ContainerId { attempt: self.id(), executor }, reason).await;
        }
        self.kill_everything().await;
        let outputs = if reason == StopReason::LimitPassed { self.salvage().await } else { Vec::new() };
        self.end_staging().await;
        self.keep_last_words().await;
        let (reason, text) = match reason {
            // It was said when the limit was passed.
            StopReason::LimitPassed => return outputs,
            StopReason::Canceled => (Reason::Canceled, "canceled"),
            StopReason::LeaseEnded => {
                (Reason::NodeLost, "stopped: the coordinator was not heard for the length of the lease")
            }
            StopReason::NodeStopped => (Reason::NodeStopped, "stopped: the operator stopped the node"),
        };
        self.attempt.system_logs.push(reason.line(text));
        self.attempt.reason = Some(reason);
        outputs
    }

    /// SIGTERM, the grace period, SIGKILL; keeps how the executor ended if that can be known.
    async fn end_executor(&mut self, id: ContainerId, reason: StopReason) {
        let runtime = self.node.runtime.clone();
        let exit = match runtime.state(id).await {
            Ok(ContainerState::Exited(exit)) => Some(exit),
            Ok(ContainerState::Running) => self.end_running(id, reason).await,
            Ok(ContainerState::Created) => {
                self.never_ran = id.executor == 0;
                None
            }
            Ok(ContainerState::Missing) => None,
            Err(error) => {
                tracing::warn!(container = %id, %error, "killing what cannot be asked");
                None
            }
        };
        // It may have ended, and been written down, right before the order came.
        if let Some(exit) = exit
            && self.attempt.executors.len() == id.executor as usize
        {
            self.keep_exit(id.executor, exit);
        }
    }

    /// What an executor that was ended, or that ended right before the trouble, has written.
    async fn keep_last_words(&mut self) {
        let may_lack_them = matches!(self.attempt.phase, Phase::Started(_) | Phase::Ended(_));
        if may_lack_them && self.keep_tails().await.is_err() {
            tracing::warn!(attempt = %self.id(), "the logs of the last executor cannot be read");
        }
    }

    async fn end_running(&self, id: ContainerId, reason: StopReason) -> Option<Exit> {
        let unwanted = self.orders.borrow().forget;
        let grace = match reason {
            StopReason::LeaseEnded => Duration::ZERO,
            // It would go on to fill the disk.
            StopReason::LimitPassed if self.attempt.reason != Some(Reason::TimeLimit) => Duration::ZERO,
            StopReason::Canceled | StopReason::NodeStopped if unwanted => Duration::ZERO,
            StopReason::Canceled | StopReason::NodeStopped | StopReason::LimitPassed => {
                self.node.config.grace_period.0
            }
        };
        if !grace.is_zero()
            && let Some(exit) = self.signal_and_wait(id, Signal::Term, grace).await
        {
            return Some(exit);
        }
        self.signal_and_wait(id, Signal::Kill, KILL_DEADLINE).await
    }

    async fn signal_and_wait(&self, id: ContainerId, signal: Signal, time: Duration) -> Option<Exit> {
        let runtime = &self.node.runtime;
        let ended = async {
            if let Err(error) = runtime.signal(id, signal).await {
                tracing::warn!(container = %id, ?signal, %error, "failed to signal a container");
                return None;
            }
            runtime.wait(id).await.ok()
        };
        tokio::time::timeout(time, ended).await.ok().flatten()
    }

    /// Returns when nothing of the attempt is alive, however long that takes: a process that cannot be
    /// killed is never called dead. Nothing of it is left in the runtime then.
    pub(super) async fn kill_everything(&mut self) {
        let container = self.last_container();
        let attempt = self.id();
        let mut pauses = Pauses::new();
        loop {
            let removed = match container {
                Some(executor) => self.node.runtime.remove(ContainerId { attempt, executor }).await,
                None => Ok(()),
            };
            // Tried even so: this kills without containerd.
            let released = self.node.runtime.release_attempt(attempt).await;
            match removed.and(released) {
                Ok(()) => {
                    self.is_removed = true;
                    return;
                }
                Err(error) => {
                    tracing::error!(%attempt, %error, "what is left of a task cannot be killed yet; trying again");
                    tokio::time::sleep(pauses.next()).await;
                }
            }
        }
    }

    /// The container that may be there: those before it are removed before it is made.
    fn last_container(&self) -> Option<u32> {
        match self.attempt.phase {
            // An agent before this one may have made it: the phase in which that is done is not on disk.
            Phase::Intended => self.adopted.then_some(0),
            Phase::Created(executor) | Phase::Started(executor) | Phase::Ended(executor) => Some(executor),
            Phase::Staged | Phase::Reported => {
                let ended = self.attempt.result.as_ref().map_or(0, |result| result.executors.len());
                ended.checked_sub(1).and_then(|last| u32::try_from(last).ok())
            }
        }
    }

    /// Removes what was dead when the result was decided, and what an agent that was killed has left of it.
    pub(super) async fn remove_the_dead(&mut self) {
        if !self.is_removed && self.attempt.boot_id == self.node.boot_id {
            self.kill_everything().await;
        }
    }

    /// Returns when no staging child is alive: one that was killed may still be in a write. What the task
    /// wrote goes with it, for no outputs will be taken of it.
    async fn end_staging(&self) {
        let mut pauses = Pauses::new();
        while let Err(error) = self.node.staging.release(&self.dir).await {
            tracing::error!(attempt = %self.id(), %error, "staging of a task cannot be ended yet; trying again");
            tokio::time::sleep(pauses.next()).await;
        }
    }

    /// Writes the result. Nothing may be alive.
    pub(super) async fn conclude(&mut self, outcome: Outcome, outputs: Vec<OutputFile>) {
        let started = self.attempt.started() && !self.never_ran;
        let result = result::conclude(&mut self.attempt, outcome, started, outputs);
        let id = self.id();
        tracing::info!(task = %id.task, attempt = id.attempt, ?outcome, started, "decided");
        self.attempt.result = Some(result);
        self.attempt.phase = Phase::Staged;
        let mut pauses = Pauses::new();
        while let Err(error) = self.save().await {
            if !self.is_recorded {
                tracing::error!(attempt = %id, %error, "an attempt that could not be recorded is only reported");
                return;
            }
            tracing::error!(attempt = %id, %error, "failed to keep the result of an attempt; trying again");
            if error.is_disk_full() {
                // What the task wrote is not needed any more and may be what fills the disk.
                let _ = self.node.staging.release(&self.dir).await;
            }
            tokio::time::sleep(pauses.next()).await;
        }
    }

    /// Tells the result until it is forgotten, then deletes everything.
    pub(super) async fn hand_over(mut self) {
        if self.attempt.phase != Phase::Reported {
            if let Some(result) = self.attempt.result.clone().filter(|_| !self.orders.borrow().forget) {
                self.report(Report::Ended(self.id(), Box::new(result))).await;
            }
            self.remove_the_dead().await;
            if self.orders.wait_for(|orders| orders.forget).await.is_err() {
                return;
            }
            self.attempt.phase = Phase::Reported;
            if let Err(error) = self.save().await {
                tracing::warn!(attempt = %self.id(), %error, "failed to keep that a result was acknowledged");
            }
        }
        self.remove_the_dead().await;
        self.clean_up().await;
    }

    async fn clean_up(&self) {
        let id = self.id();
        let mut pauses = Pauses::new();
        for _ in 0..CLEAN_UP_TRIES {
            match self.try_to_clean_up().await {
                Ok(()) => {
                    tracing::info!(task = %id.task, attempt = id.attempt, "forgotten");
                    return;
                }
                Err(reason) => {
                    tracing::warn!(task = %id.task, attempt = id.attempt, reason, "failed to clean up; trying again");
                    tokio::time::sleep(pauses.next()).await;
                }
            }
        }
        tracing::error!(task = %id.task, attempt = id.attempt, "left to be cleaned up at the next start");
    }

    async fn try_to_clean_up(&self) -> Result<(), String> {
        let runtime = &self.node.runtime;
        if self.attempt.boot_id != self.node.boot_id {
            for executor in 0..u32::try_from(self.attempt.assignment.executors.len()).unwrap_or(u32::MAX) {
                let id = ContainerId { attempt: self.id(), executor };
                runtime.remove(id).await.map_err(|error| error.to_string())?;
            }
        }
        if !self.is_removed {
            runtime.release_attempt(self.id()).await.map_err(|error| error.to_string())?;
        }
        self.node.staging.release(&self.dir).await.map_err(|error| error.to_string())?;
        let (dir, id) = (self.dir.clone(), self.id());
        let (data_dir, quotas) = (self.node.config.data_dir.clone(), self.node.disk_watch.quotas().clone());
        let are_kept = !self.node.config.log_retention.0.is_zero();
        self.on_disk(move || {
            if let Err(error) = quotas.release(id) {
                // Whoever looks for limits that are left over finds this one.
                tracing::warn!(attempt = %id, %error, "failed to take its limit on disk space away");
            }
            if are_kept && let Err(error) = kept_logs::keep(&data_dir, &dir, id) {
                // The tails are safe with the result; the space of an attempt must not be lost over the rest.
                tracing::warn!(attempt = %id, %error, "failed to keep logs");
            }
            dir.delete()
        })
        .await
        .map_err(|error| format!("failed to {error}"))
    }
}

fn outcome_of(reason: StopReason) -> Outcome {
    match reason {
        StopReason::Canceled => Outcome::Canceled,
        StopReason::LeaseEnded => Outcome::Lost(LossCause::LeaseEnded),
        StopReason::NodeStopped => Outcome::Lost(LossCause::NodeStopped),
        // As for memory: the task took more than it asked for.
        StopReason::LimitPassed => Outcome::ExecutorError,
    }
}
