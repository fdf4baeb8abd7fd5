//! `GET /tasks/{id}/logs`: what executors write and wrote. TES has no place for it of its own that is fit for
//! people: JSON by attempt and executor, the streams of the last attempt as plain text, or followed as they
//! grow. Bytes come from the node as they are asked for, and from the task's own record when it has no more.

mod follow;
mod position;
mod source;
mod text;
mod utf8;
mod waiting;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use self::position::Position;
use self::source::{Place, STREAMS, Source, end_of, stored_end};
use self::utf8::Decoder;
use super::Api;
use super::error::ApiError;
use super::response::{self, state_name};
use super::tasks::{self, Parameters, PathId, parameter};
use crate::attempt_log::{AttemptLog, ExecutorLog};
use crate::log_hub::{LogStream, PART_BYTES_MAX, Unread};
use crate::store::{StoredTask, Want};

/// Which of a task's three logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
    System,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Question {
    stream: Option<Stream>,
    executor: Option<u32>,
    /// The last bytes only.
    tail: Option<u64>,
    follow: bool,
}

impl Question {
    fn parse(parameters: &Parameters) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        let stream = match parameter(parameters, "stream") {
            None => None,
            Some("stdout") => Some(Stream::Stdout),
            Some("stderr") => Some(Stream::Stderr),
            Some("system") => Some(Stream::System),
            Some(_) => {
                errors.push("stream: must be stdout, stderr or system");
                None
            }
        };
        let executor = parameter(parameters, "executor").map(str::parse).transpose();
        errors.extend(executor.is_err().then_some("executor: must be a number, counted from 0"));
        let tail = parameter(parameters, "tail").map(str::parse).transpose();
        errors.extend(tail.is_err().then_some("tail: must be a number of bytes"));
        let follow = parameter(parameters, "follow").unwrap_or("false").parse();
        errors.extend(follow.is_err().then_some("follow: must be true or false"));
        let (true, Ok(executor), Ok(tail), Ok(follow)) = (errors.is_empty(), executor, tail, follow) else {
            return Err(ApiError::Invalid(errors.join("; ")));
        };
        Ok(Self { stream, executor, tail, follow })
    }

    fn wants(&self, stream: LogStream) -> bool {
        match (self.stream, stream) {
            (None, _) => true,
            (Some(Stream::Stdout), LogStream::Stdout) | (Some(Stream::Stderr), LogStream::Stderr) => true,
            (Some(_), _) => false,
        }
    }
}

/// `GET /tasks/{id}/logs`
pub(super) async fn logs(
    State(api): State<Arc<Api>>,
    id: PathId,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let question = Question::parse(&tasks::parameters(&uri)?)?;
    let id = tasks::text(id)?;
    if question.follow {
        let task = tasks::find(&api, &id, Want::Status)?;
        let last_id = headers.get("last-event-id").and_then(|id| id.to_str().ok());
        return Ok(follow::answer(api, task.head.id, question, last_id.and_then(Position::parse)));
    }
    let task = tasks::find(&api, &id, Want::Everything)?;
    let source = Source::last(&api.state.log_hub, &task);
    if question.stream.is_some() || wants_text(&headers) {
        let system = system_text(&task, &api);
        return Ok(text::answer(source, &question, system).await);
    }
    let notes = response::notes(task.seq, &task.status, &api.state.board);
    Ok(Json(document(&task, notes, source, question.tail).await).into_response())
}

fn wants_text(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.split(',').next().is_some_and(|first| first.trim().starts_with("text/plain"))
}

/// What the system says of the last attempt, and of the task.
fn system_text(task: &StoredTask, api: &Api) -> String {
    let lines = task.attempts.last().map(|(_, log)| log.system_logs.as_slice()).unwrap_or_default();
    let notes = response::notes(task.seq, &task.status, &api.state.board);
    lines.iter().chain(&notes).flat_map(|line| [line.as_str(), "\n"]).collect()
}

/// All attempts: the stored ends of their logs, or the last `tail` bytes of those. Of the attempt under way
/// what its node has now.
async fn document(task: &StoredTask, notes: Vec<String>, source: Option<Source>, tail: Option<u64>) -> Value {
    let limit = tail.unwrap_or(u64::MAX);
    let mut attempts: Vec<_> =
        task.attempts.iter().map(|(number, log)| attempt(*number, log, limit)).collect();
    if let Some(source) = source.filter(|source| source.stored.is_none()) {
        attempts.push(under_way(&source, limit).await);
    }
    json!({
        "id": task.head.id,
        "state": state_name(&task.status),
        "attempts": attempts,
        "system_logs": notes,
    })
}

fn attempt(number: u32, log: &AttemptLog, limit: u64) -> Value {
    let executors: Vec<_> = log.executors.iter().map(|log| executor(log, limit)).collect();
    json!({
        "attempt": number,
        "node": log.node,
        "start_time": log.start_time,
        "end_time": log.end_time,
        "executors": executors,
        "system_logs": log.system_logs,
    })
}

fn executor(log: &ExecutorLog, limit: u64) -> Value {
    let [(stdout, stdout_bytes), (stderr, stderr_bytes)] = STREAMS.map(|stream| stored_end(log, stream));
    let (stdout, stderr) = (end_of(stdout, limit), end_of(stderr, limit));
    json!({
        "start_time": log.start_time,
        "end_time": log.end_time,
        "exit_code": log.exit_code,
        "out_of_memory": log.out_of_memory,
        "stdout": stdout,
        "stderr": stderr,
        "stdout_bytes": stdout_bytes,
        "stderr_bytes": stderr_bytes,
        "tail_only": (stdout.len() as u64) < stdout_bytes || (stderr.len() as u64) < stderr_bytes,
    })
}

/// The attempt that has not ended: its executors up to the one that runs.
async fn under_way(source: &Source, limit: u64) -> Value {
    let mut executors = Vec::new();
    for index in 0..source.executors {
        let mut executor = json!({ "stdout": "", "stderr": "" });
        let (mut is_tail, mut has_ended) = (false, true);
        for (stream, name) in STREAMS.into_iter().zip(["stdout", "stderr"]) {
            // A node that is away has nothing to show now.
            let Ok((text, size_bytes, ended)) = live_end(source, index, stream, limit).await else {
                has_ended = false;
                continue;
            };
            is_tail |= (text.len() as u64) < size_bytes;
            has_ended &= ended;
            executor[name] = text.into();
            executor[format!("{name}_bytes")] = size_bytes.into();
        }
        executor["tail_only"] = is_tail.into();
        executors.push(executor);
        if !has_ended {
            break;
        }
    }
    json!({ "attempt": source.attempt, "node": source.node(), "executors": executors, "system_logs": [] })
}

async fn live_end(
    source: &Source,
    executor: u32,
    stream: LogStream,
    limit: u64,
) -> Result<(String, u64, bool), Unread> {
    let size_bytes = source.read_now(Place { executor, stream, offset: 0 }, 0).await?.size_bytes;
    let offset = size_bytes.saturating_sub(limit.min(PART_BYTES_MAX as u64));
    let part = source.read_now(Place { executor, stream, offset }, PART_BYTES_MAX).await?;
    let mut decoder = if offset > 0 { Decoder::after_cut() } else { Decoder::default() };
    // Half a character at the end is still being written.
    Ok((decoder.decode(&part.data, part.has_ended).0, part.size_bytes, part.has_ended))
}
