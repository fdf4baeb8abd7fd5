//! The wire's side of live logs: one stream per agent beside its session, on a connection of its own.
//! Requests out, parts in; who asks, and what for, is the hub's business.

use std::time::Duration;

use teamster_proto::agent::v1 as wire;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use wire::log_message::Body;
use wire::log_request::Body as Request;

use super::{Sessions, authenticate};
use crate::listen::Guest;
use crate::log_hub::{Asked, LogPart, LogStream, PART_BYTES_MAX, Unread};

/// How long an agent may take over its hello, and over taking a request.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Logs {
    pub(super) sessions: Sessions,
    pub(super) guest: Guest,
    pub(super) incoming: Streaming<wire::LogMessage>,
    pub(super) outgoing: mpsc::Sender<Result<wire::LogRequest, Status>>,
}

impl Logs {
    /// Runs the stream to its end, whichever side ends it.
    pub(super) async fn drive(mut self, shutdown: CancellationToken) {
        let ended = tokio::select! {
            // Nothing is lost by dropping it anywhere: readers are told, and ask again.
            () = shutdown.cancelled() => return,
            ended = self.serve() => ended,
        };
        if let Err(status) = ended {
            tracing::debug!(reason = status.message(), "log stream over");
            let _ = timeout(PATIENCE, self.outgoing.send(Err(status))).await;
        }
    }

    async fn serve(&mut self) -> Result<(), Status> {
        let hello = timeout(PATIENCE, self.incoming.message()).await;
        let hello = hello.map_err(|_| Status::deadline_exceeded("hello took too long"))??;
        let Some(Body::Hello(hello)) = hello.and_then(|message| message.body) else {
            return Err(Status::invalid_argument("a log stream begins with hello"));
        };
        authenticate(&hello, &self.sessions, &self.guest)?;
        self.send(Request::Welcome(wire::Welcome {
            cluster_id: self.sessions.cluster_id.clone(),
            term: self.sessions.term,
            heartbeat_interval_millis: self.sessions.heartbeat.as_millis() as u64,
        }))
        .await?;
        let (attached, mut asked) = self.sessions.log_hub.attach(&hello.node_id);
        loop {
            // Each branch either takes a whole message or none: a branch that loses the race loses nothing.
            tokio::select! {
                message = self.incoming.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    // A newer agent may say what we do not know yet.
                    let Some(Body::Part(part)) = message.body else { continue };
                    let number = part.number;
                    attached.answered(number, answer(part)?);
                }
                asked = asked.recv() => {
                    let Some(asked) = asked else {
                        return Err(Status::aborted("another log stream of this node took its place"));
                    };
                    self.send(request(asked)).await?;
                }
            }
        }
    }

    async fn send(&self, body: Request) -> Result<(), Status> {
        match timeout(PATIENCE, self.outgoing.send(Ok(wire::LogRequest { body: Some(body) }))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("the agent closed the log stream")),
            Err(_) => Err(Status::deadline_exceeded("the agent does not read")),
        }
    }
}

fn request(asked: Asked) -> Request {
    let Asked { number, read } = asked;
    let stream = match read.stream {
        LogStream::Stdout => wire::LogStream::Stdout,
        LogStream::Stderr => wire::LogStream::Stderr,
    };
    Request::Read(wire::ReadLog {
        number,
        task_id: read.task.to_string(),
        attempt: read.attempt,
        executor: read.executor,
        stream: stream.into(),
        offset: read.offset,
        bytes_max: read.bytes_max as u64,
        wait_millis: read.wait.as_millis() as u64,
    })
}

fn answer(part: wire::LogPart) -> Result<Result<LogPart, Unread>, Status> {
    if part.data.len() > PART_BYTES_MAX {
        return Err(Status::invalid_argument("a part of a log is larger than was asked for"));
    }
    let has_ended = match part.state() {
        wire::LogState::Open => false,
        wire::LogState::Ended => true,
        wire::LogState::NotHere | wire::LogState::Unspecified => return Ok(Err(Unread::NotHere)),
    };
    Ok(Ok(LogPart { data: part.data, size_bytes: part.size_bytes, has_ended }))
}
