//! What watchers are told, and how their streams and connections end.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::json;
use teamster_proto::tes::v1 as wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use wire::State;

use super::super::super::Api;
use super::super::super::response::View;
use super::super::serve::Patience;
use super::super::watch;
use super::{PATIENCE, Stand, ended, preparing, running, small_task, told};
use crate::cluster::Ending;
use crate::controller::{HeldAttempt, Stage};

#[tokio::test]
async fn a_watcher_sees_a_task_through() {
    let mut stand = Stand::new().await;
    let id = stand.create(small_task()).await.unwrap();
    let mut stream = stand.watch(&id).await.unwrap();
    assert_eq!(told(&mut stream).await, Some((State::Queued, None)), "at once");
    let mut agent = stand.agent().await;
    assert_eq!(told(&mut stream).await, Some((State::Initializing, None)));
    let held = agent.assigned().await;
    agent.report(&held, running(0)).await;
    assert_eq!(told(&mut stream).await, Some((State::Running, Some(0))));
    agent.report(&held, running(1)).await;
    assert_eq!(told(&mut stream).await, Some((State::Running, Some(1))), "progress is a change");
    agent.report(&held, ended(Ending::Complete)).await;
    assert_eq!(told(&mut stream).await, Some((State::Complete, None)));
    assert_eq!(told(&mut stream).await, None, "then the stream ends");

    let mut stream = stand.watch(&id).await.unwrap();
    assert_eq!(told(&mut stream).await, Some((State::Complete, None)), "an ended task is told once");
    assert_eq!(told(&mut stream).await, None);
    assert_eq!(stand.watch("none").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn what_is_done_to_prepare_a_task_is_the_last_line_of_its_system_log() {
    let mut stand = Stand::new().await;
    let id = stand.create(small_task()).await.unwrap();
    let request = wire::WatchTaskRequest { id: id.clone(), view: wire::View::Full.into() };
    let mut stream = stand.client.watch_task(request).await.unwrap().into_inner();
    let mut next = async || {
        let task = timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap().task.unwrap();
        (task.state(), task.logs.last().map(|log| log.system_logs.clone()).unwrap_or_default())
    };
    assert_eq!(next().await.0, State::Queued);
    let mut agent = stand.agent().await;
    let held = agent.assigned().await;
    assert_eq!(next().await, (State::Initializing, vec![]));
    for line in ["1 of 3", "2 of 3"] {
        agent.report(&held, preparing(Some(line))).await;
        assert_eq!(next().await, (State::Initializing, vec![line.to_owned()]));
        let shown = stand.rest_get(&format!("/v1/tasks/{id}?view=FULL")).await;
        assert_eq!(shown["logs"][0]["system_logs"], json!([line]));
        assert_eq!(stand.rest_get(&format!("/v1/tasks/{id}/logs")).await["system_logs"], json!([line]));
    }
    // Nobody who looks is told of the same again, nor of an attempt that is not the present one.
    agent.report(&held, preparing(Some("2 of 3"))).await;
    let other = HeldAttempt { attempt: held.attempt + 1, ..held.clone() };
    agent.report(&other, preparing(Some("3 of 3"))).await;
    agent.report(&held, preparing(None)).await;
    assert_eq!(next().await, (State::Initializing, vec![]));
    agent.report(&held, preparing(Some("3 of 3"))).await;
    assert_eq!(next().await.1, ["3 of 3"]);
    agent.report(&held, running(0)).await;
    assert_eq!(next().await, (State::Running, vec![]));
    agent.report(&held, ended(Ending::Complete)).await;
    assert_eq!(next().await, (State::Complete, vec![]));
}

#[tokio::test]
async fn a_slow_reader_is_told_the_latest_and_always_the_last() {
    let mut stand = Stand::new().await;
    let id = stand.create(small_task()).await.unwrap();
    let api = Api::new(stand.state.clone());
    let mut slow = watch::begin(api, id, View::Full, CancellationToken::new()).unwrap();
    let mut state =
        async || Some(timeout(PATIENCE, slow.next()).await.unwrap()?.unwrap().task.unwrap().state());
    assert_eq!(state().await, Some(State::Queued));
    let mut agent = stand.agent().await;
    let held = agent.assigned().await;
    agent.report(&held, running(0)).await;
    agent.report(&held, running(1)).await;
    assert_eq!(state().await, Some(State::Running), "what came before is passed over");
    agent.report(&held, Stage::Finalizing).await;
    agent.report(&held, ended(Ending::Complete)).await;
    assert_eq!(state().await, Some(State::Complete));
    assert_eq!(state().await, None);
}

#[tokio::test]
async fn a_task_that_is_canceled_while_it_waits_ends_its_watches() {
    let mut stand = Stand::new().await;
    let id = stand.create(small_task()).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..300 {
        let mut stream = stand.watch(&id).await.unwrap();
        assert_eq!(told(&mut stream).await, Some((State::Queued, None)));
        streams.push(stream);
    }
    stand.client.cancel_task(wire::CancelTaskRequest { id }).await.unwrap();
    for stream in &mut streams {
        assert_eq!(told(stream).await, Some((State::Canceled, None)));
        assert_eq!(told(stream).await, None);
    }
}

#[tokio::test]
async fn a_stop_ends_every_watch() {
    let mut stand = Stand::new().await;
    let id = stand.create(small_task()).await.unwrap();
    let mut read = stand.watch(&id).await.unwrap();
    let unread = stand.watch(&id).await.unwrap();
    assert_eq!(told(&mut read).await, Some((State::Queued, None)));
    let silent = TcpStream::connect(stand.address).await.unwrap();
    stand.shutdown.cancel();
    let refused = timeout(PATIENCE, read.message()).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    timeout(PATIENCE, stand.server.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    drop((unread, silent));
}

#[tokio::test]
async fn a_stop_does_not_wait_for_one_who_reads_nothing() {
    let finish = Duration::from_millis(100);
    let mut stand = Stand::with(Patience { finish, first_call: PATIENCE }).await;
    let input = wire::Input { path: "/in".into(), content: Some("x".repeat(10 << 20)), ..Default::default() };
    let id = stand.create(wire::Task { inputs: vec![input], ..small_task() }).await.unwrap();
    // More than the windows of the connection hold, so that its end cannot be written.
    let request = wire::WatchTaskRequest { id, view: wire::View::Full.into() };
    let stuck = stand.client.watch_task(request).await.unwrap();
    stand.shutdown.cancel();
    timeout(PATIENCE, stand.server.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    drop(stuck);
}

#[tokio::test]
async fn a_connection_without_a_call_is_ended_and_one_with_a_watch_is_not() {
    let first_call = Duration::from_millis(100);
    let mut stand = Stand::with(Patience { first_call, finish: PATIENCE }).await;
    let task = json!({ "executors": [{ "image": "i", "command": ["c"] }] });
    let id = stand.rest_create(&task).await["id"].as_str().unwrap().to_owned();
    // On a slow machine the client's own connection may be ended before its call; it makes another one.
    let mut stream = timeout(PATIENCE, async {
        loop {
            if let Ok(stream) = stand.watch(&id).await {
                break stream;
            }
        }
    })
    .await
    .unwrap();
    assert_eq!(told(&mut stream).await, Some((State::Queued, None)));
    for greeting in ["", "PRI * HTTP/2.0\r\n"] {
        let mut silent = TcpStream::connect(stand.address).await.unwrap();
        silent.write_all(greeting.as_bytes()).await.unwrap();
        let ended = timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await;
        // With a reset or without: it is over.
        drop(ended.expect("the connection is ended"));
    }
    stand.client.cancel_task(wire::CancelTaskRequest { id }).await.unwrap();
    assert_eq!(told(&mut stream).await, Some((State::Canceled, None)));
}
