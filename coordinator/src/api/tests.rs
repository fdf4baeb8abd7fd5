//! The API as a client sees it, request by request.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use jiff::Timestamp;
use serde_json::json;
use teamster_values::TaskId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::stand::{self, Stand};
use crate::attempt_log::{AttemptLog, ExecutorLog, OutputFileLog};
use crate::spec::{Executor, Input, TaskSpec};
use crate::store::small_disk::SmallDisk;
use crate::store::{Asks, Change, FinalState, LiveRow, LiveState};

pub(super) fn task_id(number: u8) -> TaskId {
    TaskId::from_bytes([number; 16])
}

fn time(text: &str) -> Option<Timestamp> {
    Some(text.parse().unwrap())
}

fn accepted(seq: u64, owner: &str) -> Change {
    let executor = Executor { image: "i".into(), command: vec!["c".into()], ..Executor::default() };
    let input = Input { path: "/in".into(), content: Some("secret".into()), ..Input::default() };
    let spec = TaskSpec { executors: vec![executor], inputs: vec![input], ..TaskSpec::default() };
    Change::Accepted {
        seq,
        id: task_id(seq as u8),
        owner: owner.into(),
        created: Timestamp::UNIX_EPOCH,
        spec: Arc::new(spec),
        asks: Asks::default(),
        notes: Vec::new(),
    }
}

/// Task 1 ended in its second attempt, task 2 runs, task 3 waits, task 4 is somebody else's.
pub(super) fn rows() -> Vec<Change> {
    let anonymous = "anonymous";
    let lost = AttemptLog {
        node: Some("n0".into()),
        start_time: time("2026-01-02T03:04:05Z"),
        system_logs: vec!["the node was lost".into()],
        ..AttemptLog::default()
    };
    let executor = ExecutorLog {
        start_time: time("2026-01-02T03:05:01Z"),
        end_time: time("2026-01-02T03:05:59.5Z"),
        exit_code: 3,
        stdout: "out\n".into(),
        stderr: "err\n".into(),
        out_of_memory: false,
        stdout_bytes: 4,
        stderr_bytes: 4,
    };
    let output = OutputFileLog { url: "/mnt/shared/x".into(), path: "/x".into(), size_bytes: 5_000_000_000 };
    let ended = AttemptLog {
        node: Some("n1".into()),
        start_time: time("2026-01-02T03:05:00Z"),
        end_time: time("2026-01-02T03:06:00Z"),
        executors: vec![executor],
        outputs: vec![output],
        system_logs: vec!["executor 0 failed".into()],
        metadata: [("peak_memory_bytes".to_owned(), "7".to_owned())].into(),
    };
    let since = time("2026-01-02T04:00:00Z");
    let queued = LiveRow::queued(Asks::default());
    let node = Some("n1".to_owned());
    let running = LiveRow { state: LiveState::Running, attempt: 1, node, since, ..queued };
    vec![
        accepted(1, anonymous),
        accepted(2, anonymous),
        accepted(3, anonymous),
        accepted(4, "somebody"),
        Change::AttemptEnded { seq: 1, attempt: 1, log: lost },
        Change::AttemptEnded { seq: 1, attempt: 2, log: ended },
        Change::Finished { seq: 1, state: FinalState::ExecutorError },
        Change::Live { seq: 2, row: running },
    ]
}

#[tokio::test]
async fn shows_an_ended_task_in_three_views() {
    let stand = Stand::with(&rows());
    let path = format!("/v1/tasks/{}", task_id(1));
    let minimal = json!({ "id": task_id(1), "state": "EXECUTOR_ERROR" });
    assert_eq!(stand.get(&path).await.json(), minimal);
    assert_eq!(stand.get(&format!("{path}?view=minimal")).await.json(), minimal);
    let metadata =
        |node| json!({ "node": node, "vm_price_per_hour_usd": "0", "queue_seconds": "1767323045.000" });
    let mut metadata_of_second = metadata("n1");
    metadata_of_second["peak_memory_bytes"] = json!("7");
    // When the attempt before ended is not known, so neither is how long this one waited.
    metadata_of_second.as_object_mut().unwrap().remove("queue_seconds");
    let mut expected = json!({
        "id": task_id(1),
        "state": "EXECUTOR_ERROR",
        "creation_time": "1970-01-01T00:00:00Z",
        "executors": [{ "image": "i", "command": ["c"] }],
        "inputs": [{ "path": "/in" }],
        "logs": [
            { "logs": [], "outputs": [], "start_time": "2026-01-02T03:04:05Z", "metadata": metadata("n0") },
            { "logs": [{ "start_time": "2026-01-02T03:05:01Z", "end_time": "2026-01-02T03:05:59.5Z", "exit_code": 3 }],
              "outputs": [{ "url": "/mnt/shared/x", "path": "/x", "size_bytes": "5000000000" }],
              "start_time": "2026-01-02T03:05:00Z", "end_time": "2026-01-02T03:06:00Z",
              "metadata": metadata_of_second },
        ]
    });
    assert_eq!(stand.get(&format!("{path}?view=BASIC")).await.json(), expected);
    expected["inputs"][0]["content"] = json!("secret");
    expected["logs"][0]["system_logs"] = json!(["the node was lost"]);
    expected["logs"][1]["system_logs"] = json!(["executor 0 failed"]);
    expected["logs"][1]["logs"][0]["stdout"] = json!("out\n");
    expected["logs"][1]["logs"][0]["stderr"] = json!("err\n");
    assert_eq!(stand.get(&format!("{path}?view=FULL")).await.json(), expected);

    let cromwell = Request::get(format!("{path}?view=FULL")).header("user-agent", "akka-http/10.2.10");
    let shown = stand.send(cromwell.body(Body::empty()).unwrap()).await.json();
    assert!(shown["logs"][1]["outputs"][0].get("size_bytes").is_none(), "a size that Cromwell cannot read");
    let answer = stand.get(&format!("{path}?view=ALL")).await;
    assert_eq!(
        (answer.status, &answer.json()["msg"]),
        (StatusCode::BAD_REQUEST, &json!("view: must be MINIMAL, BASIC or FULL"))
    );
}

#[tokio::test]
async fn shows_what_is_under_way_and_why_a_task_waits() {
    let stand = Stand::with(&rows());
    let running = stand.get(&format!("/v1/tasks/{}?view=BASIC", task_id(2))).await.json();
    assert_eq!(running["state"], "RUNNING");
    let metadata = json!({ "node": "n1", "vm_price_per_hour_usd": "0", "queue_seconds": "1767326400.000" });
    let log =
        json!({ "logs": [], "outputs": [], "start_time": "2026-01-02T04:00:00Z", "metadata": metadata });
    assert_eq!(running["logs"], json!([log]));
    let waiting = stand.get(&format!("/v1/tasks/{}?view=FULL", task_id(3))).await.json();
    let entry = &waiting["logs"][0];
    assert_eq!((&entry["logs"], &entry["outputs"]), (&json!([]), &json!([])));
    assert!(entry["system_logs"][0].as_str().unwrap().starts_with("waiting for a node"), "{waiting}");
    let basic = stand.get(&format!("/v1/tasks/{}?view=BASIC", task_id(3))).await.json();
    assert!(basic.get("logs").is_none(), "{basic}");
    let reason = entry["system_logs"][0].as_str().unwrap();
    let logs = stand.get(&format!("/v1/tasks/{}/logs", task_id(3))).await.json();
    assert_eq!(logs["system_logs"], json!([reason]));
    let text = stand.get(&format!("/v1/tasks/{}/logs?stream=system", task_id(3))).await.text();
    assert_eq!(text, format!("{reason}\n"));
}

#[tokio::test]
async fn all_that_is_wrong_in_a_query_is_told_at_once() {
    let stand = Stand::with(&rows());
    let message = async |path: &str| {
        let answer = stand.get(path).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        answer.json()["msg"].as_str().unwrap().to_owned()
    };
    let list = message("/v1/tasks?view=x&page_size=0&page_token=x&state=x&tag_value=x").await;
    for name in ["view: ", "; page_size: ", "; page_token: ", "; state: ", "; tag_value: "] {
        assert!(list.contains(name), "{list}");
    }
    let logs = format!("/v1/tasks/{}/logs?stream=x&executor=-1&tail=x&follow=maybe", task_id(1));
    let logs = message(&logs).await;
    for name in ["stream: ", "; executor: ", "; tail: ", "; follow: "] {
        assert!(logs.contains(name), "{logs}");
    }
}

#[tokio::test]
async fn shows_nothing_of_others_and_of_what_is_not_there() {
    let stand = Stand::with(&rows());
    let long = "a".repeat(10_000);
    let ids =
        [task_id(4).to_string(), task_id(9).to_string(), "x".into(), long, "..%2ftasks".into(), "%ff".into()];
    for id in &ids {
        for path in [format!("/v1/tasks/{id}?view=FULL"), format!("/v1/tasks/{id}/logs")] {
            let answer = stand.get(&path).await;
            assert_eq!(
                (answer.status, &answer.json()["status_code"]),
                (StatusCode::NOT_FOUND, &json!(404)),
                "{path}"
            );
            assert!(answer.body.len() < 200);
        }
        let answer = stand.post(&format!("/v1/tasks/{id}:cancel"), "").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{id}");
    }
    let listed = stand.get("/v1/tasks").await.json();
    let ids: Vec<_> = listed["tasks"].as_array().unwrap().iter().map(|task| task["id"].clone()).collect();
    assert_eq!(ids, [json!(task_id(3)), json!(task_id(2)), json!(task_id(1))]);
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/v2/tasks"),
        ("GET", "/v1/tasks/"),
        ("GET", "/v1/tasks/../tasks"),
        ("DELETE", "/v1/tasks"),
        ("PUT", "/v1/tasks/x"),
        ("POST", "/v1/tasks/x:pause"),
        ("POST", "/v1/service-info"),
        ("GET", "/ga4gh/tes/v1/nodes"),
    ] {
        let answer =
            stand.send(Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await;
        assert_eq!(
            (answer.status, &answer.json()["status_code"]),
            (StatusCode::NOT_FOUND, &json!(404)),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn cancels_in_every_spelling() {
    let stand = Stand::new();
    let task = json!({ "executors": [{ "image": "i", "command": ["c"] }] });
    for (prefix, colon, body) in
        [("/v1", ":", ""), ("/ga4gh/tes/v1", "%3A", "null"), ("/v1", "%3a", "{}"), ("/v1", ":", "{\"x\":")]
    {
        let id = stand.create(&task).await;
        for _ in 0..2 {
            let answer = stand.post(&format!("{prefix}/tasks/{id}{colon}cancel"), body).await;
            assert_eq!(
                (answer.status, answer.json()),
                (StatusCode::OK, json!({})),
                "the second changes nothing"
            );
        }
        assert_eq!(stand.get(&format!("/v1/tasks/{id}")).await.json()["state"], "CANCELED");
    }
    let ended = Stand::with(&rows());
    let answer = ended.post(&format!("/v1/tasks/{}:cancel", task_id(1)), "").await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({})));
    assert_eq!(ended.get(&format!("/v1/tasks/{}", task_id(1))).await.json()["state"], "EXECUTOR_ERROR");
}

#[tokio::test]
async fn lists_page_by_page() {
    let stand = Stand::new();
    let mut ids = Vec::new();
    for number in 0..5 {
        let task = json!({ "name": format!("t{number}"), "executors": [{ "image": "i", "command": ["c"] }] });
        ids.insert(0, json!(stand.create(&task).await));
    }
    let mut seen = Vec::new();
    let mut token = String::new();
    for page in 0..3 {
        let listed = stand.get(&format!("/v1/tasks?page_size=2&page_token={token}")).await.json();
        let tasks = listed["tasks"].as_array().unwrap();
        assert!(tasks.iter().all(|task| task.as_object().unwrap().len() == 2));
        seen.extend(tasks.iter().map(|task| task["id"].clone()));
        assert_eq!(listed.get("next_page_token").is_some(), page < 2);
        token = listed["next_page_token"].as_str().unwrap_or_default().to_owned();
    }
    assert_eq!(seen, ids);
    let first = stand.get("/v1/tasks?page_size=2&state=queued&tag_key=").await;
    assert_eq!(first.status, StatusCode::BAD_REQUEST, "an empty key is none");
    let first = stand.get("/v1/tasks?page_size=2&state=queued&name_prefix=t").await.json();
    let token = first["next_page_token"].as_str().unwrap();
    let other_view = format!("view=FULL&name_prefix=t&state=QUEUED&page_token={token}");
    let next = stand.get(&format!("/ga4gh/tes/v1/tasks?{other_view}")).await;
    assert_eq!(next.json()["tasks"][0]["id"], ids[2], "another view and size are the same list");
    for other in
        ["", "&state=QUEUED", "&state=RUNNING&name_prefix=t", "&state=QUEUED&name_prefix=t&tag_key=k"]
    {
        let answer = stand.get(&format!("/v1/tasks?page_size=2&page_token={token}{other}")).await;
        let msg = answer.json()["msg"].as_str().unwrap().to_owned();
        assert!(msg.starts_with("page_token: belongs to a list with other filters; "), "{other}: {msg}");
    }
    let count = async |query: &str| {
        stand.get(&format!("/v1/tasks?{query}")).await.json()["tasks"].as_array().unwrap().len()
    };
    assert_eq!(count("state=QUEUED&view=BASIC").await, 5);
    assert_eq!(count("state=COMPLETE").await, 0);
    assert_eq!(count("state=PREEMPTED").await, 0);
    assert_eq!(count("name_prefix=t1").await, 1);
    assert_eq!(count("name_prefix=").await, 5);
    assert_eq!(count("page_size=2047&unknown=1").await, 5);
    for (query, message) in [
        ("page_size=0", "page_size: must be a whole number from 1 to 2047"),
        ("page_size=-1", "page_size: must be a whole number from 1 to 2047"),
        ("page_size=2048", "page_size: must be a whole number from 1 to 2047"),
        (
            "page_size=x&state=DONE",
            "page_size: must be a whole number from 1 to 2047; state: must be a state of TES 1.1",
        ),
        ("page_token=x", "page_token: must be one that this service gave out"),
        ("view=BIG", "view: must be MINIMAL, BASIC or FULL"),
        ("tag_value=x", "tag_value: must not be given more often than tag_key"),
    ] {
        let answer = stand.get(&format!("/v1/tasks?{query}")).await;
        assert_eq!(
            (answer.status, &answer.json()["msg"]),
            (StatusCode::BAD_REQUEST, &json!(message)),
            "{query}"
        );
    }
}

#[tokio::test]
async fn shows_logs_as_json_and_as_text() {
    let stand = Stand::with(&rows());
    let path = format!("/v1/tasks/{}/logs", task_id(1));
    let logs = stand.get(&path).await.json();
    assert_eq!(logs["attempts"][1]["executors"][0]["stdout"], "out\n");
    assert_eq!(logs["attempts"][1]["executors"][0]["exit_code"], 3);
    assert_eq!(logs["attempts"][0]["system_logs"], json!(["the node was lost"]));
    for (stream, text) in [("stdout", "out\n"), ("stderr", "err\n"), ("system", "executor 0 failed\n")] {
        let answer = stand.get(&format!("{path}?stream={stream}")).await;
        assert_eq!(answer.text(), text);
        assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    }
    let request = Request::get(&path).header("accept", "text/plain").body(Body::empty()).unwrap();
    assert_eq!(stand.send(request).await.text(), "out\nerr\nexecutor 0 failed\n");
    assert_eq!(stand.get(&format!("{path}?stream=x")).await.status, StatusCode::BAD_REQUEST);
    let waiting = stand.get(&format!("/v1/tasks/{}/logs?stream=stdout", task_id(3))).await;
    assert_eq!((waiting.status, waiting.text()), (StatusCode::OK, String::new()));
}

#[tokio::test]
async fn says_what_it_is() {
    let stand = Stand::new();
    let storage = json!(["file:///mnt/shared", "file:///tmp/clients"]);
    for prefix in ["/v1", "/ga4gh/tes/v1"] {
        let current = stand.get(&format!("{prefix}/service-info")).await.json();
        let keys: Vec<_> = current.as_object().unwrap().keys().cloned().collect();
        let expected =
            "description id name organization storage tesResources_backend_parameters type version";
        assert_eq!(keys.join(" "), expected);
        assert_eq!(current["type"], json!({ "group": "org.ga4gh", "artifact": "tes", "version": "1.1.0" }));
        assert_eq!(current["storage"], storage);
        assert!(current["organization"]["url"].as_str().unwrap().starts_with("http"));
        let old = stand.get(&format!("{prefix}/tasks/service-info")).await.json();
        assert_eq!(old.as_object().unwrap().keys().cloned().collect::<Vec<_>>(), ["doc", "name", "storage"]);
        assert_eq!(old["storage"], storage);
    }
    assert_eq!(stand.get("/v1/nodes").await.json(), json!({ "nodes": [] }));
    assert_eq!(stand.get("/healthz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn refuses_pages_of_other_sites() {
    let stand = Stand::new();
    let task = json!({ "executors": [{ "image": "i", "command": ["c"] }] }).to_string();
    let request = |origin: &str| {
        let request = Request::post("/v1/tasks").header("host", "localhost:8000").header("origin", origin);
        request.body(Body::from(task.clone())).unwrap()
    };
    assert_eq!(stand.send(request("http://evil.example")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(stand.send(request("http://localhost:8000")).await.status, StatusCode::OK);
}

pub(super) async fn exchange(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is reset gives what came before.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

pub(super) fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn drops_the_connection_rather_than_answer_5xx() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(directory.path().join("disk"), "size=8m") else { return };
    let state = stand::state(&disk.0, &[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serving = super::serve(listener, state, shutdown.clone());
    let asking = async {
        let task =
            json!({ "executors": [{ "image": "i", "command": ["c", "x".repeat(100_000)] }] }).to_string();
        let mut created = 0;
        // Until the disk is full, every answer is a 200; then there is none at all.
        loop {
            let answer = exchange(address, &post("/v1/tasks", &task)).await;
            if answer.is_empty() {
                break;
            }
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            created += 1;
        }
        assert!(created > 2, "{created}");
        assert_eq!(exchange(address, &post("/v1/tasks", &task)).await, "", "the controller has stopped");
        let listed =
            exchange(address, "GET /v1/tasks HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(listed.starts_with("HTTP/1.1 200 OK\r\n"), "reads go on: {listed}");
        let ready = exchange(address, "GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(ready.starts_with("HTTP/1.1 503 "), "not for engines, so it may say so: {ready}");
        // An idle connection does not hold up the end.
        let idle = TcpStream::connect(address).await.unwrap();
        shutdown.cancel();
        idle
    };
    let (served, _idle) = tokio::join!(serving, asking);
    served.unwrap();
}

#[tokio::test]
async fn idle_connections_are_no_hindrance() {
    let directory = tempfile::tempdir().unwrap();
    let state = stand::state(directory.path(), &[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serving = super::serve(listener, state, shutdown.clone());
    let asking = async {
        let mut idle = Vec::new();
        let mut half_asked = Vec::new();
        for _ in 0..200 {
            idle.push(TcpStream::connect(address).await.unwrap());
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /healthz HT").await.unwrap();
            half_asked.push(stream);
        }
        let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..3 {
            stream.write_all(request).await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"{\"status\":\"ok\"}") {
                assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "the connection stays open");
            }
        }
        idle.push(stream);
        // Those that are idle do not hold up the end. Those that have begun to ask would be given time.
        drop(half_asked);
        shutdown.cancel();
        idle
    };
    let (served, _idle) = tokio::join!(serving, asking);
    served.unwrap();
}
