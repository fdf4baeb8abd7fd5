//! Live logs through the real router, with a node that is a piece of the test.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use futures_util::StreamExt;
use jiff::Timestamp;
use serde_json::Value;
use teamster_values::TaskId;
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::api::{router, stand};
use crate::attempt_log::{AttemptLog, ExecutorLog};
use crate::board::{Board, Progress};
use crate::log_hub::{LogHub, LogPart, LogStream, Unread};
use crate::spec::TaskSpec;
use crate::store::{Asks, Change, FinalState, LiveRow, LiveState};

fn id() -> TaskId {
    TaskId::from_bytes([9; 16])
}

fn accepted(executors: usize) -> Change {
    let executors = vec![serde_json::json!({"image": "i", "command": ["c"]}); executors];
    let spec: TaskSpec = serde_json::from_value(serde_json::json!({ "executors": executors })).unwrap();
    Change::Accepted {
        seq: 1,
        id: id(),
        owner: crate::api::caller::Caller::anonymous().owner,
        created: Timestamp::UNIX_EPOCH,
        spec: Arc::new(spec),
        asks: Asks::default(),
        notes: Vec::new(),
    }
}

/// A task that ended after it wrote `written` to standard output, of which the end is stored.
fn ended(written: &str, stored: &str) -> Vec<Change> {
    let stdout_bytes = written.len() as u64;
    let executor = ExecutorLog { stdout: stored.into(), stdout_bytes, ..ExecutorLog::default() };
    let log = AttemptLog {
        node: Some("n1".into()),
        executors: vec![executor],
        system_logs: vec!["done".into()],
        ..AttemptLog::default()
    };
    let finished = Change::Finished { seq: 1, state: FinalState::Complete };
    vec![accepted(1), Change::AttemptEnded { seq: 1, attempt: 1, log }, finished]
}

struct Bench {
    router: axum::Router,
    hub: Arc<LogHub>,
    board: Arc<Board>,
    nodes: JoinSet<()>,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(rows: &[Change]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = stand::state(directory.path(), rows);
        let (hub, board) = (state.log_hub.clone(), state.board.clone());
        Self { router: router(state), hub, board, nodes: JoinSet::new(), _directory: directory }
    }

    /// A node on which each executor has written this to standard output, and nothing more comes.
    fn node(&mut self, written: &'static [&'static [u8]]) {
        let (attached, mut asked) = self.hub.attach("n1");
        self.nodes.spawn(async move {
            while let Some(request) = asked.recv().await {
                let read = &request.read;
                let is_stdout = read.stream == LogStream::Stdout;
                let all = written.get(read.executor as usize).filter(|_| is_stdout).copied().unwrap_or(b"");
                let from = all.len().min(read.offset as usize);
                let to = all.len().min(from + read.bytes_max.min(1000));
                let part =
                    LogPart { data: all[from..to].to_vec(), size_bytes: all.len() as u64, has_ended: true };
                attached.answered(request.number, Ok(part));
            }
        });
    }

    async fn answer(&self, query: &str, header: Option<(&str, &str)>) -> axum::response::Response {
        let mut request = Request::get(format!("/v1/tasks/{}/logs{query}", id()));
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn text(&self, query: &str) -> (String, String) {
        let answer = self.answer(query, None).await;
        let extent = answer.headers()["teamster-logs"].to_str().unwrap().to_owned();
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (String::from_utf8(body.to_vec()).unwrap(), extent)
    }

    async fn events(&self, query: &str, last_id: Option<&str>) -> Vec<(String, String, String)> {
        let answer = self.answer(query, last_id.map(|id| ("last-event-id", id))).await;
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        events(std::str::from_utf8(&body).unwrap())
    }
}

/// Id, name, text.
fn events(text: &str) -> Vec<(String, String, String)> {
    let blocks = text.split("\n\n").filter(|block| block.starts_with("id: "));
    let event = |block: &str| {
        let field = |name| block.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        let data: Value = serde_json::from_str(&field("data: ")).unwrap();
        (field("id: "), field("event: "), data.as_str().unwrap().to_owned())
    };
    blocks.map(event).collect()
}

fn joined(events: &[(String, String, String)], name: &str) -> String {
    events.iter().filter(|event| event.1 == name).map(|event| event.2.as_str()).collect()
}

const LONG: &[u8] = &[b'x'; 3500];

#[tokio::test]
async fn text_is_whole_while_the_node_has_it_and_the_tail_after_that() {
    let written = "0123456789";
    let mut bench = Bench::new(&ended(written, "789"));
    assert_eq!(bench.text("?stream=stdout").await, ("789".into(), "tail".into()));
    assert_eq!(bench.text("?stream=stdout&tail=2").await, ("89".into(), "tail".into()));
    bench.node(&[b"0123456789"]);
    assert_eq!(bench.text("?stream=stdout").await, (written.into(), "whole".into()));
    assert_eq!(bench.text("?stream=stdout&tail=4").await, ("6789".into(), "whole".into()));
    assert_eq!(bench.text("?stream=stdout&executor=1").await, (String::new(), "whole".into()));
    assert_eq!(bench.text("?stream=system").await, ("done\n".into(), "whole".into()));
    for query in ["?tail=-1", "?tail=x", "?executor=x", "?follow=1"] {
        assert_eq!(bench.answer(query, None).await.status(), 400, "{query}");
    }
}

#[tokio::test]
async fn json_says_when_it_shows_only_the_tail() {
    let bench = Bench::new(&ended("0123456789", "789"));
    let answer = bench.answer("", None).await;
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    let json: Value = serde_json::from_slice(&body).unwrap();
    let executor = &json["attempts"][0]["executors"][0];
    assert_eq!((&executor["stdout"], &executor["stdout_bytes"]), (&"789".into(), &10.into()));
    assert_eq!(executor["tail_only"], true);
}

#[tokio::test]
async fn follows_to_the_end_and_from_where_it_was_left() {
    let mut bench = Bench::new(&ended("", ""));
    bench.node(&[LONG]);
    let all = bench.events("?follow=true", None).await;
    assert_eq!(joined(&all, "stdout").as_bytes(), LONG);
    assert_eq!(joined(&all, "system"), "done\n");
    assert_eq!((all.last().unwrap().1.as_str(), all.last().unwrap().2.as_str()), ("end", "COMPLETE"));
    let second = &all[1].0;
    assert_eq!(second, "1-0-2000-0");
    let rest = bench.events("?follow=true", Some(second)).await;
    assert_eq!(rest, all[2..]);
    let tail = bench.events("?follow=true&stream=stdout&tail=7", None).await;
    assert_eq!(joined(&tail, "stdout").len(), 7);
    assert_eq!(bench.events("?follow=true&stream=system", None).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_comes_too_late_is_told_what_is_missing() {
    // The node is away for good.
    let bench = Bench::new(&ended("0123456789", "789"));
    let all = bench.events("?follow=true", None).await;
    let missed = "missed 7 bytes of stdout of executor 0: the node has them no more\n";
    assert_eq!(joined(&all, "system"), format!("{missed}done\n"));
    assert_eq!(joined(&all, "stdout"), "789");
    let late = bench.events("?follow=true", Some("1-0-8-0")).await;
    assert_eq!((joined(&late, "stdout"), joined(&late, "system")), ("89".into(), "done\n".into()));
}

#[tokio::test]
async fn a_slow_reader_asks_for_nothing_and_holds_up_nobody() {
    let mut bench = Bench::new(&ended("", ""));
    bench.node(&[LONG]);
    let mut slow = bench.answer("?follow=true", None).await.into_body().into_data_stream();
    let first = slow.next().await.unwrap().unwrap();
    let readers = (0..50).map(|_| bench.events("?follow=true", None));
    for events in futures_util::future::join_all(readers).await {
        assert_eq!(joined(&events, "stdout").as_bytes(), LONG);
    }
    let mut text = String::from_utf8(first.to_vec()).unwrap();
    while let Some(more) = slow.next().await {
        text.push_str(std::str::from_utf8(&more.unwrap()).unwrap());
    }
    assert_eq!(joined(&events(&text), "stdout").as_bytes(), LONG);
}

#[tokio::test]
async fn who_follows_a_task_that_waits_is_told_what_for() {
    let bench = Bench::new(&[accepted(1)]);
    for query in ["?follow=true", "?follow=true&stream=stdout", "?follow=true&stream=system&tail=1"] {
        let mut events_of = bench.answer(query, None).await.into_body().into_data_stream();
        let first = events_of.next().await.unwrap().unwrap();
        // It has no id: who comes back comes back to where it was.
        let expected = "event: waiting\ndata: \"waiting for a node: none has ever connected\"\n\n";
        assert_eq!(std::str::from_utf8(&first).unwrap(), expected);
    }
}

#[tokio::test]
async fn who_follows_a_task_that_is_made_ready_is_told_how_far_that_is() {
    let placed = LiveRow {
        state: LiveState::Initializing,
        attempt: 1,
        node: Some("n1".into()),
        since: Some(Timestamp::UNIX_EPOCH),
        ..LiveRow::queued(Asks::default())
    };
    let bench = Bench::new(&[accepted(1), Change::Live { seq: 1, row: placed }]);
    // The node is asked for what the task writes, and does not answer yet.
    let (_attached, _asked) = bench.hub.attach("n1");
    let mut events_of = bench.answer("?follow=true", None).await.into_body().into_data_stream();
    for percent in [10, 90] {
        let note = format!("pulling the image: {percent} %");
        let progress = Progress::Preparing { note: note.as_str().into() };
        bench.board.show_progress(std::iter::once((1, Some(progress))));
        let event = events_of.next().await.unwrap().unwrap();
        let expected = format!("event: waiting\ndata: \"{note}\"\n\n");
        assert_eq!(std::str::from_utf8(&event).unwrap(), expected);
    }
}

#[tokio::test]
async fn an_agent_that_goes_and_comes_back_is_asked_for_the_rest() {
    let running = LiveRow {
        state: LiveState::Running,
        attempt: 1,
        node: Some("n1".into()),
        since: Some(Timestamp::UNIX_EPOCH),
        ..LiveRow::queued(Asks::default())
    };
    let bench = Bench::new(&[accepted(1), Change::Live { seq: 1, row: running }]);
    let mut events_of = bench.answer("?follow=true&stream=stdout", None).await.into_body().into_data_stream();
    let pieces = [(0, &b"ab\xe2\x82"[..], "ab"), (2, b"\xe2\x82\xac", "€"), (5, b"c", "c")];
    for (offset, piece, expected) in pieces {
        let serving = async {
            // One agent goes without an answer; what was not told by then is asked of the next one.
            let (attached, mut asked) = bench.hub.attach("n1");
            asked.recv().await.unwrap();
            drop(attached);
            let (attached, mut asked) = bench.hub.attach("n1");
            let request = asked.recv().await.unwrap();
            assert_eq!(request.read.offset, offset);
            let part = LogPart { data: piece.to_vec(), size_bytes: 100, has_ended: false };
            attached.answered(request.number, Ok(part));
            attached
        };
        let (event, attached) = tokio::join!(events_of.next(), serving);
        let text = String::from_utf8(event.unwrap().unwrap().to_vec()).unwrap();
        assert_eq!(joined(&events(&text), "stdout"), expected);
        drop(attached);
    }
    assert_eq!(bench.hub.read("n1", read()).await, Err(Unread::NoNode));
}

fn read() -> crate::log_hub::ReadLog {
    crate::log_hub::ReadLog {
        task: id(),
        attempt: 1,
        executor: 0,
        stream: LogStream::Stdout,
        offset: 0,
        bytes_max: 1,
        wait: std::time::Duration::ZERO,
    }
}
