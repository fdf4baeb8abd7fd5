//! `GET /tasks/{id}/logs`: what the attempts that have ended left behind. TES has no place for it of its own
//! that is fit for people: JSON by attempt and executor, or one stream of the last attempt as plain text.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use super::response::state_name;
use super::tasks::{self, PathId, parameter};
use crate::attempt_log::{AttemptLog, ExecutorLog};
use crate::store::{Status, Want};

/// What plain text is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
    System,
}

/// `GET /tasks/{id}/logs`
pub(super) async fn logs(
    State(api): State<Arc<Api>>,
    id: PathId,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let stream = match parameter(&tasks::parameters(&uri)?, "stream") {
        None => None,
        Some("stdout") => Some(Stream::Stdout),
        Some("stderr") => Some(Stream::Stderr),
        Some("system") => Some(Stream::System),
        Some(_) => return Err(ApiError::Invalid("stream: must be stdout, stderr or system".to_owned())),
    };
    let task = tasks::find(&api, &tasks::text(id)?, Want::Everything)?;
    let notes = match &task.status {
        Status::Live(row) => &row.notes,
        Status::Final(row) => &row.notes,
    };
    if stream.is_some() || wants_text(&headers) {
        let log = task.attempts.last().map(|(_, log)| log);
        let text = match stream {
            Some(stream) => stream_text(stream, log, notes),
            None => [Stream::Stdout, Stream::Stderr, Stream::System]
                .map(|stream| stream_text(stream, log, notes))
                .concat(),
        };
        return Ok(plain(text));
    }
    let attempts: Vec<_> = task.attempts.iter().map(|(number, log)| attempt(*number, log)).collect();
    Ok(Json(json!({
        "id": task.head.id,
        "state": state_name(&task.status),
        "attempts": attempts,
        "system_logs": notes,
    }))
    .into_response())
}

fn wants_text(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.split(',').next().is_some_and(|first| first.trim().starts_with("text/plain"))
}

/// Not even a browser may take what a task wrote for anything but text.
fn plain(text: String) -> Response {
    let headers =
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (headers, text).into_response()
}

/// One stream of all executors, in their order.
fn stream_text(stream: Stream, log: Option<&AttemptLog>, notes: &[String]) -> String {
    let executors = log.map(|log| log.executors.as_slice()).unwrap_or_default();
    match stream {
        Stream::Stdout => executors.iter().map(|executor| executor.stdout.as_str()).collect(),
        Stream::Stderr => executors.iter().map(|executor| executor.stderr.as_str()).collect(),
        Stream::System => {
            let lines = log.map(|log| log.system_logs.as_slice()).unwrap_or_default().iter().chain(notes);
            lines.flat_map(|line| [line.as_str(), "\n"]).collect()
        }
    }
}

fn attempt(number: u32, log: &AttemptLog) -> Value {
    let executors: Vec<_> = log.executors.iter().map(executor).collect();
    json!({
        "attempt": number,
        "node": log.node,
        "start_time": log.start_time,
        "end_time": log.end_time,
        "executors": executors,
        "system_logs": log.system_logs,
    })
}

fn executor(log: &ExecutorLog) -> Value {
    json!({
        "start_time": log.start_time,
        "end_time": log.end_time,
        "exit_code": log.exit_code,
        "out_of_memory": log.out_of_memory,
        "stdout": log.stdout,
        "stderr": log.stderr,
    })
}
