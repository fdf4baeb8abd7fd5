//! Floods against the listeners of a real coordinator: whatever strangers send, a client is served in the midst of
//! it, and the process stays within its memory.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use teamster_integration::cluster::PATIENCE;
use teamster_integration::coordinator::Coordinator;
use teamster_proto::agent::v1::AgentMessage;
use teamster_proto::agent::v1::agent_service_client::AgentServiceClient;
use teamster_proto::tes::v1 as wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use wire::task_service_client::TaskServiceClient;

/// The limit of a body.
const LIMIT_BYTES: usize = 32 << 20;

/// What bodies may take in all: 128 MiB are held at one time, and what is read of them is as large again. The rest is
/// room for an allocator that gives nothing back.
const BODIES_MEMORY_MAX: u64 = 512 << 20;

/// What anything else may take that is not a body.
const OTHER_MEMORY_MAX: u64 = 256 << 20;

/// More than there are places for connections.
const STRANGERS_WANTED: u64 = 10_000;

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// Writes as much as is taken and reads all that comes back, until the connection is closed.
async fn exchange(address: SocketAddr, request: Arc<Vec<u8>>) -> Vec<u8> {
    let (mut reading, mut writing) = connect(address).await.into_split();
    let mut answer = Vec::new();
    // A flood is cut off in the middle; a reset gives what came before.
    let both = async { tokio::join!(writing.write_all(&request), reading.read_to_end(&mut answer)) };
    let (_, _) = timeout(PATIENCE, both).await.expect("the connection is ended");
    answer
}

/// Both APIs answer an honest client, and the agents' port an agent, at the first try.
async fn is_served(coordinator: &Coordinator) {
    assert!(coordinator.client().try_get("/v1/tasks").await.is_some(), "REST answers");
    let connected = TaskServiceClient::connect(format!("http://{}", coordinator.grpc));
    let mut grpc = timeout(Duration::from_secs(30), connected).await.expect("gRPC is there").unwrap();
    let listed = grpc.list_tasks(wire::ListTasksRequest::default());
    timeout(Duration::from_secs(30), listed).await.expect("gRPC answers").unwrap();
    let connected = AgentServiceClient::connect(format!("http://{}", coordinator.agents));
    let mut agents = timeout(Duration::from_secs(30), connected).await.expect("agents are served").unwrap();
    // One who begins with anything but a hello is told so, and changes nothing.
    let session = agents.session(tokio_stream::once(AgentMessage::default()));
    let session = timeout(Duration::from_secs(30), session).await.expect("agents are answered").unwrap();
    let said = timeout(Duration::from_secs(30), session.into_inner().message()).await.expect("a word");
    assert!(said.unwrap_err().message().contains("hello"));
}

/// A task that is filled up to so many bytes with what is read and thrown away.
fn filled_task(bytes: usize) -> Vec<u8> {
    let (head, tail) = (r#"{"executors":[{"image":"i","command":["c"]}],"padding":""#, r#""}"#);
    let padding = "x".repeat(bytes - head.len() - tail.len());
    let body = format!("{head}{padding}{tail}");
    let head =
        format!("POST /v1/tasks HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {bytes}\r\n\r\n");
    format!("{head}{body}").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_of_the_largest_bodies_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path(), "").await;
    let address = coordinator.http;
    for (bytes, status) in [(LIMIT_BYTES, "200"), (LIMIT_BYTES + 1, "413")] {
        let (mut asking, request) = (JoinSet::new(), Arc::new(filled_task(bytes)));
        for _ in 0..20 {
            asking.spawn(exchange(address, request.clone()));
        }
        while let Some(answer) = asking.join_next().await {
            let answer = String::from_utf8(answer.unwrap()).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            let body: Value = serde_json::from_str(body).unwrap();
            if status == "413" {
                assert_eq!(body["status_code"], 413);
                assert!(body["msg"].as_str().unwrap().contains(&LIMIT_BYTES.to_string()), "{body}");
            } else {
                assert!(body["id"].is_string(), "{body}");
            }
        }
    }
    is_served(&coordinator).await;
    let (_, most) = coordinator.memory_bytes();
    assert!(most < BODIES_MEMORY_MAX, "{} MiB", most >> 20);
}

/// How many strangers this process may be: as many as it may open files, less what else it needs.
fn strangers() -> u64 {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }).unwrap();
    hard.unwrap_or(u64::MAX).saturating_sub(200).min(STRANGERS_WANTED)
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_who_never_finish_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path(), "").await;
    let halves: [(SocketAddr, &[u8]); 3] = [
        (coordinator.http, b"GET /v1/tasks HTTP/1.1\r\nhost: x\r\nx-slow: "),
        (coordinator.grpc, &PREFACE[..9]),
        (coordinator.agents, &PREFACE[..9]),
    ];
    for (address, half) in halves {
        let mut strangers_there = Vec::new();
        for number in 0..strangers() {
            let mut stream = connect(address).await;
            // One that had to give way already takes nothing more.
            let _ = stream.write_all(half).await;
            strangers_there.push(stream);
            if number % 2_500 == 2_499 {
                is_served(&coordinator).await;
            }
        }
        is_served(&coordinator).await;
        // Bodies that never come, as well: these have said all but what they want.
        if address == coordinator.http {
            for stream in strangers_there.iter_mut().rev().take(1_000) {
                let _ = stream.write_all(b"\r\ncontent-length: 9\r\n\r\n").await;
            }
            is_served(&coordinator).await;
        }
    }
    let (_, most) = coordinator.memory_bytes();
    assert!(most < OTHER_MEMORY_MAX, "{} MiB", most >> 20);
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// What a client says first.
fn greeting() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// The headers of a call, packed: a POST over http to a path and an authority.
fn call(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x44, path.len() as u8];
    block.extend(path.as_bytes());
    block.extend([0x41, 1, b'x']);
    block.extend(literal(b"content-type", b"application/grpc"));
    block
}

/// A header that is packed as it is, and added to the table of those that can be named by a number.
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut block = vec![0x40, name.len() as u8];
    block.extend(name);
    // A length beyond seven bits goes on in bytes of seven bits.
    match value.len() {
        short @ 0..127 => block.push(short as u8),
        mut long => {
            block.push(127);
            long -= 127;
            while long >= 128 {
                block.push((long % 128) as u8 | 128);
                long /= 128;
            }
            block.push(long as u8);
        }
    }
    block.extend(value);
    block
}

/// The frames of an answer: kind and payload.
fn frames(mut answer: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some((head, rest)) = answer.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some(payload) = rest.get(..length) else { break };
        found.push((head[3], payload.to_vec()));
        answer = &rest[length..];
    }
    found
}

/// Floods of calls to `path`: name, bytes, and whether they end their connection.
fn floods(path: &str) -> Vec<(&'static str, Vec<u8>, bool)> {
    let streams = |count: u32| (0..count).map(|number| number * 2 + 1);
    let mut rapid_reset = greeting();
    for stream in streams(20_000) {
        rapid_reset.extend(frame(HEADERS, END_HEADERS, stream, &call(path)));
        rapid_reset.extend(frame(RESET, 0, stream, &8u32.to_be_bytes()));
    }
    let mut endless_headers = [greeting(), frame(HEADERS, 0, 1, &call(path))].concat();
    for number in 0..4_000u32 {
        let block = literal(format!("x-{number}").as_bytes(), &[b'y'; 8_000]);
        endless_headers.extend(frame(CONTINUATION, 0, 1, &block));
    }
    let mut empty_continuations = [greeting(), frame(HEADERS, 0, 1, &call(path))].concat();
    for _ in 0..500_000 {
        empty_continuations.extend(frame(CONTINUATION, 0, 1, &[]));
    }
    // One byte stands for four thousand.
    let mut bomb = greeting();
    for stream in streams(200) {
        let mut block = call(path);
        block.extend(literal(b"x-bomb", &[b'z'; 3_900]));
        block.extend(vec![0x80 | 62; 15_000 - 3_900]);
        bomb.extend(frame(HEADERS, END_HEADERS, stream, &block));
    }
    let unasked_data = [greeting(), frame(DATA, 0, 1, &[0; 16_000])].concat();
    let mut settings = greeting();
    for _ in 0..200_000 {
        settings.extend(frame(SETTINGS, 0, 0, &[]));
    }
    vec![
        ("rapid reset", rapid_reset, true),
        ("endless headers", endless_headers, true),
        ("empty continuations", empty_continuations, true),
        ("header bomb", bomb, false),
        ("data without a call", unasked_data, true),
        ("settings", settings, false),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_http2_end_their_connection_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path(), "").await;
    let ports = [
        (coordinator.grpc, "/tes.v1.TaskService/ListTasks"),
        (coordinator.agents, "/teamster.agent.v1.AgentService/Session"),
    ];
    for (address, path) in ports {
        for (name, flood, is_ended) in floods(path) {
            let mut flooding = JoinSet::new();
            flooding.spawn(flood_of(address, flood));
            is_served(&coordinator).await;
            let (frames, was_ended) = flooding.join_next().await.unwrap().unwrap();
            if is_ended {
                assert!(was_ended, "{name} to {path}: the connection is ended");
                let reason = frames.iter().find(|(kind, _)| *kind == GOAWAY);
                assert!(
                    reason.is_none_or(|(_, payload)| payload[4..8] != [0; 4]),
                    "{name} to {path}: {reason:?}"
                );
            }
            is_served(&coordinator).await;
        }
    }
    // The same against the other port, which does not speak it.
    let answer = exchange(coordinator.http, Arc::new(greeting())).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    is_served(&coordinator).await;
    let (_, most) = coordinator.memory_bytes();
    assert!(most < OTHER_MEMORY_MAX, "{} MiB", most >> 20);
}

/// Sends a flood, and says good-bye if it was taken to the end. What came back, and whether the server had ended it
/// before.
async fn flood_of(address: SocketAddr, flood: Vec<u8>) -> (Vec<(u8, Vec<u8>)>, bool) {
    let (mut reading, mut writing) = connect(address).await.into_split();
    let mut answer = Vec::new();
    let writing = async {
        let taken = writing.write_all(&flood).await;
        // Until an answer to this comes, all before it was looked at.
        let last = frame(6, 0, 0, b"lastping");
        taken.and(writing.write_all(&last).await).is_ok().then_some(writing)
    };
    let reading = async {
        let mut piece = vec![0; 64 << 10];
        loop {
            match reading.read(&mut piece).await {
                Ok(0) | Err(_) => return true,
                Ok(count) => answer.extend_from_slice(&piece[..count]),
            }
            if answer.windows(8).any(|bytes| bytes == b"lastping") {
                return false;
            }
        }
    };
    let (_kept, was_ended) =
        timeout(PATIENCE, async { tokio::join!(writing, reading) }).await.expect("it is answered");
    (frames(&answer), was_ended)
}
