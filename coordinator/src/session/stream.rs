//! The life of one session: opening, then messages both ways until one side falls silent.

use std::time::Duration;

use teamster_proto::agent::v1 as wire;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use wire::agent_message::Body;
use wire::coordinator_message::Body as Answer;

use super::{Sessions, authenticate, convert};
use crate::controller::{Event, HeldAttempt, SessionId, ToAgent};
use crate::listen::Guest;

/// Commands that may wait for the session; more than a node runs tasks, so only a stuck one fills it.
const COMMANDS_MAX: usize = 8192;
/// How long an agent may take over its hello and inventory, and over taking a message.
const PATIENCE: Duration = Duration::from_secs(30);
/// Commands go out in messages of about this size.
const MESSAGE_BYTES: usize = 1 << 20;
/// A session is given up after this many heartbeats in silence.
const SILENT_HEARTBEATS_MAX: u32 = 4;
/// Attempts that one agent may hold; more is a broken agent.
const HELD_MAX: usize = 100_000;

pub(super) struct Stream {
    sessions: Sessions,
    guest: Guest,
    incoming: Streaming<wire::AgentMessage>,
    outgoing: mpsc::Sender<Result<wire::CoordinatorMessage, Status>>,
}

impl Stream {
    pub(super) fn new(
        sessions: Sessions,
        guest: Guest,
        incoming: Streaming<wire::AgentMessage>,
        outgoing: mpsc::Sender<Result<wire::CoordinatorMessage, Status>>,
    ) -> Self {
        Self { sessions, guest, incoming, outgoing }
    }

    /// Runs the session to its end, whichever side ends it.
    pub(super) async fn drive(mut self, shutdown: CancellationToken) {
        let (outbox, commands) = mpsc::channel(COMMANDS_MAX);
        let opened = tokio::select! {
            // Dropping a half-read opening is safe: the agent begins anew with its next session.
            () = shutdown.cancelled() => return,
            opened = timeout(PATIENCE, self.open(outbox)) => opened,
        };
        let session = match opened {
            Ok(Ok(session)) => session,
            Ok(Err(status)) => return self.refuse(status).await,
            Err(_) => {
                return self.refuse(Status::deadline_exceeded("hello and inventory took too long")).await;
            }
        };
        if let Err(status) = self.exchange(session, commands, shutdown).await {
            tracing::info!(session = session.0, reason = status.message(), "session over");
        }
        // An error means that the coordinator is stopping: then there is nobody left to tell.
        let _ = self.sessions.controller.post(Event::AgentDisconnected { session }).await;
    }

    async fn refuse(self, status: Status) {
        tracing::warn!(reason = status.message(), "session refused");
        let _ = timeout(PATIENCE, self.outgoing.send(Err(status))).await;
    }

    async fn open(&mut self, outbox: mpsc::Sender<ToAgent>) -> Result<SessionId, Status> {
        let Some(Body::Hello(hello)) = self.next().await? else {
            return Err(Status::invalid_argument("a session begins with hello"));
        };
        authenticate(&hello, &self.sessions, &self.guest)?;
        let agent = Box::new(convert::hello(hello)?);
        let held = self.inventory().await?;
        let answer = self
            .sessions
            .controller
            .ask(|reply| Event::AgentConnected { agent, held, outbox, reply })
            .await
            .map_err(|stopped| Status::unavailable(stopped.to_string()))?;
        let session = answer.map_err(|refused| Status::already_exists(refused.to_string()))?;
        self.send(Answer::Welcome(wire::Welcome {
            cluster_id: self.sessions.cluster_id.clone(),
            term: self.sessions.term,
            heartbeat_interval_millis: self.sessions.heartbeat.as_millis() as u64,
        }))
        .await?;
        Ok(session)
    }

    async fn inventory(&mut self) -> Result<Vec<HeldAttempt>, Status> {
        let mut held = Vec::new();
        loop {
            let Some(Body::Inventory(chunk)) = self.next().await? else {
                return Err(Status::invalid_argument("after hello comes the inventory"));
            };
            for line in chunk.held {
                held.push(convert::held(line)?);
            }
            if held.len() > HELD_MAX {
                return Err(Status::resource_exhausted("the inventory is too long"));
            }
            if chunk.last {
                return Ok(held);
            }
        }
    }

    async fn exchange(
        &mut self,
        session: SessionId,
        mut commands: mpsc::Receiver<ToAgent>,
        shutdown: CancellationToken,
    ) -> Result<(), Status> {
        let silence_max = SILENT_HEARTBEATS_MAX * self.sessions.heartbeat;
        let mut deadline = tokio::time::Instant::now() + silence_max;
        loop {
            // Each branch either takes a whole message or none: a branch that loses the race loses nothing.
            tokio::select! {
                () = shutdown.cancelled() => return Err(Status::unavailable("the coordinator is stopping")),
                () = tokio::time::sleep_until(deadline) => {
                    return Err(Status::deadline_exceeded("nothing was heard for four heartbeats"));
                }
                message = self.incoming.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    deadline = tokio::time::Instant::now() + silence_max;
                    self.received(session, message).await?;
                }
                command = commands.recv() => {
                    let Some(command) = command else {
                        return Err(Status::aborted("the session was given up"));
                    };
                    self.command(command, &mut commands).await?;
                }
            }
        }
    }

    async fn received(&mut self, session: SessionId, message: wire::AgentMessage) -> Result<(), Status> {
        let event = match message.body {
            Some(Body::Heartbeat(heartbeat)) => {
                self.send(Answer::HeartbeatAck(wire::HeartbeatAck { number: heartbeat.number })).await?;
                Event::AgentOffer { session, offer: convert::offer(heartbeat) }
            }
            Some(Body::Reports(reports)) => {
                let reports = reports.reports.into_iter().map(convert::report);
                Event::AgentReported { session, reports: reports.collect::<Result<_, _>>()? }
            }
            Some(Body::Hello(_) | Body::Inventory(_)) => {
                return Err(Status::invalid_argument("hello and inventory come once, at the beginning"));
            }
            // A newer agent may say what we do not know yet.
            None => return Ok(()),
        };
        let posted = self.sessions.controller.post(event).await;
        posted.map_err(|stopped| Status::unavailable(stopped.to_string()))
    }

    /// Sends a command and what waits behind it, in messages of a fair size.
    async fn command(&mut self, first: ToAgent, more: &mut mpsc::Receiver<ToAgent>) -> Result<(), Status> {
        let mut next = Some(first);
        while let Some(command) = next.take() {
            let mut batch = vec![convert::command(command, &self.sessions.policy)];
            let mut size = prost::Message::encoded_len(&batch[0]);
            while size < MESSAGE_BYTES {
                let Ok(command) = more.try_recv() else { break };
                let command = convert::command(command, &self.sessions.policy);
                size += prost::Message::encoded_len(&command);
                batch.push(command);
            }
            self.send(Answer::Commands(wire::Commands { commands: batch })).await?;
            next = more.try_recv().ok();
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Body>, Status> {
        match self.incoming.message().await? {
            Some(message) => Ok(message.body),
            None => Err(Status::cancelled("the agent closed the session")),
        }
    }

    async fn send(&self, body: Answer) -> Result<(), Status> {
        let message = wire::CoordinatorMessage { body: Some(body) };
        match timeout(PATIENCE, self.outgoing.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("the agent closed the session")),
            Err(_) => Err(Status::deadline_exceeded("the agent does not read")),
        }
    }
}
