//! What has become of a container: its state now, and its end whenever that comes. A task may run for days
//! and containerd be killed and upgraded meanwhile, so an outage is never taken for an answer.

use std::time::{Duration, Instant};

use containerd_client::services::v1::{GetRequest, WaitRequest};
use jiff::Timestamp;
use tonic::Code;

use super::Containerd;
use super::link::{QUICK, call, failure, or_missing};
use crate::runtime::{ContainerId, ContainerState, Exit, RuntimeError, cgroup};

/// One `Wait` call is given up and asked again after this long, so that an event which containerd lost
/// cannot hang a task for ever.
const WAIT_SLICE: Duration = Duration::from_secs(300);

/// First and longest pause between tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// How often containerd may answer with an error that is no outage before we believe it.
const REFUSALS_MAX: u32 = 10;

/// The states of `containerd.v1.types.Status`.
pub(super) mod status {
    pub(in super::super) const CREATED: i32 = 1;
    pub(super) const RUNNING: i32 = 2;
    pub(super) const STOPPED: i32 = 3;
    pub(super) const PAUSED: i32 = 4;
    pub(super) const PAUSING: i32 = 5;
}

impl Containerd {
    /// A container without a task counts as missing: it never ran, or what ran is lost.
    pub(super) async fn task_state(&self, id: ContainerId) -> Result<ContainerState, RuntimeError> {
        let request = GetRequest { container_id: id.to_string(), exec_id: String::new() };
        let answer = or_missing(self.link.client().tasks().get(call(request, QUICK)).await)
            .map_err(|status| failure("ask for the task", &status))?;
        let Some(process) = answer.and_then(|answer| answer.into_inner().process) else {
            return Ok(ContainerState::Missing);
        };
        match process.status {
            status::CREATED => Ok(ContainerState::Created),
            status::RUNNING | status::PAUSED | status::PAUSING => Ok(ContainerState::Running),
            status::STOPPED => Ok(ContainerState::Exited(exit(id, process.exit_status, process.exited_at))),
            other => Err(RuntimeError::Failed {
                action: "ask for the task".to_owned(),
                reason: format!("containerd does not know its state ({other})"),
            }),
        }
    }

    pub(super) async fn wait_for_end(&self, id: ContainerId) -> Result<Exit, RuntimeError> {
        let mut pause = PAUSES.0;
        let mut refusals = 0;
        loop {
            let asked = Instant::now();
            let request = WaitRequest { container_id: id.to_string(), exec_id: String::new() };
            match self.link.client().tasks().wait(call(request, WAIT_SLICE)).await {
                // These two are also what containerd makes up for a shim that died: it must say it twice.
                Ok(answer) if !matches!(answer.get_ref().exit_status, 137 | 255) => {
                    let answer = answer.into_inner();
                    return Ok(exit(id, answer.exit_status, answer.exited_at));
                }
                Ok(_) => {}
                Err(status) if status.code() == Code::NotFound => {}
                Err(status) => tracing::debug!(container = %id, %status, "waiting was interrupted"),
            }
            match self.task_state(id).await {
                Ok(ContainerState::Exited(exit)) => return Ok(exit),
                Ok(ContainerState::Missing) => return Err(RuntimeError::NotFound(id)),
                Ok(ContainerState::Created | ContainerState::Running) => refusals = 0,
                Err(RuntimeError::Unavailable(_)) => {}
                Err(error) => {
                    refusals += 1;
                    if refusals > REFUSALS_MAX {
                        return Err(error);
                    }
                }
            }
            if asked.elapsed() > PAUSES.1 {
                pause = PAUSES.0;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

/// The cgroup's own counts say whether it was memory, and what was used; they are there until the task is
/// deleted.
fn exit(id: ContainerId, code: u32, at: Option<prost_types::Timestamp>) -> Exit {
    let at = at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok()).unwrap_or_else(Timestamp::now);
    Exit { code, at, out_of_memory: cgroup::has_oom_kill(id), usage: cgroup::usage(id) }
}
