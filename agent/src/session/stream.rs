//! One session: hello and inventory out, welcome in, then heartbeats, reports and commands until something
//! breaks. It translates and keeps time; it remembers nothing that its successor would need.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use teamster_proto::agent::v1 as wire;
use teamster_proto::agent::v1::agent_message::Body as Out;
use teamster_proto::agent::v1::agent_service_client::AgentServiceClient;
use teamster_proto::agent::v1::coordinator_message::Body as In;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use super::{Ended, Session, batches, cluster, convert, other_versions, versions};
use crate::assignment::{Held, Report, Stage};
use crate::boot::BootInstant;
use crate::supervisor::{Event, REPORTS_MAX};

/// The version of the protocol that this agent speaks.
pub(super) const PROTOCOL: u32 = 1;
/// How long reaching the coordinator, and being welcomed, may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const WELCOME_DEADLINE: Duration = Duration::from_secs(30);
/// HTTP/2 pings: a dead link is found even when heartbeats are slow.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_DEADLINE: Duration = Duration::from_secs(10);
/// A session without an acknowledged heartbeat for this many intervals is over.
const SILENT_INTERVALS: u32 = 4;
/// What a coordinator may ask for as an interval, so that neither it nor we drown or fall asleep.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));
/// Messages that may wait for the socket; a report waits in the supervisor's channel instead.
const OUTGOING_MAX: usize = 8;
/// Reports taken at a time.
const REPORTS_AT_A_TIME: usize = 256;
/// Assignments carry files' contents, and commands come in batches.
const INCOMING_BYTES_MAX: usize = 64 << 20;

/// One open session.
pub(super) struct Stream<'a> {
    session: &'a Session,
    incoming: Streaming<wire::CoordinatorMessage>,
    outgoing: mpsc::Sender<wire::AgentMessage>,
    reports: mpsc::Receiver<Report>,
    interval: Duration,
    /// Heartbeats on their way, and when they were sent.
    unanswered: VecDeque<(u64, BootInstant)>,
    number: u64,
    /// What runs containers here, as it was last told.
    versions: BTreeMap<String, String>,
    /// Whether the next heartbeat has to tell it.
    has_news: bool,
    /// When the message was sent that was answered last.
    heard: BootInstant,
    silent_until: Instant,
}

pub(super) fn down(reason: impl std::fmt::Display) -> Ended {
    Ended::Down(reason.to_string())
}

impl<'a> Stream<'a> {
    /// Dials and says hello; returns when the coordinator has welcomed us.
    pub(super) async fn open(session: &'a Session, memory: &mut cluster::Memory) -> Result<Self, Ended> {
        let (cluster_id, term) = memory.recall().map_err(Ended::Alarm)?;
        let channel = connect(&session.coordinator).await?;
        let versions = versions(session.identity.runtime.as_ref()).await;
        let hello = hello(session, cluster_id, term, &versions);
        let (sender, reports) = mpsc::channel(REPORTS_MAX);
        let held = attach(session, sender).await?;
        let (outgoing, more) = mpsc::channel(OUTGOING_MAX);
        let opening = opening(hello, held);
        let heard = BootInstant::now();
        let mut client = AgentServiceClient::new(channel).max_decoding_message_size(INCOMING_BYTES_MAX);
        let call = client.session(tokio_stream::iter(opening).chain(ReceiverStream::new(more)));
        let welcomed = async {
            let mut incoming = call.await.map_err(ended_by)?.into_inner();
            let message = incoming.message().await.map_err(ended_by)?;
            match message.and_then(|message| message.body) {
                Some(In::Welcome(welcome)) => Ok((incoming, welcome)),
                _ => Err(down("the coordinator did not welcome us")),
            }
        };
        let (incoming, welcome) = timeout(WELCOME_DEADLINE, welcomed)
            .await
            .map_err(|_| down("the coordinator does not answer our hello"))??;
        memory.meet(&welcome.cluster_id, welcome.term).map_err(Ended::Alarm)?;
        let interval =
            Duration::from_millis(welcome.heartbeat_interval_millis).clamp(INTERVALS.0, INTERVALS.1);
        Ok(Self {
            session,
            incoming,
            outgoing,
            reports,
            interval,
            unanswered: VecDeque::new(),
            number: 0,
            versions,
            has_news: false,
            heard,
            silent_until: Instant::now() + interval * SILENT_INTERVALS,
        })
    }

    /// Serves the session until it breaks.
    pub(super) async fn serve(mut self) -> Ended {
        let mut heartbeat = tokio::time::interval(self.interval);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reports = Vec::new();
        let runtime = self.session.identity.runtime.clone();
        let mut look = std::pin::pin!(other_versions(runtime.clone(), self.versions.clone()));
        loop {
            // Every branch may be dropped at its await: a message, a report or a tick that was not taken is
            // still there the next time.
            let step = tokio::select! {
                message = self.incoming.message() => match message {
                    Ok(Some(message)) => self.take(message).await,
                    Ok(None) => Err(down("the coordinator ended the session")),
                    Err(status) => Err(ended_by(status)),
                },
                _ = heartbeat.tick() => self.send_heartbeat().await,
                count = self.reports.recv_many(&mut reports, REPORTS_AT_A_TIME) => match count {
                    0 => Err(down("reports came faster than they could be sent; beginning anew")),
                    _ => self.send_reports(std::mem::take(&mut reports)).await,
                },
                versions = &mut look => {
                    look.set(other_versions(runtime.clone(), versions.clone()));
                    self.versions = versions;
                    self.has_news = true;
                    Ok(())
                }
                () = tokio::time::sleep_until(self.silent_until) => {
                    Err(down(format!("no heartbeat was answered for {:?}", self.interval * SILENT_INTERVALS)))
                }
            };
            if let Err(ended) = step {
                return ended;
            }
        }
    }

    async fn take(&mut self, message: wire::CoordinatorMessage) -> Result<(), Ended> {
        match message.body {
            Some(In::HeartbeatAck(ack)) => self.acknowledged(ack.number).await,
            Some(In::Commands(commands)) => {
                for command in commands.commands {
                    self.command(command).await?;
                }
                Ok(())
            }
            // A second welcome, or something from a newer coordinator, changes nothing.
            Some(In::Welcome(_)) | None => Ok(()),
        }
    }

    async fn acknowledged(&mut self, number: u64) -> Result<(), Ended> {
        let mut sent = None;
        while let Some((_, at)) = self.unanswered.pop_front_if(|(waiting, _)| *waiting <= number) {
            sent = Some(at);
        }
        // An answer to what was never asked proves nothing.
        let Some(sent) = sent else { return Ok(()) };
        self.heard = sent;
        self.silent_until = Instant::now() + self.interval * SILENT_INTERVALS;
        self.tell(Event::Heard(sent)).await
    }

    async fn command(&mut self, command: wire::Command) -> Result<(), Ended> {
        match convert::command(command) {
            Ok(command) => self.tell(Event::Command { command, heard: self.heard }).await,
            Err(convert::Malformed { id: Some(id), reason }) => {
                tracing::error!(task = %id.task, attempt = id.attempt, reason, "an assignment makes no sense");
                let result = convert::refusal(&reason);
                self.send_reports(vec![Report::Ended(id, Box::new(result))]).await
            }
            Err(convert::Malformed { id: None, reason }) => {
                tracing::error!(reason, "a command makes no sense and names no task; ignored");
                Ok(())
            }
        }
    }

    async fn send_heartbeat(&mut self) -> Result<(), Ended> {
        self.number += 1;
        let storages = convert::offers(&self.session.offers.borrow());
        self.unanswered.push_back((self.number, BootInstant::now()));
        let closed = closed(self.session);
        let mut heartbeat = wire::Heartbeat { number: self.number, storages, closed, ..Default::default() };
        if std::mem::take(&mut self.has_news) {
            heartbeat.lacks = self.session.identity.lacks_with(&self.versions);
            heartbeat.versions = self.versions.clone().into_iter().collect();
        }
        self.send(Out::Heartbeat(heartbeat)).await
    }

    async fn send_reports(&self, reports: Vec<Report>) -> Result<(), Ended> {
        for message in batches::reports(reports.into_iter().map(convert::report).collect()) {
            if let Some(body) = message.body {
                self.send(body).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, body: Out) -> Result<(), Ended> {
        let message = wire::AgentMessage { body: Some(body) };
        match timeout(self.interval * SILENT_INTERVALS, self.outgoing.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(down("the coordinator ended the session")),
            Err(_) => Err(down("the coordinator does not take what we send")),
        }
    }

    async fn tell(&self, event: Event) -> Result<(), Ended> {
        self.session.supervisor.send(event).await.map_err(|_| down("the agent is ending"))
    }
}

pub(super) async fn connect(coordinator: &str) -> Result<Channel, Ended> {
    let endpoint = Endpoint::from_shared(format!("http://{coordinator}"))
        .map_err(|error| down(format!("'{coordinator}' is no address: {error}")))?
        .connect_timeout(CONNECT_DEADLINE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_DEADLINE)
        .keep_alive_while_idle(true);
    endpoint.connect().await.map_err(|error| down(format!("cannot connect: {}", chain(&error))))
}

fn hello(
    session: &Session,
    cluster_id: String,
    term: u64,
    versions: &BTreeMap<String, String>,
) -> wire::Hello {
    let identity = &session.identity;
    let storages = convert::offers(&session.offers.borrow());
    let lacks = identity.lacks_with(versions);
    wire::Hello {
        protocol: PROTOCOL,
        node_id: identity.node_id.clone(),
        boot_id: identity.boot_id.clone(),
        cluster_id,
        term,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        capacity: Some(convert::capacity(&identity.capacity)),
        storages,
        closed: closed(session),
        versions: versions.clone().into_iter().collect(),
        networks: identity.runtime.networks().iter().map(ToString::to_string).collect(),
        lacks,
    }
}

fn closed(session: &Session) -> String {
    session.closed.borrow().clone().unwrap_or_default()
}

async fn attach(session: &Session, reports: mpsc::Sender<Report>) -> Result<Vec<Held>, Ended> {
    let (inventory, held) = oneshot::channel();
    let attached = Event::Attached { reports, inventory };
    session.supervisor.send(attached).await.map_err(|_| down("the agent is ending"))?;
    held.await.map_err(|_| down("the agent is ending"))
}

/// Hello, the inventory, and what the inventory has no words for: which executor runs since when.
fn opening(hello: wire::Hello, held: Vec<Held>) -> Vec<wire::AgentMessage> {
    let progress = |held: &Held| match held {
        Held::Live(id, stage @ Stage::Running { .. }) => Some(convert::report(Report::Progress(*id, *stage))),
        Held::Live(..) | Held::Ended(..) => None,
    };
    let running = held.iter().filter_map(progress).collect();
    let mut messages = vec![wire::AgentMessage { body: Some(Out::Hello(hello)) }];
    messages.extend(batches::inventory(held.into_iter().map(convert::held).collect()));
    messages.extend(batches::reports(running));
    messages
}

/// What a status means: a refusal is the coordinator's word, all else is the weather.
pub(super) fn ended_by(status: Status) -> Ended {
    let reason = status.message().to_owned();
    match status.code() {
        Code::FailedPrecondition
        | Code::InvalidArgument
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::AlreadyExists
        | Code::Unimplemented
        | Code::ResourceExhausted => Ended::Refused(reason),
        _ => down(if reason.is_empty() { status.to_string() } else { reason }),
    }
}

/// tonic's own texts say little; what lies below them says what is wrong.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
