//! The gRPC API as a client sees it, beside the REST API over the same state, with an agent made of events.

mod tasks;
mod watches;

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use jiff::Timestamp;
use serde_json::Value;
use teamster_proto::tes::v1 as wire;
use teamster_values::TaskId;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;
use tower::ServiceExt;
use wire::State;
use wire::task_service_client::TaskServiceClient;

use super::super::{ApiState, router, stand};
use super::serve::{Patience, serve_with};
use crate::attempt_log::AttemptLog;
use crate::board::Amount;
use crate::cluster::Ending;
use crate::controller::{AgentHello, Event, HeldAttempt, SessionId, Stage, ToAgent};

/// The most that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A served API with a client, and no node.
struct Stand {
    state: ApiState,
    address: SocketAddr,
    client: TaskServiceClient<Channel>,
    shutdown: CancellationToken,
    server: JoinSet<std::io::Result<()>>,
    _directory: TempDir,
}

/// The one node, as the controller hears it.
struct Agent {
    state: ApiState,
    session: SessionId,
    commands: mpsc::Receiver<ToAgent>,
}

impl Stand {
    async fn new() -> Self {
        Self::with(Patience { first_call: PATIENCE, finish: PATIENCE }).await
    }

    async fn with(patience: Patience) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = stand::state(directory.path(), &[]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let mut server = JoinSet::new();
        server.spawn(serve_with(patience, listener, state.clone(), shutdown.clone()));
        let client = client(address).await;
        Self { state, address, client, shutdown, server, _directory: directory }
    }

    async fn rest(&self, request: Request<Body>) -> Value {
        let response = router(self.state.clone()).oneshot(request).await.unwrap();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    async fn rest_get(&self, path: &str) -> Value {
        self.rest(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn rest_create(&self, task: &Value) -> Value {
        self.rest(Request::post("/v1/tasks").body(task.to_string().into()).unwrap()).await
    }

    async fn create(&mut self, task: wire::Task) -> Result<String, Status> {
        let request = wire::CreateTaskRequest { task: Some(task) };
        Ok(self.client.create_task(request).await?.into_inner().id)
    }

    async fn get(&mut self, id: &str) -> wire::Task {
        let request = wire::GetTaskRequest { id: id.to_owned(), view: wire::View::Full.into() };
        self.client.get_task(request).await.unwrap().into_inner()
    }

    async fn list(&mut self, request: wire::ListTasksRequest) -> Result<wire::ListTasksResponse, Status> {
        self.client.list_tasks(request).await.map(tonic::Response::into_inner)
    }

    async fn watch(&mut self, id: &str) -> Result<tonic::Streaming<wire::WatchTaskResponse>, Status> {
        let request = wire::WatchTaskRequest { id: id.to_owned(), ..Default::default() };
        self.client.watch_task(request).await.map(tonic::Response::into_inner)
    }

    async fn agent(&self) -> Agent {
        let (outbox, commands) = mpsc::channel(100);
        let capacity = Amount { cpu_milli: 64_000, memory_bytes: 1 << 40, disk_bytes: 1 << 40 };
        let agent = Box::new(AgentHello {
            node_id: "n1".into(),
            boot_id: "b".into(),
            capacity,
            storages: Vec::new(),
            closed: None,
            networks: Vec::new(),
            versions: Default::default(),
            lacks: Vec::new(),
        });
        let connected = |reply| Event::AgentConnected { agent, held: Vec::new(), outbox, reply };
        let session = self.state.controller.ask(connected).await.unwrap().unwrap();
        Agent { state: self.state.clone(), session, commands }
    }
}

impl Agent {
    /// Waits for a task to be assigned.
    async fn assigned(&mut self) -> HeldAttempt {
        match timeout(PATIENCE, self.commands.recv()).await.unwrap().unwrap() {
            ToAgent::Start { task, attempt, .. } => HeldAttempt { task, attempt, stage: preparing(None) },
            other => panic!("not a start: {other:?}"),
        }
    }

    /// Says how far it is; returns when that is on disk.
    async fn report(&self, held: &HeldAttempt, stage: Stage) {
        let reports = vec![HeldAttempt { stage, ..held.clone() }];
        self.state.controller.post(Event::AgentReported { session: self.session, reports }).await.unwrap();
        // Answered once the batch that holds it is on disk, and that is this report's or a later one.
        self.state.controller.cancel(TaskId::from_bytes([0; 16]), String::new()).await.unwrap();
    }
}

fn preparing(note: Option<&str>) -> Stage {
    Stage::Preparing { note: note.map(str::to_owned) }
}

fn running(executor: u32) -> Stage {
    Stage::Running { executor, since: Timestamp::UNIX_EPOCH }
}

fn ended(ending: Ending) -> Stage {
    Stage::Ended { ending, log: Box::new(AttemptLog::default()) }
}

async fn client(address: SocketAddr) -> TaskServiceClient<Channel> {
    TaskServiceClient::connect(format!("http://{address}")).await.unwrap()
}

fn small_task() -> wire::Task {
    let executor =
        wire::Executor { image: "i".into(), command: vec!["c".into()], ..wire::Executor::default() };
    wire::Task { executors: vec![executor.clone(), executor], ..wire::Task::default() }
}

/// The next thing that a watcher is told: state and executor.
async fn told(stream: &mut tonic::Streaming<wire::WatchTaskResponse>) -> Option<(State, Option<u32>)> {
    let news = timeout(PATIENCE, stream.message()).await.expect("something is told").unwrap()?;
    Some((news.task.unwrap().state(), news.progress.map(|progress| progress.executor)))
}
