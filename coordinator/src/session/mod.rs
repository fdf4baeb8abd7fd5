//! Agents: one session per connected agent, on one stream. A session translates and keeps time; it decides
//! nothing and remembers nothing, so that losing it loses nothing.

mod convert;
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
use crate::listen::http2::{self, Limits};
use crate::listen::slots::AGENTS_MAX;
use crate::log_hub::LogHub;
use crate::parameters::TaskPolicy;

/// Largest message that an agent may send: an inventory chunk or a batch of results with their log tails.
const INCOMING_BYTES_MAX: usize = 16 << 20;
/// Messages to an agent that may wait for its socket.
const OUTGOING_MESSAGES_MAX: usize = 64;
/// An agent has one session and one call for logs; more of them only while it comes back.
const CALLS_PER_CONNECTION_MAX: u32 = 16;
/// What an agent may send of one call, and of all its calls together, before somebody reads it.
const CALL_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 512 << 10;
/// Agents call as soon as they are connected.
const FIRST_CALL_TIMEOUT: Duration = Duration::from_secs(75);
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
    let tracker = TaskTracker::new();
    let keepalive = sessions.heartbeat;
    let service = Service { sessions, tracker: tracker.clone(), shutdown: shutdown.clone() };
    let server = wire::agent_service_server::AgentServiceServer::new(service)
        .max_decoding_message_size(INCOMING_BYTES_MAX);
    let limits = Limits {
        connections_max: AGENTS_MAX,
        calls_max: CALLS_PER_CONNECTION_MAX,
        call_window_bytes: CALL_WINDOW_BYTES,
        connection_window_bytes: CONNECTION_WINDOW_BYTES,
        keepalive_interval: keepalive,
        keepalive_timeout: 2 * keepalive,
        first_call: FIRST_CALL_TIMEOUT,
        finish: FINISH_TIMEOUT,
    };
    let router = Routes::new(server).prepare().into_axum_router();
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
        let session = stream::Stream::new(self.sessions.clone(), request.into_inner(), outgoing);
        // The answer begins at once, so that an agent which waits for it before it speaks is served too.
        self.tracker.spawn(session.drive(self.shutdown.clone()));
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn logs(
        &self,
        request: Request<Streaming<wire::LogMessage>>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let (outgoing, requests) = mpsc::channel(OUTGOING_MESSAGES_MAX);
        let logs = logs::Logs { sessions: self.sessions.clone(), incoming: request.into_inner(), outgoing };
        self.tracker.spawn(logs.drive(self.shutdown.clone()));
        Ok(Response::new(ReceiverStream::new(requests)))
    }
}

/// Whether an agent may have a session. The one gate: certificates and tokens are checked here when they
/// come; today every agent that reaches the port, speaks our protocol and belongs to our cluster may.
fn authenticate(hello: &wire::Hello, sessions: &Sessions) -> Result<(), Status> {
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
    Ok(())
}
