//! Inputs in, outputs out. This is the parent's side: it makes the attempt's private directories, starts the
//! staging child for everything that touches files of a task or of shared storage, and cleans up. The agent,
//! which is root, never opens, links, changes the owner of or deletes anything *by path* inside what a task
//! can write; the child does such work as the task's user, inside the task's own mount tree.
//!
//! One step runs in up to two processes: the outer one (`entry`) starts as root, pins directories and
//! unshares; the inner one (`view`) sees only what the task sees and is the task's user.

mod copy;
mod entry;
mod inputs;
mod matches;
mod outputs;
mod pin;
mod remove;
mod scratch;
mod view;
mod work;

use std::path::PathBuf;
use std::time::Duration;

use crate::attempt_dir::AttemptDir;
use crate::child::{self, ChildError};

pub use entry::main;
pub(crate) use work::{Direction, Directory, InputFrom, InputWork, Mount, OutputWork, Pin, ScratchDir};
pub use work::{Plan, StageError, StagedOut};
use work::{Request, Stream, Work};

/// How long a staging child may go without a sign of life. It gives one at least every
/// [`copy::STEP_BYTES`], so only a storage that does not answer is silent for so long.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// Stages for attempts on this node.
#[derive(Debug, Clone)]
pub struct Stager {
    program: PathBuf,
}

impl Stager {
    /// `program` is started again, with the argument `stage`, for each child.
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// Makes the private directories, pins directories of shared storage and places the inputs. It may be
    /// done again after a kill, as long as no executor has been started.
    pub async fn stage_in(&self, plan: &Plan) -> Result<(), StageError> {
        let (dir, identity, directories) = (plan.dir.clone(), plan.identity, plan.scratch.clone());
        let pins = plan.pins.clone();
        let pins = blocking(move || scratch::prepare(&dir, identity, &directories, pins)).await?;
        let idle = plan.inputs.is_empty() && plan.directories.is_empty();
        if idle && pins.is_empty() {
            return Ok(());
        }
        let work = Work::In { directories: plan.directories.clone(), inputs: plan.inputs.clone() };
        self.call(plan, pins, (!idle).then_some(work)).await.map(drop)
    }

    /// Copies what the executor reads from standard input to where the runtime finds it. Nothing to do when
    /// it names no such file.
    pub async fn capture_stdin(&self, plan: &Plan, executor: u32) -> Result<(), StageError> {
        let streams = streams(plan, executor, Direction::Capture);
        self.copy_streams(plan, streams).await
    }

    /// Puts what the executor wrote to its standard streams where it named files for them, in place of
    /// whatever is there. Nothing to do when it names none. All its processes must be dead.
    pub async fn install_streams(&self, plan: &Plan, executor: u32) -> Result<(), StageError> {
        let streams = streams(plan, executor, Direction::Install);
        self.copy_streams(plan, streams).await
    }

    /// Puts the outputs in place. All processes of the task must be dead.
    pub async fn stage_out(&self, plan: &Plan) -> Result<StagedOut, StageError> {
        if plan.outputs.is_empty() {
            return Ok(StagedOut::default());
        }
        self.call(plan, Vec::new(), Some(Work::Out(plan.outputs.clone()))).await
    }

    /// Detaches the pinned directories and deletes scratch, keeping the record and the logs. It may be done
    /// again, and needs nothing but the directory. All processes of the task must be dead and its containers
    /// removed.
    pub async fn release(&self, dir: &AttemptDir) -> Result<(), StageError> {
        let dir = dir.clone();
        blocking(move || scratch::release(&dir)).await
    }

    async fn copy_streams(&self, plan: &Plan, streams: Vec<Stream>) -> Result<(), StageError> {
        if streams.is_empty() {
            return Ok(());
        }
        self.call(plan, Vec::new(), Some(Work::Streams(streams))).await.map(drop)
    }

    async fn call(&self, plan: &Plan, pins: Vec<Pin>, work: Option<Work>) -> Result<StagedOut, StageError> {
        let request = Request {
            lock: scratch::lock_file(&plan.dir),
            tag: plan.assignment.id.to_string(),
            identity: plan.identity,
            pins,
            cover: plan.dir.private(),
            mounts: plan.mounts.clone(),
            work,
        };
        let answer: Result<Result<StagedOut, StageError>, ChildError> =
            child::call(&self.program, &["stage"], &request, SILENCE_MAX).await;
        answer.unwrap_or_else(|error| Err(StageError::Node(format!("stage files: {error}"))))
    }
}

/// The streams of an executor that go this way.
fn streams(plan: &Plan, executor: u32, direction: Direction) -> Vec<Stream> {
    let Some(spec) = plan.assignment.executors.get(executor as usize) else {
        return Vec::new();
    };
    let dir = &plan.dir;
    let named = match direction {
        Direction::Capture => vec![("stdin", &spec.stdin, dir.stdin(executor))],
        Direction::Install => {
            vec![
                ("stdout", &spec.stdout, dir.stdout(executor)),
                ("stderr", &spec.stderr, dir.stderr(executor)),
            ]
        }
    };
    let stream = |(name, path, kept): (&str, &Option<_>, PathBuf)| {
        let path = path.clone()?;
        Some(Stream { field: format!("executors[{executor}].{name}"), path, kept, direction })
    };
    named.into_iter().filter_map(stream).collect()
}

/// Runs file work on the attempt's own root-only directories off the runtime's threads. They lie on a local
/// disk, so this ends.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StageError> + Send + 'static,
) -> Result<T, StageError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(StageError::Node(format!("stage files: {error}"))))
}
