//! The seam between the life of a task and what moves its files, so that the run loop can be tested without
//! child processes. The one real implementation is [`Stager`].

use async_trait::async_trait;

use super::plan::Plan;
use crate::attempt_dir::AttemptDir;
use crate::stage::{StageError, StagedOut, Stager};

/// Moves the files of a task. Everything here may be asked again after a kill in the middle, and a future
/// that is dropped takes its child process with it.
#[async_trait]
pub trait Staging: Send + Sync + 'static {
    /// Makes the directories of a task and puts its inputs in place.
    async fn stage_in(&self, plan: &Plan) -> Result<(), StageError>;

    /// Copies what an executor reads as standard input to where only root can change it.
    async fn capture_stdin(&self, plan: &Plan, executor: u32) -> Result<(), StageError>;

    /// Copies the captured streams of an executor to where the task wants them.
    async fn install_streams(&self, plan: &Plan, executor: u32) -> Result<(), StageError>;

    /// Puts the outputs in place. No process of the task may be alive.
    async fn stage_out(&self, plan: &Plan) -> Result<StagedOut, StageError>;

    /// Undoes what staging mounted and deletes what the task could write.
    async fn release(&self, dir: &AttemptDir) -> Result<(), StageError>;
}

#[async_trait]
impl Staging for Stager {
    async fn stage_in(&self, plan: &Plan) -> Result<(), StageError> {
        Stager::stage_in(self, plan).await
    }

    async fn capture_stdin(&self, plan: &Plan, executor: u32) -> Result<(), StageError> {
        Stager::capture_stdin(self, plan, executor).await
    }

    async fn install_streams(&self, plan: &Plan, executor: u32) -> Result<(), StageError> {
        Stager::install_streams(self, plan, executor).await
    }

    async fn stage_out(&self, plan: &Plan) -> Result<StagedOut, StageError> {
        Stager::stage_out(self, plan).await
    }

    async fn release(&self, dir: &AttemptDir) -> Result<(), StageError> {
        Stager::release(self, dir).await
    }
}
