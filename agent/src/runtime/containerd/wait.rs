//! What has become of a container: its state now, and its end whenever that comes. A task may run for days
//! and containerd be killed and upgraded meanwhile, so an outage is never taken for an answer.

use std::time::{Duration, Instant};

use containerd_client::services::v1::{GetRequest, WaitRequest};
use jiff::Timestamp;
use tonic::Code;

use super::Containerd;
use super::keeping::{self, Told};
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
    /// containerd's word for a shim that did not answer it in time.
    pub(super) const UNKNOWN: i32 = 0;
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
            status::STOPPED => {
                Ok(ContainerState::Exited(exit(id, process.exit_status, when(process.exited_at))))
            }
            // A shim that answers late, as on a node that is busy or has just seen containerd come back, is no
            // loss yet.
            status::UNKNOWN => Err(RuntimeError::Unavailable(format!("the shim of {id} does not answer"))),
            other => Err(RuntimeError::Failed {
                action: "ask for the task".to_owned(),
                reason: format!("containerd does not know its state ({other})"),
            }),
        }
    }

    /// The same, with what the keeper's record knows better.
    pub(super) async fn told_state(&self, id: ContainerId) -> Result<ContainerState, RuntimeError> {
        match self.task_state(id).await? {
            ContainerState::Missing => {
                self.await_keeper(id).await;
                Ok(match self.told(id).await? {
                    Told::Ended { status, at } => ContainerState::Exited(exit(id, status.code().into(), at)),
                    _ => ContainerState::Missing,
                })
            }
            ContainerState::Exited(exit) => Ok(ContainerState::Exited(match self.told(id).await? {
                Told::Ended { status, .. } => Exit { code: status.code().into(), ..exit },
                _ => exit,
            })),
            other => Ok(other),
        }
    }

    /// How a container ended whose end is certain; `known` is what containerd says of it.
    async fn end(&self, id: ContainerId, known: Option<Exit>) -> Result<Exit, RuntimeError> {
        if let Some(exit) = known {
            return keeping::corrected(id, self.told(id).await?, exit);
        }
        // containerd cleans up after a task that ended while it was down, and forgets how it ended.
        let is_certain = self.await_keeper(id).await;
        match self.told(id).await? {
            Told::Ended { status, at } => {
                let exit = exit(id, status.code().into(), at);
                keeping::corrected(id, Told::Ended { status, at }, exit)
            }
            Told::LeaseEnded => Err(RuntimeError::LeaseEnded(id)),
            // To a keeper that is still there, init may come yet.
            Told::NeverBegan if is_certain => Err(RuntimeError::NeverBegan(id)),
            Told::NeverBegan | Told::KeeperLost | Told::Nothing => Err(RuntimeError::NotFound(id)),
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
                    let exit = exit(id, answer.exit_status, when(answer.exited_at));
                    return self.end(id, Some(exit)).await;
                }
                Ok(_) => {}
                Err(status) if status.code() == Code::NotFound => {}
                Err(status) => tracing::debug!(container = %id, %status, "waiting was interrupted"),
            }
            match self.task_state(id).await {
                Ok(ContainerState::Exited(exit)) => return self.end(id, Some(exit)).await,
                Ok(ContainerState::Missing) => return self.end(id, None).await,
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
fn exit(id: ContainerId, code: u32, at: Option<Timestamp>) -> Exit {
    let at = at.unwrap_or_else(Timestamp::now);
    Exit { code, at, out_of_memory: cgroup::has_oom_kill(id), usage: cgroup::usage(id) }
}

fn when(at: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok())
}
