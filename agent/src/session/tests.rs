//! A session against a coordinator that does what the test says.

use std::net::SocketAddr;
use std::sync::Mutex;

use jiff::Timestamp;
use teamster_proto::agent::v1 as wire;
use teamster_proto::agent::v1::agent_message::Body as FromAgent;
use teamster_proto::agent::v1::agent_service_server::{AgentService, AgentServiceServer};
use teamster_proto::agent::v1::coordinator_message::Body as ToAgent;
use teamster_values::TaskId;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::assignment::{AttemptId, Command, Held, Outcome, Report, Stage};
use crate::runtime::fake::FakeRuntime;

type Answer = Result<wire::CoordinatorMessage, Status>;

/// What an agent says in one session, and where answers go.
struct Call {
    said: Streaming<wire::AgentMessage>,
    answers: mpsc::Sender<Answer>,
}

impl Call {
    async fn next(&mut self) -> FromAgent {
        self.said.message().await.unwrap().unwrap().body.unwrap()
    }

    /// Past hello and inventory.
    async fn opening(&mut self) -> (wire::Hello, Vec<wire::Held>) {
        let FromAgent::Hello(hello) = self.next().await else { panic!("hello comes first") };
        let mut all = Vec::new();
        loop {
            let FromAgent::Inventory(chunk) = self.next().await else { panic!("the inventory comes second") };
            all.extend(chunk.held);
            if chunk.last {
                return (hello, all);
            }
        }
    }

    async fn answer(&self, body: ToAgent) {
        self.answers.send(Ok(wire::CoordinatorMessage { body: Some(body) })).await.unwrap();
    }

    async fn welcome(&self, cluster: &str, term: u64) {
        let welcome = wire::Welcome { cluster_id: cluster.into(), term, heartbeat_interval_millis: 50 };
        self.answer(ToAgent::Welcome(welcome)).await;
    }

    async fn next_heartbeat(&mut self) -> wire::Heartbeat {
        loop {
            if let FromAgent::Heartbeat(heartbeat) = self.next().await {
                return heartbeat;
            }
        }
    }

    /// Answers heartbeats until something else is said.
    async fn next_report(&mut self) -> wire::Report {
        loop {
            match self.next().await {
                FromAgent::Heartbeat(heartbeat) => {
                    self.answer(ToAgent::HeartbeatAck(wire::HeartbeatAck { number: heartbeat.number })).await;
                }
                FromAgent::Reports(mut reports) => return reports.reports.remove(0),
                other => panic!("{other:?}"),
            }
        }
    }
}

struct Service(Mutex<mpsc::Sender<Call>>);

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = ReceiverStream<Answer>;
    type LogsStream = ReceiverStream<Result<wire::LogRequest, Status>>;

    async fn logs(
        &self,
        _: Request<Streaming<wire::LogMessage>>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        Err(Status::unimplemented("this coordinator reads no logs"))
    }

    async fn session(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (answers, stream) = mpsc::channel(100);
        let call = Call { said: request.into_inner(), answers };
        let calls = self.0.lock().unwrap().clone();
        calls.send(call).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// A coordinator's port, an agent's session that dials it, and the supervisor's end of the session.
struct Bench {
    calls: mpsc::Receiver<Call>,
    events: mpsc::Receiver<Event>,
    data: tempfile::TempDir,
    running: JoinSet<()>,
}

async fn listen(running: &mut JoinSet<()>) -> (SocketAddr, mpsc::Receiver<Call>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, calls) = mpsc::channel(10);
    let server =
        tonic::transport::Server::builder().add_service(AgentServiceServer::new(Service(Mutex::new(sender))));
    running.spawn(async move {
        let _ = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
    });
    (address, calls)
}

impl Bench {
    async fn new() -> Self {
        Self::on(Arc::new(FakeRuntime::new())).await
    }

    async fn on(runtime: Arc<FakeRuntime>) -> Self {
        let mut running = JoinSet::new();
        let (address, calls) = listen(&mut running).await;
        let data = tempfile::tempdir().unwrap();
        let (supervisor, events) = mpsc::channel(100);
        let offer = Offer { name: "shared".into(), path: "/mnt/shared".into(), ok: true };
        let (offers_sender, offers) = watch::channel(vec![offer]);
        let session = Session {
            coordinator: address.to_string(),
            data_dir: data.path().to_owned(),
            identity: Identity {
                node_id: "node-1".into(),
                boot_id: "boot-1".into(),
                capacity: Resources { cpu_milli: 4000, memory_bytes: 5, disk_bytes: 6 },
                lacks: vec!["something".into()],
                runtime,
            },
            offers,
            closed: watch::channel(None).1,
            supervisor,
        };
        running.spawn(async move {
            session.run(CancellationToken::new()).await;
            drop(offers_sender);
        });
        Self { calls, events, data, running }
    }

    /// Serves one dial with this inventory.
    async fn attach(&mut self, held: Vec<Held>) -> (mpsc::Sender<Report>, Call) {
        loop {
            match self.events.recv().await.unwrap() {
                Event::Attached { reports, inventory } => {
                    inventory.send(held).unwrap();
                    return (reports, self.calls.recv().await.unwrap());
                }
                Event::Heard(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        self.events.recv().await.unwrap()
    }
}

fn id(attempt: u32) -> AttemptId {
    AttemptId { task: TaskId::from_bytes([9; 16]), attempt }
}

fn start(task: TaskId) -> wire::Assignment {
    wire::Assignment {
        task_id: task.to_string(),
        attempt: 1,
        executors: vec![wire::Executor {
            image: "busybox".into(),
            command: vec!["true".into()],
            workdir: "/w".into(),
            ..Default::default()
        }],
        limits: Some(wire::Capacity { cpu_milli: 1, memory_bytes: 2, disk_bytes: 3 }),
        lease_millis: 60_000,
        ..Default::default()
    }
}

fn commands(bodies: Vec<wire::command::Body>) -> ToAgent {
    let commands = bodies.into_iter().map(|body| wire::Command { body: Some(body) }).collect();
    ToAgent::Commands(wire::Commands { commands })
}

#[tokio::test]
async fn says_who_it_is_and_what_it_holds() {
    let mut bench = Bench::new().await;
    let since = Timestamp::from_microsecond(7_000_000).unwrap();
    let held = vec![
        Held::Live(id(1), Stage::Running { executor: 2, since }),
        Held::Ended(id(2), Box::new(convert::refusal("x"))),
    ];
    let (_reports, mut call) = bench.attach(held).await;
    let (hello, held) = call.opening().await;
    assert_eq!((hello.protocol, hello.node_id.as_str(), hello.boot_id.as_str()), (1, "node-1", "boot-1"));
    assert_eq!((hello.cluster_id.as_str(), hello.term), ("", 0));
    assert_eq!(hello.capacity.unwrap().cpu_milli, 4000);
    assert!(hello.storages[0].ok && hello.versions.contains_key("fake"));
    assert_eq!(hello.lacks, ["something"]);
    assert_eq!((held[0].stage(), held[1].stage()), (wire::Stage::Running, wire::Stage::Ended));
    assert!(held[1].result.is_some());
    // The inventory has no words for this.
    let report = call.next_report().await;
    let Some(wire::report::Body::Progress(progress)) = report.body else { panic!("{report:?}") };
    assert_eq!((progress.executor, progress.since_unix_micros), (2, 7_000_000));
}

#[tokio::test]
async fn tells_what_runs_containers_once_that_is_known() {
    let runtime = Arc::new(FakeRuntime::new());
    runtime.set_down(true);
    let mut bench = Bench::on(runtime.clone()).await;
    let (_reports, mut call) = bench.attach(Vec::new()).await;
    let (hello, _) = call.opening().await;
    assert!(hello.versions.is_empty());
    call.welcome("c", 1).await;
    runtime.set_down(false);
    let mut news = Vec::new();
    // And says it once.
    while news.len() < 4 {
        let heartbeat = call.next_heartbeat().await;
        call.answer(ToAgent::HeartbeatAck(wire::HeartbeatAck { number: heartbeat.number })).await;
        if !heartbeat.versions.is_empty() || !news.is_empty() {
            news.push((heartbeat.versions, heartbeat.lacks));
        }
    }
    assert!(news[0].0.contains_key("fake"));
    assert_eq!(news[0].1, ["something"]);
    assert!(news[1..].iter().all(|(versions, lacks)| versions.is_empty() && lacks.is_empty()), "{news:?}");
}

#[tokio::test]
async fn an_answered_heartbeat_renews_from_when_it_was_sent() {
    let mut bench = Bench::new().await;
    let before = crate::boot::BootInstant::now();
    let (_reports, mut call) = bench.attach(Vec::new()).await;
    call.opening().await;
    call.welcome("c", 1).await;
    let first = call.next_heartbeat().await;
    assert_eq!(first.number, 1);
    assert_eq!(first.storages[0].name, "shared");
    let received = crate::boot::BootInstant::now();
    // What was never asked is not an answer.
    call.answer(ToAgent::HeartbeatAck(wire::HeartbeatAck { number: 0 })).await;
    call.answer(ToAgent::HeartbeatAck(wire::HeartbeatAck { number: 1 })).await;
    let Event::Heard(at) = bench.next_event().await else { panic!("nothing was heard") };
    assert!(before <= at && at <= received);
}

#[tokio::test]
async fn hands_commands_on_in_order_and_answers_what_makes_no_sense() {
    use wire::command::Body;
    let mut bench = Bench::new().await;
    let (_reports, mut call) = bench.attach(Vec::new()).await;
    call.opening().await;
    call.welcome("c", 1).await;
    let task = id(1).task;
    let mut bad = start(task);
    bad.executors[0].workdir = "relative".into();
    bad.volumes = vec!["/a/../b".into()];
    bad.lease_millis = 0;
    let nameless = wire::Assignment { task_id: "?".into(), ..start(task) };
    let stop = wire::Stop { task_id: task.to_string(), attempt: 1 };
    let forget = wire::Forget { task_id: task.to_string(), attempt: 1 };
    let all = vec![
        Body::Start(nameless),
        Body::Start(bad),
        Body::Start(start(task)),
        Body::Stop(stop),
        Body::Forget(forget),
    ];
    call.answer(commands(all)).await;
    let report = call.next_report().await;
    let Some(wire::report::Body::Result(result)) = report.body else { panic!("{report:?}") };
    assert_eq!(result.outcome(), wire::Outcome::SystemError);
    for field in ["executors[0].workdir", "volumes[0]", "lease_millis"] {
        assert!(result.system_logs[0].contains(field), "{result:?}");
    }
    let mut seen = Vec::new();
    while seen.len() < 3 {
        if let Event::Command { command, .. } = bench.next_event().await {
            seen.push(command);
        }
    }
    let Command::Start(assignment) = &seen[0] else { panic!("{seen:?}") };
    assert_eq!(assignment.executors[0].workdir.as_ref().unwrap().as_str(), "/w");
    assert_eq!(seen[1..], [Command::Stop(id(1)), Command::Forget(id(1))]);
}

#[tokio::test]
async fn sends_reports_as_they_come() {
    let mut bench = Bench::new().await;
    let (reports, mut call) = bench.attach(Vec::new()).await;
    call.opening().await;
    call.welcome("c", 1).await;
    let mut result = convert::refusal("why");
    result.outcome = Outcome::Lost(crate::assignment::LossCause::NodeFault);
    reports.send(Report::Ended(id(3), Box::new(result))).await.unwrap();
    let report = call.next_report().await;
    assert_eq!(report.attempt, 3);
    let Some(wire::report::Body::Result(result)) = report.body else { panic!("{report:?}") };
    assert_eq!((result.outcome(), result.loss_cause()), (wire::Outcome::Lost, wire::LossCause::NodeFault));
}

#[tokio::test]
async fn begins_anew_with_the_inventory_after_every_kind_of_end() {
    let mut bench = Bench::new().await;
    // Refused.
    let (_reports, call) = bench.attach(Vec::new()).await;
    call.answers.send(Err(Status::failed_precondition("another agent has this name"))).await.unwrap();
    // Ended before and after the welcome.
    let (_reports, call) = bench.attach(Vec::new()).await;
    drop(call);
    let (_reports, mut call) = bench.attach(Vec::new()).await;
    call.opening().await;
    call.welcome("c", 1).await;
    call.next_heartbeat().await;
    drop(call);
    // The supervisor gave up on a session that did not take its reports.
    let (reports, mut call) = bench.attach(Vec::new()).await;
    call.opening().await;
    call.welcome("c", 1).await;
    drop(reports);
    // Heartbeats that nobody answers: the agent ends it.
    let (_reports, mut silent) = bench.attach(Vec::new()).await;
    silent.opening().await;
    silent.welcome("c", 1).await;
    while let Ok(Some(_)) = silent.said.message().await {}
    // It remembers whom it belongs to.
    let (_reports, mut call) = bench.attach(vec![Held::Live(id(1), Stage::Preparing)]).await;
    let (hello, held) = call.opening().await;
    assert_eq!((hello.cluster_id.as_str(), hello.term, held.len()), ("c", 1, 1));
}

#[tokio::test]
async fn does_not_obey_another_cluster_or_an_old_term() {
    for (cluster, term) in [("other", 9), ("c", 4)] {
        let mut bench = Bench::new().await;
        let kept = serde_json::json!({"cluster_id": "c", "term": 5});
        std::fs::write(bench.data.path().join("cluster.json"), kept.to_string()).unwrap();
        let (_reports, mut call) = bench.attach(Vec::new()).await;
        let (hello, _) = call.opening().await;
        assert_eq!((hello.cluster_id.as_str(), hello.term), ("c", 5));
        call.welcome(cluster, term).await;
        call.answer(commands(vec![wire::command::Body::Start(start(id(1).task))])).await;
        // The agent ends the session without a heartbeat and hands nothing on.
        while let Ok(Some(message)) = call.said.message().await {
            assert!(!matches!(message.body, Some(FromAgent::Heartbeat(_))), "{message:?}");
        }
        assert!(bench.events.try_recv().is_err());
        let kept = std::fs::read_to_string(bench.data.path().join("cluster.json")).unwrap();
        assert!(kept.contains('5'), "{kept}");
        bench.running.shutdown().await;
    }
}
