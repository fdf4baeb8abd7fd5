//! An agent without a node: whatever it is told to run has run at once and well. It speaks the wire of agents
//! and nothing else, so that a benchmark of the coordinator does not measure an agent.

use anyhow::{Context, Result, bail};
use teamster_proto::agent::v1 as wire;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use wire::agent_message::Body as Out;
use wire::agent_service_client::AgentServiceClient;
use wire::coordinator_message::Body as In;

/// Messages that may wait for the socket: it is told at most one batch of commands at a time.
const OUTGOING_MAX: usize = 64;

/// Serves one session at `coordinator` until it breaks.
pub async fn run(coordinator: String, node_id: String, capacity: wire::Capacity) -> Result<()> {
    let client = AgentServiceClient::connect(format!("http://{coordinator}")).await?;
    let mut client = client.max_decoding_message_size(64 << 20);
    let (outgoing, more) = mpsc::channel(OUTGOING_MAX);
    let hello = wire::Hello {
        protocol: 1,
        boot_id: format!("boot of {node_id}"),
        node_id,
        capacity: Some(capacity),
        ..wire::Hello::default()
    };
    let inventory = wire::Inventory { held: Vec::new(), last: true };
    let opening = [Out::Hello(hello), Out::Inventory(inventory)].map(message);
    let stream = tokio_stream::iter(opening).chain(ReceiverStream::new(more));
    let mut incoming = client.session(stream).await?.into_inner();
    let Some(In::Welcome(welcome)) = incoming.message().await?.and_then(|message| message.body) else {
        bail!("the coordinator did not welcome us");
    };
    let interval = std::time::Duration::from_millis(welcome.heartbeat_interval_millis);
    let mut heartbeat = tokio::time::interval(interval);
    let mut number = 0;
    loop {
        // Each branch takes a whole message or none.
        tokio::select! {
            _ = heartbeat.tick() => {
                number += 1;
                let beat = wire::Heartbeat { number, ..wire::Heartbeat::default() };
                outgoing.send(message(Out::Heartbeat(beat))).await?;
            }
            told = incoming.message() => {
                let told = told?.context("the coordinator ended the session")?;
                if let Some(In::Commands(commands)) = told.body {
                    let reports = commands.commands.into_iter().filter_map(done).flatten().collect();
                    outgoing.send(message(Out::Reports(wire::Reports { reports }))).await?;
                }
            }
        }
    }
}

fn message(body: Out) -> wire::AgentMessage {
    wire::AgentMessage { body: Some(body) }
}

/// What an agent says of a task from its start to its end.
fn done(command: wire::Command) -> Option<[wire::Report; 2]> {
    let Some(wire::command::Body::Start(start)) = command.body else { return None };
    let now = jiff::Timestamp::now().as_microsecond();
    let progress = wire::Progress {
        stage: wire::Stage::Running as i32,
        since_unix_micros: now,
        ..wire::Progress::default()
    };
    let log = wire::ExecutorLog {
        start_unix_micros: now,
        end_unix_micros: now,
        stdout_tail: "done\n".to_owned(),
        ..wire::ExecutorLog::default()
    };
    let result = wire::Result {
        outcome: wire::Outcome::Complete as i32,
        started: true,
        executors: vec![log],
        start_unix_micros: now,
        end_unix_micros: now,
        ..wire::Result::default()
    };
    let report =
        |body| wire::Report { task_id: start.task_id.clone(), attempt: start.attempt, body: Some(body) };
    Some([report(wire::report::Body::Progress(progress)), report(wire::report::Body::Result(result))])
}
