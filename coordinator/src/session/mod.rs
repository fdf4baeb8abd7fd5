//! Agents: one session per connected agent, on one stream. A session translates and keeps time; it decides
//! nothing and remembers nothing, so that losing it loses nothing.

mod convert;
mod gate;
mod logs;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use teamster_proto::agent::v1 as wire;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::controller::Handle;
use crate::listen::Guest;
use crate::listen::http2::{self, Admission, Limits};
use crate::listen::slots::AGENTS_MAX;
use crate::log_hub::LogHub;
use crate::parameters::TaskPolicy;

/// Largest message that an agent may send: an inventory chunk or a batch of results with their log tails.
const INCOMING_BYTES_MAX: usize = 16 << 20;
/// Messages to an agent that may wait for its socket.
const OUTGOING_MESSAGES_MAX: usize = 64;
/// An agent has one session and one call for logs, each on a connection of its own; more only while it comes back.
const CALLS_PER_CONNECTION_MAX: u32 = 4;
/// What an agent may send of one call, and of all its calls together, before somebody reads it.
const CALL_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 512 << 10;
/// Connections that have not said a hello that was taken. With the windows above and what the gate lets through, each
/// may hold somewhat less than a megabyte, so all of them less than a gigabyte.
const NEWCOMERS_MAX: usize = 1024;
/// Agents call, and say their hello, as soon as they are connected.
const HELLO_TIMEOUT: Duration = Duration::from_secs(75);
/// How long answers that are on their way may take after the sessions are over.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

/// What all sessions share.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    /// Where events go.
    pub(crate) controller: Handle,
    /// The cluster that agents must belong to.
    pub(crate) cluster_id: String,
    /// How often its database was opened; agents obey no lower one.
    pub(crate) term: u64,
    /// Where readers of live logs wait.
    pub(crate) log_hub: Arc<LogHub>,
    /// Time between heartbeats.
    pub(crate) heartbeat: Duration,
    /// What agents are told of every task alike.
    pub(crate) policy: TaskPolicy,
}

struct Service {
    sessions: Sessions,
    /// Owns every session's task.
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

/// Serves agents until `shutdown`; returns when the last session is over.
pub(crate) async fn serve(listener: TcpListener, sessions: Sessions, shutdown: CancellationToken) {
    serve_with(HELLO_TIMEOUT, listener, sessions, shutdown).await;
}

async fn serve_with(
    hello_timeout: Duration,
    listener: TcpListener,
    sessions: Sessions,
    shutdown: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let keepalive = sessions.heartbeat;
    let service = Service { sessions, tracker: tracker.clone(), shutdown: shutdown.clone() };
    let server = wire::agent_service_server::AgentServiceServer::new(service)
        .max_decoding_message_size(INCOMING_BYTES_MAX);
    let limits = Limits {
        connections_max: AGENTS_MAX,
        admission: Admission::ByService { newcomers_max: NEWCOMERS_MAX },
        calls_max: CALLS_PER_CONNECTION_MAX,
        call_window_bytes: CALL_WINDOW_BYTES,
        connection_window_bytes: CONNECTION_WINDOW_BYTES,
        keepalive_interval: keepalive,
        keepalive_timeout: 2 * keepalive,
        first_call: hello_timeout,
        finish: FINISH_TIMEOUT,
    };
    let router = Routes::new(server).prepare().into_axum_router();
    let router = router.layer(axum::middleware::map_request(async |request| gate::bounded(request)));
    let sessions_end = async {
        tracker.close();
        tracker.wait().await;
    };
    http2::serve(listener, router, limits, shutdown, sessions_end).await;
}

#[tonic::async_trait]
impl wire::agent_service_server::AgentService for Service {
    type SessionStream = ReceiverStream<Result<wire::CoordinatorMessage, Status>>;
    type LogsStream = ReceiverStream<Result<wire::LogRequest, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outgoing, messages) = mpsc::channel(OUTGOING_MESSAGES_MAX);
        let guest = guest(&request)?;
        let session = stream::Stream::new(self.sessions.clone(), guest, request.into_inner(), outgoing);
        // The answer begins at once, so that an agent which waits for it before it speaks is served too.
        self.tracker.spawn(session.drive(self.shutdown.clone()));
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn logs(
        &self,
        request: Request<Streaming<wire::LogMessage>>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let (outgoing, requests) = mpsc::channel(OUTGOING_MESSAGES_MAX);
        let (sessions, guest) = (self.sessions.clone(), guest(&request)?);
        let logs = logs::Logs { sessions, guest, incoming: request.into_inner(), outgoing };
        self.tracker.spawn(logs.drive(self.shutdown.clone()));
        Ok(Response::new(ReceiverStream::new(requests)))
    }
}

/// Who calls, as the listener knows them.
fn guest<T>(request: &Request<T>) -> Result<Guest, Status> {
    let guest = request.extensions().get::<Guest>().cloned();
    guest.ok_or_else(|| Status::internal("the call did not come through the listener"))
}

/// Whether an agent may have a session; who may is no stranger from then on. The one gate: certificates and tokens are checked here when they
/// come; today every agent that reaches the port, speaks our protocol and belongs to our cluster may.
fn authenticate(hello: &wire::Hello, sessions: &Sessions, guest: &Guest) -> Result<(), Status> {
    if hello.protocol != 1 {
        return Err(Status::failed_precondition(format!(
            "the coordinator speaks protocol 1, the agent protocol {}: upgrade the older of the two",
            hello.protocol
        )));
    }
    if hello.node_id.is_empty() || hello.node_id.len() > 253 || hello.boot_id.is_empty() {
        return Err(Status::invalid_argument("hello needs a node_id of 1 to 253 bytes and a boot_id"));
    }
    if !hello.cluster_id.is_empty() && hello.cluster_id != sessions.cluster_id {
        return Err(Status::failed_precondition(format!(
            "the agent belongs to cluster {}, this is {}; if that is meant, remove cluster.json from the \
             agent's data directory once its tasks have ended",
            hello.cluster_id, sessions.cluster_id
        )));
    }
    if hello.term > sessions.term {
        return Err(Status::failed_precondition(format!(
            "the agent has seen term {}, this coordinator is in term {}: its database is an old copy",
            hello.term, sessions.term
        )));
    }
    guest.admit();
    Ok(())
}

#[cfg(test)]
mod tests;
