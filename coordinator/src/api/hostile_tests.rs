//! What strangers do to the listener itself: floods of headers, requests that never end or that have two
//! ends, forged tokens and ids. Each is refused, and others go on.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::serve::{Patience, serve_with};
use super::stand::{self, Stand};
use crate::listen::slots::Slots;

/// A served API.
struct Served {
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinSet<std::io::Result<()>>,
    _directory: TempDir,
}

impl Served {
    async fn start(next_request: Duration) -> Self {
        Self::with(Patience { next_request, stall: LONG }, 100).await
    }

    async fn with(patience: Patience, places: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = stand::state(directory.path(), &[]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        let mut serving = JoinSet::new();
        let slots = Slots::of(places, places + 1);
        serving.spawn(serve_with(slots, patience, listener, state, shutdown.clone()));
        Self { address, shutdown, serving, _directory: directory }
    }

    /// Writes as much as is taken, and returns all that comes back until the connection is closed.
    async fn exchange(&self, request: &[u8]) -> String {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut reading, mut writing) = stream.into_split();
        let mut answer = Vec::new();
        // A flood is cut off while it is being written. A reset gives what came before.
        let (_, _) = tokio::join!(writing.write_all(request), reading.read_to_end(&mut answer));
        String::from_utf8(answer).unwrap()
    }

    /// How many tasks there are, asked as somebody else.
    async fn tasks(&self) -> usize {
        let answer = self.exchange(b"GET /v1/tasks HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        body["tasks"].as_array().unwrap().len()
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        self.serving.join_next().await.unwrap().unwrap().unwrap();
    }
}

const LONG: Duration = Duration::from_secs(600);

/// What has to happen at all.
const WHILE: Duration = Duration::from_secs(60);
const TASK: &str = r#"{"executors":[{"image":"i","command":["c"]}]}"#;

#[tokio::test]
async fn floods_of_headers_are_cut_off() {
    let served = Served::start(LONG).await;
    let many = "x: y\r\n".repeat(10_000);
    let large = format!("x: {}\r\n", "y".repeat(64 << 20));
    let long_path = format!("GET /v1/tasks/{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(8 << 20));
    for flood in [
        format!("GET /v1/tasks HTTP/1.1\r\nhost: x\r\n{many}\r\n"),
        format!("GET /v1/tasks HTTP/1.1\r\nhost: x\r\n{large}\r\n"),
        long_path,
    ] {
        let answer = served.exchange(flood.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{}", &answer[..answer.len().min(80)]);
    }
    assert_eq!(served.tasks().await, 0, "others are served");
    served.stop().await;
}

#[tokio::test]
async fn heads_that_never_end_are_given_up() {
    let served = Served::start(Duration::from_millis(50)).await;
    let mut half_asked = Vec::new();
    for start in ["", "G", "POST /v1/tasks HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        for _ in 0..30 {
            let mut stream = TcpStream::connect(served.address).await.unwrap();
            stream.write_all(start.as_bytes()).await.unwrap();
            half_asked.push(stream);
        }
    }
    for mut stream in half_asked {
        let mut answer = Vec::new();
        // It ends; with a word or without.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    served.stop().await;
}

#[tokio::test]
async fn a_request_has_one_end() {
    let served = Served::start(LONG).await;
    let chunked = format!("{:x}\r\n{TASK}\r\n0\r\n\r\n", TASK.len());
    let smuggled = format!(
        "POST /v1/tasks HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{TASK}",
        TASK.len()
    );
    let head = |fields: &str| format!("POST /v1/tasks HTTP/1.1\r\nhost: x\r\n{fields}\r\n\r\n");
    let answer = served
        .exchange(format!("{}{chunked}{smuggled}", head("transfer-encoding: chunked")).as_bytes())
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "what follows chunks is not looked at: {answer}");
    assert_eq!(served.tasks().await, 1);
    let both = |first: &str, second: &str| (format!("{first}\r\n{second}"), format!("{chunked}{smuggled}"));
    let (length, chunks) = ("content-length: 4", "transfer-encoding: chunked");
    let wrong = [
        both(length, chunks),
        both(chunks, length),
        both("Content-Length: 0", "Transfer-Encoding: chunked"),
        both("TRANSFER-ENCODING:chunked", "x: y\r\nCONTENT-LENGTH:4"),
        both(length, length),
        both("x: y\r\n folded", length),
        both("x: y\ncontent-length: 0", length),
        both("x: y\rcontent-length: 0", length),
        both("x: \0", length),
        both("content-length : 4", "x: y"),
    ];
    let wrong = wrong.iter().map(|(fields, body)| (fields.as_str(), body.clone()));
    let more = [
        ("content-length: 4\r\ncontent-length: 5", format!("{{}}  {smuggled}")),
        ("content-length: -1", smuggled.clone()),
        ("content-length: 99999999999999999999", smuggled.clone()),
        ("transfer-encoding: chunked, identity", format!("{chunked}{smuggled}")),
        ("transfer-encoding: chunked", format!("{:x}\r\n{TASK}\r\nZZ\r\n", TASK.len())),
    ];
    // Behind an honest request on the same connection, too.
    let honest = format!("{}{TASK}", head(&format!("content-length: {}", TASK.len())));
    for (fields, body) in wrong.clone().chain(more.clone()) {
        let answer = served.exchange(format!("{honest}{}{body}", head(fields)).as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("HTTP/1.1 400 "),
            "{fields}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{fields}: {answer}");
    }
    assert_eq!(served.tasks().await, 1 + 15);
    for (fields, body) in wrong.chain(more) {
        let answer = served.exchange(format!("{}{body}", head(fields)).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{fields}: {answer}");
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            1,
            "{fields}: what follows is not looked at: {answer}"
        );
    }
    assert_eq!(served.tasks().await, 1 + 15);
    served.stop().await;
}

#[tokio::test]
async fn whoever_takes_nothing_of_an_answer_is_dropped() {
    let served = Served::with(Patience { next_request: LONG, stall: Duration::from_millis(50) }, 100).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    // Thousands of answers, more than the kernel holds for somebody who reads none of them.
    let asking = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(64);
    while stream.write_all(asking.as_bytes()).await.is_ok() {}
    // One that reads is served meanwhile.
    assert_eq!(served.tasks().await, 0);
    served.stop().await;
}

#[tokio::test]
async fn a_body_that_stops_coming_makes_no_task() {
    let served = Served::start(LONG).await;
    for length in [TASK.len() + 1, 32 << 20] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let head = format!("POST /v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{TASK}");
        stream.write_all(head.as_bytes()).await.unwrap();
        drop(stream);
    }
    let announced = format!("POST /v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 33 << 20);
    let answer = served.exchange(announced.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "what is announced is refused before it is sent: {answer}");
    assert_eq!(served.tasks().await, 0);
    served.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_drips_is_given_up() {
    let stand = Stand::new();
    let drip = futures_util::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((Ok::<_, std::io::Error>(" "), ()))
    });
    let answer = stand.post("/v1/tasks", axum::body::Body::from_stream(drip)).await;
    assert_eq!((answer.status.as_u16(), answer.json()["status_code"].as_u64()), (408, Some(408)));
}

#[tokio::test]
async fn tokens_and_ids_that_were_never_given_out() {
    let stand = Stand::new();
    let id = stand.create(&serde_json::from_str(TASK).unwrap()).await;
    let long = "A".repeat(10_000);
    for token in ["AAAAAAAAAAAA", "AQ", "%00", "AQAAAAAAAABNAA", "%ff%fe", "' OR 1=1 --", "1e9", &long] {
        let token = token.replace(' ', "%20").replace('\'', "%27");
        let answer = stand.get(&format!("/v1/tasks?page_token={token}")).await;
        assert_eq!(answer.status, 400, "{token}: {}", answer.text());
        assert!(answer.body.len() < 300);
    }
    for size in ["0", "-1", "1e9", "2048", "99999999999999999999", "0x10", "1.5"] {
        assert_eq!(stand.get(&format!("/v1/tasks?page_size={size}")).await.status, 400, "{size}");
    }
    for (verb, status) in [("%3Acancel", 200), (":cancel", 200), (":cancel:cancel", 404), (":CANCEL", 404)] {
        let answer = stand.post(&format!("/v1/tasks/{id}{verb}"), "null").await;
        assert_eq!(answer.status, status, "{verb}");
    }
    for wrong in ["..%2f..%2fetc%2fpasswd", "%00", &long, &id.to_string().to_uppercase(), ""] {
        let answer = stand.post(&format!("/v1/tasks/{wrong}:cancel"), "").await;
        assert_eq!(answer.status, 404, "{wrong}: {}", answer.text());
    }
    let shown = stand.get(&format!("/v1/tasks/{id}")).await.json();
    assert_eq!(shown, json!({ "id": id, "state": "CANCELED" }));
}

#[tokio::test]
async fn what_is_the_servers_own_is_never_stored() {
    let stand = Stand::new();
    let mut task: Value = serde_json::from_str(TASK).unwrap();
    let own = json!({ "id": "aaaaaaaaaaaaaaaaaaaaaaaaaa", "state": "COMPLETE", "creation_time": "1970-01-01T00:00:00Z",
                      "logs": [{ "logs": [], "outputs": [], "system_logs": ["forged"] }], "owner": "root" });
    task.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    let id = stand.create(&task).await;
    let shown = stand.get(&format!("/v1/tasks/{id}?view=FULL")).await.text();
    for forged in ["aaaaaaaaaaaaaaaaaaaaaaaaaa", "COMPLETE", "1970", "forged", "root"] {
        assert!(!shown.contains(forged), "{forged}: {shown}");
    }
}

#[tokio::test]
async fn where_places_are_short_the_longest_idle_client_makes_room() {
    let served = Served::with(Patience { next_request: LONG, stall: LONG }, 2).await;
    let mut clients = Vec::new();
    for number in 0..4 {
        let mut client = TcpStream::connect(served.address).await.unwrap();
        client.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 12];
        let answered = timeout(WHILE, client.read_exact(&mut answer)).await;
        answered
            .unwrap_or_else(|_| {
                panic!("client {number} is served, though others have kept their connections")
            })
            .unwrap();
        assert_eq!(answer, b"HTTP/1.1 200");
        clients.push(client);
    }
    // Whoever made room was told in the usual way: the rest of the answer, and then the end.
    let mut rest = Vec::new();
    timeout(WHILE, clients[0].read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.ends_with(br#"{"status":"ok"}"#));
    // The last one has its place.
    clients[3].write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    timeout(WHILE, clients[3].read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(rest).unwrap().matches(r#"{"status":"ok"}"#).count(), 2);
}
