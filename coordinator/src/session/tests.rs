//! Strangers at the agents' port, over real connections.

use std::net::SocketAddr;
use std::sync::Arc;

use teamster_proto::agent::v1::agent_message::Body;
use teamster_proto::agent::v1::agent_service_client::AgentServiceClient;
use teamster_proto::agent::v1::{AgentMessage, Hello};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use super::*;
use crate::board::Board;
use crate::cluster::Policy;
use crate::controller::{self, Parts};
use crate::disk::{Guard, HOLD};
use crate::metrics::Metrics;
use crate::store;

/// What has to happen at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// A listener for agents, over a real controller.
struct Port {
    address: SocketAddr,
    _serving: JoinSet<()>,
    _directory: tempfile::TempDir,
}

impl Port {
    async fn open(hello_timeout: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let opened = store::open(directory.path()).unwrap();
        let board = Arc::new(Board::default());
        let metrics = Metrics::new(board.clone());
        let policy = Policy {
            retry_started_always: false,
            attempts_max: 1,
            lease_millis: 1_000,
            preemptible_lease_millis: 1_000,
            lease_margin_millis: 1_000,
        };
        let parts = Parts {
            writer: opened.writer,
            reader: opened.reader,
            board,
            policy,
            storages: Vec::new(),
            task_retention: PATIENCE,
            stranger_retention: PATIENCE,
            room: Guard::new(directory.path(), 0, HOLD, metrics.clone()).1,
            metrics,
        };
        let (controller, _) = controller::start(parts).unwrap();
        let sessions = Sessions {
            controller,
            cluster_id: opened.cluster_id,
            term: opened.term,
            log_hub: Arc::default(),
            heartbeat: Duration::from_secs(5),
            policy: crate::config::Config::default().task_policy(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(serve_with(hello_timeout, listener, sessions, CancellationToken::new()));
        Self { address, _serving: serving, _directory: directory }
    }

    async fn agent(&self) -> AgentServiceClient<Channel> {
        AgentServiceClient::connect(format!("http://{}", self.address)).await.unwrap()
    }
}

fn hello(padding_bytes: usize) -> AgentMessage {
    let hello = Hello {
        protocol: 1,
        node_id: "n".into(),
        boot_id: "b".into(),
        lacks: vec!["x".repeat(padding_bytes)],
        ..Hello::default()
    };
    AgentMessage { body: Some(Body::Hello(hello)) }
}

fn inventory(padding_bytes: usize) -> AgentMessage {
    let held = wire::Held { task_id: "x".repeat(padding_bytes), ..wire::Held::default() };
    AgentMessage { body: Some(Body::Inventory(wire::Inventory { held: vec![held], last: true })) }
}

/// What a session that says these messages is told.
async fn told(port: &Port, messages: Vec<AgentMessage>) -> Status {
    let mut agent = port.agent().await;
    let session = agent.session(tokio_stream::iter(messages)).await.unwrap();
    tokio::time::timeout(PATIENCE, session.into_inner().message()).await.unwrap().unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_is_short_and_what_follows_it_need_not_be() {
    let port = Port::open(PATIENCE).await;
    let refused = told(&port, vec![hello(4 << 20)]).await;
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("hello must not be longer"), "{refused}");
    // The same bytes in what comes after a hello are read, and refused for what they say.
    let refused = told(&port, vec![hello(0), inventory(4 << 20)]).await;
    assert!(refused.message().contains("task_id"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_without_a_hello_is_let_go() {
    let port = Port::open(Duration::from_millis(100)).await;
    // Says the words of HTTP/2 and opens a call on which nothing comes; pings are answered by itself.
    let mut stranger = port.agent().await;
    let call = stranger.session(tokio_stream::pending()).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, call.into_inner().message()).await.unwrap();
    assert!(ended.is_err(), "the connection is ended: {ended:?}");
    // Says nothing at all.
    let mut silent = TcpStream::connect(port.address).await.unwrap();
    let read = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await.unwrap();
    assert!(read.is_ok());
    // One whose hello was taken stays, though it takes its time over the rest.
    let mut agent = port.agent().await;
    let (say, said) = mpsc::channel(2);
    say.send(hello(0)).await.unwrap();
    let session = agent.session(ReceiverStream::new(said)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    let end = wire::Inventory { held: Vec::new(), last: true };
    say.send(AgentMessage { body: Some(Body::Inventory(end)) }).await.unwrap();
    let welcome = tokio::time::timeout(PATIENCE, session.into_inner().message()).await.unwrap().unwrap();
    assert!(welcome.is_some());
}
