//! The limits that the kernel does not hold for us, wall time and mostly disk, while an executor runs: an attempt
//! that passes one is ended like a command that failed, with the reason, and what it leaves is still put in
//! place. Also what the kernel's own limits are called when they have made an executor fail.

use std::time::Duration;

use teamster_values::{ByteCount, Period, Reason};

use super::run::{Halt, Run};
use crate::assignment::{Outcome, OutputFile};
use crate::attempt::Phase;
use crate::boot::BootInstant;
use crate::disk::{DiskLimits, Overrun, Watching};
use crate::runtime::{ContainerId, ContainerState, Exit};

/// The longest sleep before the clock is looked at again: timers stand still while a machine sleeps, the
/// clock of the limit does not.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Limits that count at the moment.
pub(super) struct Armed {
    disk: Watching,
    /// When the time is over, and how long it was.
    time: Option<(BootInstant, Duration)>,
}

impl Armed {
    /// Ends when a limit is passed.
    fn passed(&self) -> impl Future<Output = Overrun> + Send + 'static {
        let disk = self.disk.overrun();
        let time = self.time;
        async move {
            // Neither loses anything when it is dropped.
            tokio::select! {
                overrun = disk => overrun,
                overrun = time_over(time) => overrun,
            }
        }
    }
}

async fn time_over(time: Option<(BootInstant, Duration)>) -> Overrun {
    let Some((end, limit)) = time else { return std::future::pending().await };
    loop {
        let left = BootInstant::now().until(end);
        if left.is_zero() {
            let text = format!("the task ran for longer than its limit of {}", Period(limit));
            return Overrun { reason: Reason::TimeLimit, text };
        }
        tokio::time::sleep(left.min(LOOK_INTERVAL)).await;
    }
}

impl Run {
    fn disk_limits(&self) -> DiskLimits {
        let bytes = self.attempt.assignment.limits.disk_bytes;
        DiskLimits { bytes, files: self.node.config.sandbox.files_max }
    }

    /// Puts what the task will write under a hard limit, where the file system has such. Where that fails, the
    /// watch is what is left.
    pub(super) async fn enclose_disk(&self) {
        let quotas = self.node.disk_watch.quotas().clone();
        if !quotas.are_on() {
            return;
        }
        let (id, dir, limits) = (self.id(), self.dir.clone(), self.disk_limits());
        let enclosed = self.node.disk.spawn_blocking(move || quotas.enclose(id, &dir, limits)).await;
        if let Ok(Err(error)) = enclosed {
            tracing::warn!(task = %id.task, attempt = id.attempt, %error, "its disk space is watched only");
        }
    }

    /// Says it when the executor that ended with this code had used up its disk space, and whether it failed for
    /// that. One that ended well has found a way to do without.
    pub(super) fn note_disk(&mut self, executor: u32, code: u32) {
        let Some(met) = self.armed.as_ref().and_then(|armed| armed.disk.met()) else { return };
        let line = format!("executor {executor} was refused more: {}", met.text);
        self.attempt.system_logs.push(met.reason.line(line));
        if code != 0 {
            self.attempt.reason.get_or_insert(met.reason);
        }
    }

    /// Whose fault it is that files could not be put in place: the task's own, where it has no room left for them.
    pub(super) fn blame_disk(&self, halt: Halt) -> Halt {
        let Halt::Fault { reason: Reason::InputUnusable | Reason::OutputUnusable, ref text, .. } = halt
        else {
            return halt;
        };
        match self.node.disk_watch.met(self.id(), self.disk_limits()) {
            None => halt,
            Some(met) => Halt::Fault {
                outcome: Outcome::ExecutorError,
                reason: met.reason,
                text: format!("{text}: {}", met.text),
            },
        }
    }

    /// From now on an executor runs, so its limits count.
    pub(super) fn arm_limits(&mut self) {
        let limits = self.disk_limits();
        let since = self.attempt.running_since.map_or_else(BootInstant::now, BootInstant::after_boot);
        let time = self.attempt.assignment.time_limit.map(|limit| (since.plus(limit), limit));
        let disk = self.node.disk_watch.watch(self.id(), &self.dir, limits);
        self.armed = Some(Armed { disk, time });
    }

    /// Ends when a limit that counts now is passed; never while none does.
    pub(super) fn limit_passed(&self) -> impl Future<Output = Overrun> + Send + 'static {
        let passed = self.armed.as_ref().map(Armed::passed);
        async move {
            match passed {
                Some(passed) => passed.await,
                None => std::future::pending().await,
            }
        }
    }

    /// A limit was passed while `executor` was waited for. What has ended by itself, perhaps long ago while no
    /// agent ran, ended in time.
    pub(super) async fn unless_ended(&mut self, executor: u32, overrun: Overrun) -> Result<(), Halt> {
        let id = ContainerId { attempt: self.id(), executor };
        match self.node.runtime.state(id).await {
            Ok(ContainerState::Exited(exit)) => self.executor_ended(executor, exit).await,
            _ => Err(Halt::Limit(overrun)),
        }
    }

    /// After everything was killed for a limit: puts in place what there is, as after a command that failed.
    pub(super) async fn salvage(&mut self) -> Vec<OutputFile> {
        let Ok(plan) = self.plan() else { return Vec::new() };
        let staging = self.node.staging.clone();
        let has_streams = matches!(self.attempt.phase, Phase::Started(executor)
            if self.attempt.executors.len() > executor as usize);
        let streams = async {
            match self.attempt.phase {
                Phase::Started(executor) if has_streams => staging.install_streams(&plan, executor).await,
                _ => Ok(()),
            }
        };
        let outcome = self.unless_stopped(async { (streams.await, staging.stage_out(&plan).await) }).await;
        // Somebody wants it gone altogether.
        let Ok((streams, staged)) = outcome else { return Vec::new() };
        if let Err(error) = streams {
            self.attempt.system_logs.push(format!("warning: {error}"));
        }
        match staged {
            Ok(staged) => {
                let warnings = staged.warnings.into_iter().map(|warning| format!("warning: {warning}"));
                self.attempt.system_logs.extend(warnings);
                staged.files
            }
            Err(error) => {
                self.attempt.system_logs.push(format!("warning: {error}"));
                Vec::new()
            }
        }
    }

    /// Says which of the kernel's limits an executor has met, and whether it failed for it.
    pub(super) fn note_limits(&mut self, executor: u32, exit: &Exit) {
        let assignment = &self.attempt.assignment;
        if exit.out_of_memory {
            let limit = ByteCount(assignment.limits.memory_bytes);
            let line = out_of_memory(executor, exit.code, limit);
            self.attempt.system_logs.push(Reason::OutOfMemory.line(line));
        }
        let refused = exit.usage.map_or(0, |usage| usage.refused_processes);
        if refused > 0 {
            let limit = self.node.config.sandbox.pids_max;
            let line = format!(
                "executor {executor} was refused a process or thread {refused} times, at the limit of {limit} of \
                 the task"
            );
            self.attempt.system_logs.push(Reason::ProcessLimit.line(line));
            if exit.code != 0 && !exit.out_of_memory {
                self.attempt.reason.get_or_insert(Reason::ProcessLimit);
            }
        }
    }
}

fn out_of_memory(executor: u32, code: u32, limit: ByteCount) -> String {
    if code == 128 + 9 {
        format!("out of memory: executor {executor} was killed by the kernel at its limit of {limit}")
    } else {
        format!("out of memory: the kernel killed a process of executor {executor} at its limit of {limit}")
    }
}
