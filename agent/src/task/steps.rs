//! The steps forward of an attempt, one per phase. Each may have been done already, wholly or in part, by an
//! agent that was killed; none starts what may have been started before.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use teamster_values::Reason;
use tokio::time::Instant;

use super::logs;
use super::plan::{self, Plan};
use super::policy::{self, Refusal};
use super::run::{Halt, Pauses, Run, pulls};
use crate::assignment::{ExecutorLog, Network, Outcome};
use crate::attempt::{Phase, RecordError};
use crate::failpoint;
use crate::runtime::{ContainerId, ContainerState, Exit, Image, RuntimeError};
use crate::stage::StageError;

/// How often outputs are tried to be put in place when this node, not the task, is at fault.
const STAGE_OUT_TRIES: u32 = 5;

/// How often a container is made that ends before its command has begun, as it does when containerd is killed in
/// the middle of the start. More than that is a fault of this node.
const MAKES_MAX: u32 = 3;

/// What shells say when a command is not there, or may not be executed.
const EXIT_NOT_FOUND: u32 = 127;
const EXIT_NOT_EXECUTABLE: u32 = 126;

impl Run {
    /// From [`Phase::Intended`]: everything that can fail before anything has run.
    pub(super) async fn prepare(&mut self) -> Result<(), Halt> {
        let plan = self.plan()?;
        let (id, limits) = (self.id(), self.attempt.assignment.limits);
        let runtime = &self.node.runtime;
        self.patiently(|| runtime.prepare_attempt(id, &limits)).await??;
        self.enclose_disk().await;
        let begun = Instant::now();
        let images = async { self.resolve_images().await.map(|images| (images, begun.elapsed())) };
        let staging = &self.node.staging;
        let inputs =
            async { staging.stage_in(&plan).await.map(|()| begun.elapsed()).map_err(Halt::from_inputs) };
        // Either may be dropped: the stager takes its child along, and looking up an image changes nothing.
        let both = self.unless_stopped(async { tokio::try_join!(images, inputs) }).await??;
        let ((images, pull_time), stage_in_time) = both;
        self.attempt.measured.prepared(&images, pull_time, stage_in_time);
        self.attempt.system_logs.extend(pulls(&images));
        self.images = images;
        self.enter(Phase::Created(0)).await
    }

    /// From [`Phase::Created`]: makes the container, to be started next.
    pub(super) async fn create(&mut self, executor: u32) -> Result<(), Halt> {
        // What an executor that may fail came to is no reason for the next one's end.
        self.attempt.reason = None;
        let plan = self.plan()?;
        let captured = self.unless_stopped(self.node.staging.capture_stdin(&plan, executor)).await?;
        captured.map_err(Halt::from_inputs)?;
        let dir = self.dir.clone();
        self.on_disk(move || dir.make_logs(executor))
            .await
            .map_err(|error| Halt::lost(format!("this node failed to {error}")))?;
        match self.make(executor).await? {
            Err(RuntimeError::CommandUnusable(reason)) => return self.unusable(executor, &reason).await,
            other => other?,
        }
        failpoint::pass("container-created");
        self.attempt.started_at = Some(Timestamp::now());
        self.enter(Phase::Started(executor)).await
    }

    async fn make(&mut self, executor: u32) -> Result<Result<(), RuntimeError>, Halt> {
        let plan = self.plan()?;
        if self.images.is_empty() {
            self.images = self.resolve_images().await?;
        }
        let image = self.images.get(executor as usize).cloned();
        let image = image
            .ok_or_else(|| Halt::refused(Reason::TaskRefused, format!("there is no executor {executor}")))?;
        let spec = plan.container(executor, image, self.node.config.log_max.0);
        self.make_container(&spec).await
    }

    /// From [`Phase::Started`]: starts the container unless it was, and waits for its end.
    pub(super) async fn run_executor(&mut self, executor: u32) -> Result<(), Halt> {
        let id = ContainerId { attempt: self.id(), executor };
        let runtime = self.node.runtime.clone();
        let start = if self.adopted {
            match self.patiently(|| runtime.state(id)).await?? {
                ContainerState::Created => true,
                ContainerState::Missing | ContainerState::Running | ContainerState::Exited(_) => false,
            }
        } else {
            true
        };
        if start && !self.start(id).await? {
            return Ok(());
        }
        let mut makes = 1;
        loop {
            match self.unless_stopped(runtime.wait(id)).await? {
                Ok(exit) => return self.executor_ended(executor, exit).await,
                Err(RuntimeError::CommandUnusable(reason)) => return self.unusable(executor, &reason).await,
                Err(RuntimeError::NotFound(_)) => return Err(exit_unknown(executor)),
                Err(error @ RuntimeError::NeverBegan(_)) => {
                    self.never_ran = executor == 0;
                    if makes == MAKES_MAX {
                        return Err(error.into());
                    }
                    tracing::warn!(attempt = %self.id(), executor, %error, "a container that ran nothing is made again");
                }
                Err(error) => return Err(error.into()),
            }
            makes += 1;
            self.patiently(|| runtime.remove(id)).await??;
            self.make(executor).await??;
            self.never_ran = false;
            if !self.start(id).await? {
                return Ok(());
            }
        }
    }

    /// Whether there is an end to wait for now; if not, the executor is over already.
    async fn start(&mut self, id: ContainerId) -> Result<bool, Halt> {
        let runtime = self.node.runtime.clone();
        match self.patiently(|| runtime.start(id)).await? {
            Ok(()) => {
                failpoint::pass("container-started");
                let task = self.id();
                tracing::info!(task = %task.task, attempt = task.attempt, executor = id.executor, "executor started");
                Ok(true)
            }
            Err(RuntimeError::CommandUnusable(reason)) => {
                self.unusable(id.executor, &reason).await.map(|()| false)
            }
            Err(error) => {
                self.see_whether_it_ran(id).await;
                Err(error.into())
            }
        }
    }

    /// After a start that failed: if the runtime still has the container as it was made, nothing has run.
    pub(super) async fn see_whether_it_ran(&mut self, id: ContainerId) {
        let state = self.node.runtime.state(id).await;
        self.never_ran = id.executor == 0 && matches!(state, Ok(ContainerState::Created));
    }

    /// The command cannot be executed: the user's error, kept as a shell would tell it.
    async fn unusable(&mut self, executor: u32, reason: &str) -> Result<(), Halt> {
        let denied = reason.to_ascii_lowercase().contains("permission denied");
        let code = if denied { EXIT_NOT_EXECUTABLE } else { EXIT_NOT_FOUND };
        let line = format!("executor {executor}: cannot start the command: {reason}");
        self.attempt.system_logs.push(Reason::CommandUnusable.line(line));
        self.attempt.reason = Some(Reason::CommandUnusable);
        let at = Timestamp::now();
        self.attempt.started_at.get_or_insert(at);
        self.executor_ended(executor, Exit { code, at, out_of_memory: false, usage: None }).await
    }

    pub(super) async fn executor_ended(&mut self, executor: u32, exit: Exit) -> Result<(), Halt> {
        self.note_disk(executor, exit.code);
        self.armed = None;
        failpoint::pass("executor-ended");
        self.keep_exit(executor, exit);
        let id = self.id();
        tracing::info!(task = %id.task, attempt = id.attempt, executor, exit_code = exit.code, "executor ended");
        self.enter(Phase::Ended(executor)).await
    }

    /// Adds the end of an executor to the record in memory, without what it wrote: its last bytes may still
    /// be on their way until the container is removed.
    pub(super) fn keep_exit(&mut self, executor: u32, exit: Exit) {
        self.note_limits(executor, &exit);
        let start_time = self.attempt.started_at.unwrap_or(self.attempt.taken_up);
        self.attempt.executors.push(ExecutorLog {
            exit_code: i32::try_from(exit.code).unwrap_or(i32::MAX),
            start_time,
            end_time: exit.at.max(start_time),
            stdout_tail: String::new(),
            stderr_tail: String::new(),
            out_of_memory: exit.out_of_memory,
            stdout_bytes: 0,
            stderr_bytes: 0,
        });
        self.attempt.measured.used(exit.usage);
    }

    /// Adds what the executor that ended last wrote, once its container is removed and the streams are whole.
    pub(super) async fn keep_tails(&mut self) -> Result<(), Halt> {
        let Some(last) = self.attempt.executors.len().checked_sub(1) else { return Ok(()) };
        let limit = logs::tail_limit(self.attempt.assignment.executors.len());
        let executor = u32::try_from(last).unwrap_or(u32::MAX);
        let (stdout, stderr) = (self.dir.stdout(executor), self.dir.stderr(executor));
        let read = move |path: std::path::PathBuf| {
            logs::end_of(&path, limit).map_err(|source| RecordError::Io {
                action: "read the log",
                path,
                source,
            })
        };
        let (stdout, stderr) = self
            .on_disk(move || Ok((read(stdout)?, read(stderr)?)))
            .await
            .map_err(|error| Halt::lost(format!("this node failed to {error}")))?;
        let log = &mut self.attempt.executors[last];
        (log.stdout_tail, log.stdout_bytes) = (stdout.tail, stdout.size_bytes);
        (log.stderr_tail, log.stderr_bytes) = (stderr.tail, stderr.size_bytes);
        Ok(())
    }

    /// From [`Phase::Ended`]: sees the last bytes of its streams written, and takes those; then the next
    /// executor, or the outputs.
    pub(super) async fn after_executor(&mut self, executor: u32) -> Result<(), Halt> {
        let is_last = self.attempt.executors_are_done(executor);
        let id = ContainerId { attempt: self.id(), executor };
        if !is_last {
            let runtime = &self.node.runtime;
            self.patiently(|| runtime.remove(id)).await??;
        } else if self.has_link() || !self.node.runtime.is_over(id).await {
            // What the task left running could still change what is copied now, and its way out is one of few.
            self.kill_everything().await;
        }
        failpoint::pass("container-removed");
        let plan = self.plan()?;
        let installed = self.unless_stopped(self.node.staging.install_streams(&plan, executor)).await;
        self.keep_tails().await?;
        self.see_streams_are_whole(executor)?;
        match installed? {
            Ok(()) => {}
            // The failure of the command itself is what the user must hear of.
            Err(StageError::Task(reason) | StageError::Missing(reason)) if self.has_failed() => {
                self.attempt.system_logs.push(format!("warning: {reason}"));
            }
            Err(error) => return Err(Halt::from_outputs(error)),
        }
        if is_last { self.finalize().await } else { self.enter(Phase::Created(executor + 1)).await }
    }

    fn has_link(&self) -> bool {
        self.attempt.assignment.network == Some(Network::Egress)
    }

    /// A stream that the task names a file for is an output, and must not lack a byte.
    fn see_streams_are_whole(&mut self, executor: u32) -> Result<(), Halt> {
        let Some(spec) = self.attempt.assignment.executors.get(executor as usize) else { return Ok(()) };
        let lost = logs::lost_bytes(&self.dir.keeper_record(executor));
        let streams = [("stdout", spec.stdout.is_some()), ("stderr", spec.stderr.is_some())];
        for ((name, is_output), lost) in streams.into_iter().zip(lost).filter(|(_, lost)| *lost > 0) {
            let what =
                format!("{lost} bytes of {name} of executor {executor} are lost: no space left on this node");
            if is_output && !self.has_failed() {
                return Err(Halt::lost(what));
            }
            self.attempt.system_logs.push(format!("warning: {what}"));
        }
        Ok(())
    }

    async fn finalize(&mut self) -> Result<(), Halt> {
        let failed = self.has_failed();
        let begun = Instant::now();
        let staged = self.stage_out().await?;
        self.attempt.measured.staged_out(begun.elapsed());
        failpoint::pass("outputs-staged");
        let (outcome, outputs) = match staged {
            Ok(staged) => {
                let warnings = staged.warnings.into_iter().map(|warning| format!("warning: {warning}"));
                self.attempt.system_logs.extend(warnings);
                (Outcome::Complete, staged.files)
            }
            Err(error) if failed => {
                let reason = error.to_string();
                self.attempt.system_logs.push(format!("warning: {reason}"));
                (Outcome::ExecutorError, Vec::new())
            }
            Err(error) => return Err(Halt::from_outputs(error)),
        };
        self.conclude(if failed { Outcome::ExecutorError } else { outcome }, outputs).await;
        Ok(())
    }

    async fn stage_out(&mut self) -> Result<Result<crate::stage::StagedOut, StageError>, Halt> {
        let plan = self.plan()?;
        let mut pauses = Pauses::new();
        for _ in 1..STAGE_OUT_TRIES {
            match self.unless_stopped(self.node.staging.stage_out(&plan)).await? {
                Err(StageError::Node(reason)) => {
                    tracing::warn!(attempt = %self.id(), reason, "outputs are not in place; trying again");
                    self.unless_stopped(tokio::time::sleep(pauses.next())).await?;
                }
                decided => return Ok(decided),
            }
        }
        self.unless_stopped(self.node.staging.stage_out(&plan)).await
    }

    /// Whether the executor that ended last has failed the task.
    fn has_failed(&self) -> bool {
        let may_fail = |index: usize| {
            self.attempt.assignment.executors.get(index).is_some_and(|executor| executor.ignore_error)
        };
        let last = self.attempt.executors.len().saturating_sub(1);
        self.attempt.executors.last().is_some_and(|log| log.exit_code != 0 && !may_fail(last))
    }

    pub(super) fn plan(&mut self) -> Result<Arc<Plan>, Halt> {
        if let Some(plan) = &self.plan {
            return Ok(plan.clone());
        }
        let (assignment, config) = (&self.attempt.assignment, &self.node.config);
        let checked = policy::check(assignment, &config.sandbox, &config.network, &self.node.capacity);
        checked.or_else(|refusal| match refusal {
            Refusal::Wrong(_) => Err(Halt::refused(Reason::TaskRefused, refusal.to_string())),
            // What was taken up goes on, even if the agent now offers less than it did.
            Refusal::TooLarge(_) | Refusal::NotAllowed(_) if self.attempt.started() => Ok(()),
            Refusal::TooLarge(_) | Refusal::NotAllowed(_) => Err(Halt::lost(refusal.to_string())),
        })?;
        let plan = plan::plan(assignment, &config.sandbox, &config.storage, &self.dir)
            .map_err(|error| Halt::refused(Reason::TaskRefused, format!("the task cannot run: {error}")))?;
        let plan = Arc::new(plan);
        self.plan = Some(plan.clone());
        Ok(plan)
    }

    /// The images of all executors, so that one that is missing is found before anything has run.
    async fn resolve_images(&self) -> Result<Vec<Image>, Halt> {
        let mut known = BTreeMap::new();
        let mut images = Vec::new();
        for executor in &self.attempt.assignment.executors {
            let reference = executor.image.as_str();
            if !known.contains_key(reference) {
                let image = self.patiently(|| self.node.runtime.image(reference));
                let image = self.telling_of(reference, image).await??;
                known.insert(reference, image);
            }
            images.push(known[reference].clone());
        }
        Ok(images)
    }
}

/// A lost shim, a lost container: what became of the command cannot be known.
fn exit_unknown(executor: u32) -> Halt {
    Halt::lost(format!("executor {executor} is gone from this node and its exit code with it"))
}
