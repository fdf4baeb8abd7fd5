//! The gRPC port of a real coordinator: tasks, watches across a crash, health and reflection.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::stream;
use teamster_integration::cluster::{Marks, Options, PATIENCE, eventually, shell_task, teamster};
use teamster_integration::stand::{IMAGE, Stand};
use teamster_proto::tes::v1 as wire;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use wire::State;
use wire::task_service_client::TaskServiceClient;

async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    eventually("the gRPC port to answer", async || endpoint.connect().await.ok()).await
}

async fn is_serving(address: SocketAddr, service: &str) -> bool {
    let request = HealthCheckRequest { service: service.into() };
    let answer = HealthClient::new(channel(address).await).check(request).await.unwrap();
    answer.into_inner().status() == ServingStatus::Serving
}

async fn reflected(address: SocketAddr, question: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { message_request: Some(question), ..Default::default() };
    let mut client = ServerReflectionClient::new(channel(address).await);
    let answers = client.server_reflection_info(stream::iter([request])).await.unwrap();
    answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap()
}

/// Reads a watch until `is_it`; none when it ends or breaks before.
async fn watched(
    client: &mut TaskServiceClient<Channel>,
    id: &str,
    is_it: impl Fn(State, Option<u32>) -> bool,
) -> Option<()> {
    let request = wire::WatchTaskRequest { id: id.into(), ..Default::default() };
    let mut told = client.watch_task(request).await.ok()?.into_inner();
    while let Some(news) = timeout(PATIENCE, told.message()).await.expect("something is told").ok()? {
        let progress = news.progress.map(|progress| progress.executor);
        if is_it(news.task?.state(), progress) {
            return Some(());
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_followed_across_a_crash() {
    let stand = Stand::start().await;
    let mut cluster = stand.cluster(&Options::default()).await;
    let marks = Marks::new(&cluster.shared());
    let scripts = ["first", "second"].map(|gate| marks.shell_gate(gate));
    let executors = scripts.map(|script| wire::Executor {
        image: IMAGE.into(),
        command: vec!["/bin/sh".into(), "-c".into(), script],
        ..wire::Executor::default()
    });
    let resources = wire::Resources { cpu_cores: Some(1.0), ram_gb: Some(0.0625), ..Default::default() };
    let task =
        wire::Task { executors: executors.into(), resources: Some(resources), ..wire::Task::default() };
    let mut client = TaskServiceClient::new(channel(cluster.grpc).await);
    let created = client.create_task(wire::CreateTaskRequest { task: Some(task) }).await.unwrap();
    let id = created.into_inner().id;
    let other = cluster.client.submit(&shell_task("other", &[marks.shell("other")])).await;

    let mut waiting = Command::new(teamster());
    waiting.args(["task", "wait", &id, &other]).stdout(Stdio::piped()).stderr(Stdio::piped());
    waiting.env("TEAMSTER_SERVER", cluster.client.base()).env("TEAMSTER_GRPC", cluster.grpc.to_string());
    let mut waiting = waiting.spawn().unwrap();
    let mut told = BufReader::new(waiting.stdout.take().unwrap());

    let runs = |executor| move |state, progress| (state, progress) == (State::Running, Some(executor));
    watched(&mut client, &id, runs(0)).await.expect("the first executor runs");
    marks.open_gate("first");
    watched(&mut client, &id, runs(1)).await.expect("the second one runs");
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    assert_eq!(line, format!("{other} COMPLETE\n"));

    let mut broken = client.clone();
    let until_cut = watched(&mut broken, &id, |state, _| state == State::Complete);
    let crash = async {
        // The watch is under way by then, or fails to begin; both are an end without the last state.
        tokio::time::sleep(Duration::from_millis(200)).await;
        cluster.kill_coordinator();
    };
    let (cut, ()) = tokio::join!(until_cut, crash);
    assert!(cut.is_none(), "a coordinator that dies tells no end");
    cluster.start_coordinator();
    cluster.wait_ready().await;
    let mut client = TaskServiceClient::new(channel(cluster.grpc).await);
    let (seen, ()) = tokio::join!(watched(&mut client, &id, |state, _| state == State::Complete), async {
        marks.open_gate("second")
    });
    seen.expect("the last state is told");
    assert_eq!(cluster.client.state(&id).await, "COMPLETE");

    line.clear();
    told.read_to_string(&mut line).unwrap();
    assert_eq!(line, format!("{id} COMPLETE\n"));
    let ended = waiting.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(ended.stderr).unwrap(), "", "it never had to ask");
    assert_eq!(ended.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_services_answer() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    assert!(is_serving(cluster.grpc, "").await);
    assert!(is_serving(cluster.grpc, "tes.v1.TaskService").await);

    let listed = reflected(cluster.grpc, MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
    let mut names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "tes.v1.TaskService"]);
    let symbol = MessageRequest::FileContainingSymbol("tes.v1.TaskService.WatchTask".into());
    let found = reflected(cluster.grpc, symbol).await;
    let MessageResponse::FileDescriptorResponse(found) = found else { panic!("{found:?}") };
    assert!(!found.file_descriptor_proto.is_empty());
}
