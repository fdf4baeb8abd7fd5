//! The way of live logs to the coordinator: a connection of its own beside the session, so that no flood of
//! bytes ever delays a heartbeat. It answers what it is asked and sends nothing else; losing it loses nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use teamster_proto::agent::v1 as wire;
use teamster_proto::agent::v1::agent_service_client::AgentServiceClient;
use teamster_proto::agent::v1::log_message::Body as Out;
use teamster_proto::agent::v1::log_request::Body as In;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::stream::{PROTOCOL, connect, down, ended_by};
use super::{Ended, Pauses, cluster};
use crate::assignment::AttemptId;
use crate::log_reader::{LogReader, Part, Stream, Wanted};

/// How long being welcomed, and handing over an answer, may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Answers that may wait for the socket: half a megabyte.
const OUTGOING_MAX: usize = 8;
/// Requests that may be open; the coordinator keeps to less.
const OPEN_MAX: usize = 1024;

/// Keeps a log stream with the coordinator.
pub struct Logs {
    /// Where the coordinator is: `host:port`.
    pub coordinator: String,
    /// Where `cluster.json` is kept.
    pub data_dir: PathBuf,
    /// The node's stable name.
    pub node_id: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Reads the logs.
    pub reader: Arc<LogReader>,
}

impl Logs {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut pauses = Pauses::default();
        loop {
            let mut welcomed = false;
            // Dropping a stream resets it, and with it go the reads that nobody waits for any more.
            let ended = tokio::select! {
                () = shutdown.cancelled() => return,
                ended = self.hold(&mut welcomed) => ended,
            };
            tracing::debug!(?ended, "log stream down; dialling again");
            if welcomed {
                pauses = Pauses::default();
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pauses.next()) => {}
            }
        }
    }

    async fn hold(&self, welcomed: &mut bool) -> Ended {
        match self.open().await {
            Ok((incoming, outgoing)) => {
                *welcomed = true;
                self.serve(incoming, outgoing).await
            }
            Err(ended) => ended,
        }
    }

    /// Dials and says hello; returns when our own coordinator has welcomed us.
    async fn open(&self) -> Result<(Streaming<wire::LogRequest>, mpsc::Sender<wire::LogMessage>), Ended> {
        let (cluster_id, term) = cluster::Memory::new(&self.data_dir).recall().map_err(Ended::Alarm)?;
        if cluster_id.is_empty() {
            return Err(down("this node belongs to no cluster yet; the session comes first"));
        }
        let channel = connect(&self.coordinator).await?;
        let (outgoing, messages) = mpsc::channel(OUTGOING_MAX);
        let hello = wire::Hello {
            protocol: PROTOCOL,
            node_id: self.node_id.clone(),
            boot_id: self.boot_id.clone(),
            cluster_id: cluster_id.clone(),
            term,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..wire::Hello::default()
        };
        send(&outgoing, Out::Hello(hello)).await?;
        let mut client = AgentServiceClient::new(channel);
        let call = client.logs(ReceiverStream::new(messages));
        let welcome = async {
            let mut incoming = call.await.map_err(ended_by)?.into_inner();
            let message = incoming.message().await.map_err(ended_by)?;
            match message.and_then(|message| message.body) {
                Some(In::Welcome(welcome)) => Ok((incoming, welcome)),
                _ => Err(down("the coordinator did not welcome us")),
            }
        };
        let answered = timeout(PATIENCE, welcome).await;
        let (incoming, welcome) = answered.map_err(|_| down("the coordinator does not answer"))??;
        if welcome.cluster_id != cluster_id || welcome.term < term {
            return Err(Ended::Alarm("this coordinator is not ours; it reads no logs".to_owned()));
        }
        Ok((incoming, outgoing))
    }

    async fn serve(
        &self,
        mut incoming: Streaming<wire::LogRequest>,
        outgoing: mpsc::Sender<wire::LogMessage>,
    ) -> Ended {
        let mut reads: JoinSet<Result<(), Ended>> = JoinSet::new();
        loop {
            // Neither branch loses anything when the other wins: a message or an end is there the next time.
            tokio::select! {
                message = incoming.message() => match message {
                    Ok(Some(message)) => {
                        // A second welcome, or something from a newer coordinator, changes nothing.
                        let Some(In::Read(read)) = message.body else { continue };
                        if reads.len() >= OPEN_MAX {
                            return down("the coordinator asks for too much at a time");
                        }
                        reads.spawn(answer(self.reader.clone(), read, outgoing.clone()));
                    }
                    Ok(None) => return down("the coordinator ended the log stream"),
                    Err(status) => return ended_by(status),
                },
                Some(ended) = reads.join_next() => match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(ended)) => return ended,
                    Err(error) => return down(error),
                },
            }
        }
    }
}

async fn answer(
    reader: Arc<LogReader>,
    read: wire::ReadLog,
    outgoing: mpsc::Sender<wire::LogMessage>,
) -> Result<(), Ended> {
    let number = read.number;
    let part = match wanted(&read) {
        Some(wanted) => reader.read(&wanted).await.unwrap_or_else(|error| {
            tracing::warn!(attempt = %wanted.id, %error, "a log cannot be read");
            None
        }),
        None => None,
    };
    let part = match part {
        Some(Part { data, size_bytes, has_ended }) => {
            let state = if has_ended { wire::LogState::Ended } else { wire::LogState::Open };
            wire::LogPart { number, state: state.into(), data, size_bytes }
        }
        None => wire::LogPart { number, state: wire::LogState::NotHere.into(), ..Default::default() },
    };
    send(&outgoing, Out::Part(part)).await
}

fn wanted(read: &wire::ReadLog) -> Option<Wanted> {
    let stream = match read.stream() {
        wire::LogStream::Stdout => Stream::Stdout,
        wire::LogStream::Stderr => Stream::Stderr,
        wire::LogStream::Unspecified => return None,
    };
    Some(Wanted {
        id: AttemptId { task: read.task_id.parse().ok()?, attempt: read.attempt },
        executor: read.executor,
        stream,
        offset: read.offset,
        bytes_max: read.bytes_max,
        wait: Duration::from_millis(read.wait_millis),
    })
}

async fn send(outgoing: &mpsc::Sender<wire::LogMessage>, body: Out) -> Result<(), Ended> {
    match timeout(PATIENCE, outgoing.send(wire::LogMessage { body: Some(body) })).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(down("the coordinator ended the log stream")),
        Err(_) => Err(down("the coordinator does not take what it asked for")),
    }
}
