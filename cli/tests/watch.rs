//! Waiting by being told: `task wait` and `run` against a prepared gRPC API. The REST API beside it has no
//! answer to a question for a state, so whoever asks is found out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod stub;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::process::Output;
use std::sync::Mutex;

use futures_util::stream::{self, BoxStream, StreamExt};
use stub::Stub;
use teamster_proto::tes::v1 as wire;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use wire::State;
use wire::task_service_server::{TaskService, TaskServiceServer};

const ID: &str = "06bq4m2s1wabcdefghijklmnop";
const OTHER: &str = "06bq4m2s1wabcdefghijklmnoq";

/// What one watch of a task is told, and how it ends.
type Script = (Vec<State>, Result<(), Status>);

/// Tells each watch the next script of its task; the last one stays.
struct Prepared {
    scripts: Mutex<Vec<(&'static str, VecDeque<Script>)>>,
}

#[tonic::async_trait]
impl TaskService for Prepared {
    type WatchTaskStream = BoxStream<'static, Result<wire::WatchTaskResponse, Status>>;

    async fn watch_task(
        &self,
        request: Request<wire::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        let id = request.into_inner().id;
        let mut scripts = self.scripts.lock().unwrap();
        let prepared = scripts.iter_mut().find(|(task, _)| *task == id);
        let script = prepared.and_then(|(_, scripts)| match scripts.len() {
            0 | 1 => scripts.front().cloned(),
            _ => scripts.pop_front(),
        });
        let (states, end) = script.ok_or_else(|| Status::not_found(format!("there is no task '{id}'")))?;
        let told = states.into_iter().map(move |state| {
            let task = wire::Task { id: id.clone(), state: state.into(), ..wire::Task::default() };
            Ok(wire::WatchTaskResponse { task: Some(task), progress: None })
        });
        Ok(Response::new(stream::iter(told.chain(end.err().map(Err))).boxed()))
    }

    async fn create_task(
        &self,
        _: Request<wire::CreateTaskRequest>,
    ) -> Result<Response<wire::CreateTaskResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn get_task(&self, _: Request<wire::GetTaskRequest>) -> Result<Response<wire::Task>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn list_tasks(
        &self,
        _: Request<wire::ListTasksRequest>,
    ) -> Result<Response<wire::ListTasksResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn cancel_task(
        &self,
        _: Request<wire::CancelTaskRequest>,
    ) -> Result<Response<wire::CancelTaskResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }
}

/// Runs the program beside both APIs.
async fn teamster(stub: &Stub, scripts: Vec<(&'static str, Vec<Script>)>, words: &[&str]) -> Output {
    let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = incoming.local_addr().unwrap();
    let scripts = scripts.into_iter().map(|(id, scripts)| (id, scripts.into())).collect();
    let service = TaskServiceServer::new(Prepared { scripts: Mutex::new(scripts) });
    let mut server = JoinSet::new();
    server.spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_teamster"));
    command.args(words).env("TEAMSTER_SERVER", stub.url()).env("TEAMSTER_GRPC", address.to_string());
    command.output().await.unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_coordinator_that_goes_away_is_waited_for() {
    let stub = Stub::start(&[]);
    let gone = || Err(Status::unavailable("the coordinator is stopping"));
    let scripts = vec![
        (
            ID,
            vec![
                (vec![State::Running], gone()),
                // One that ends a stream without a word is no better.
                (vec![State::Running], Ok(())),
                (vec![State::Running, State::Complete], Ok(())),
            ],
        ),
        (OTHER, vec![(vec![State::Canceled], Ok(()))]),
    ];
    let output = teamster(&stub, scripts, &["task", "wait", ID, OTHER]).await;
    let mut lines: Vec<_> = text(&output.stdout).lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, [format!("{ID} COMPLETE"), format!("{OTHER} CANCELED")]);
    assert_eq!((text(&output.stderr), output.status.code()), ("", Some(1)));
    assert!(stub.questions().is_empty(), "{:?}", stub.questions());
}

#[tokio::test]
async fn one_that_does_not_know_the_task_is_the_wrong_one() {
    let stub = Stub::start(&[(&format!("GET /v1/tasks/{ID}?view=MINIMAL"), 200, r#"{"state":"COMPLETE"}"#)]);
    let output = teamster(&stub, vec![], &["task", "wait", ID]).await;
    assert_eq!(text(&output.stdout), format!("{ID} COMPLETE\n"));
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("there is no task"), "{}", text(&output.stderr));
}
