//! `GET /tasks`: one page, newest first.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;

use super::Api;
use super::caller::Caller;
use super::error::ApiError;
use super::response::{self, Reading, TaskView};
use super::tasks::{self, Parameters, parameter};
use crate::store::{Cursor, FinalState, ListQuery, Shown, StateFilter, TagFilter};

/// By the specification, and the most.
const PAGE_SIZE_DEFAULT: usize = 256;
const PAGE_SIZE_MAX: usize = 2047;

/// First byte of a page token: the version of what follows.
const TOKEN_VERSION: u8 = 1;

/// `tesListTasksResponse`
#[derive(Debug, Serialize)]
pub(super) struct ListView {
    pub(super) tasks: Vec<TaskView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_page_token: Option<String>,
}

/// `GET /tasks`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let parameters = tasks::parameters(&uri)?;
    let small_sizes = tasks::has_small_sizes(&headers);
    let write =
        |list: ListView| serde_json::to_vec(&list).expect("views have text keys and no failing serializer");
    let body = page(&api, &parameters, small_sizes, write).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from(body)).into_response())
}

/// The page that `parameters` ask for, as `write` puts it.
pub(super) async fn page<T: Send + 'static>(
    api: &Api,
    parameters: &Parameters,
    small_sizes: bool,
    write: impl FnOnce(ListView) -> T + Send + 'static,
) -> Result<T, ApiError> {
    let view = tasks::view(parameters)?;
    let query = ListQuery { want: view.want(), ..query(parameters)? };
    let _turn = api.lists.acquire().await.expect("the semaphore is never closed");
    let (reader, board) = (api.state.reader.clone(), api.state.board.view());
    // Reading and writing out thousands of tasks would hold up everybody else on this thread.
    let listed = tokio::task::spawn_blocking(move || -> Result<T, ApiError> {
        let page = reader.list(&query)?;
        let reading = Reading { view, small_sizes, board: &board };
        let tasks = page.tasks.into_iter().map(|task| response::task(task, reading)).collect();
        Ok(write(ListView { tasks, next_page_token: page.next.map(token) }))
    });
    // It fails only by a panic or because the runtime is going down.
    listed.await.map_err(|_| ApiError::Passing)?
}

fn query(parameters: &Parameters) -> Result<ListQuery, ApiError> {
    let mut errors = Vec::new();
    let limit = parameter(parameters, "page_size").map_or(Ok(PAGE_SIZE_DEFAULT), page_size);
    let below = parameter(parameters, "page_token").map(cursor).transpose();
    let state = parameter(parameters, "state").map(state).transpose();
    let tags = tags(parameters);
    for error in [limit.as_ref().err(), below.as_ref().err(), state.as_ref().err(), tags.as_ref().err()] {
        errors.extend(error.copied());
    }
    let (Ok(limit), Ok(below), Ok(state), Ok(tags)) = (limit, below, state, tags) else {
        return Err(ApiError::Invalid(errors.join("; ")));
    };
    Ok(ListQuery {
        below,
        state,
        tags,
        owner: Some(Caller::anonymous().owner),
        name_prefix: parameter(parameters, "name_prefix").map(str::to_owned),
        ..ListQuery::newest(limit)
    })
}

fn page_size(text: &str) -> Result<usize, &'static str> {
    let size = text.parse().ok().filter(|size| (1..=PAGE_SIZE_MAX).contains(size));
    size.ok_or("page_size: must be a whole number from 1 to 2047")
}

/// Text that means nothing to clients: the page begins below this place.
fn token(cursor: Cursor) -> String {
    let mut bytes = [0; 9];
    bytes[0] = TOKEN_VERSION;
    bytes[1..].copy_from_slice(&cursor.0.to_be_bytes());
    BASE64URL_NOPAD.encode(&bytes)
}

/// A token only names a place, so a made-up one shows nothing that the caller could not see anyway.
fn cursor(token: &str) -> Result<Cursor, &'static str> {
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok();
    match bytes.as_deref().and_then(|bytes| bytes.split_first()) {
        Some((&TOKEN_VERSION, place)) => place.try_into().ok().map(|place| Cursor(u64::from_be_bytes(place))),
        _ => None,
    }
    .ok_or("page_token: must be one that this service gave out")
}

fn state(name: &str) -> Result<StateFilter, &'static str> {
    Ok(match name.to_ascii_uppercase().as_str() {
        "QUEUED" => StateFilter::Live(Shown::Queued),
        "INITIALIZING" => StateFilter::Live(Shown::Initializing),
        "RUNNING" => StateFilter::Live(Shown::Running),
        "COMPLETE" => StateFilter::Final(FinalState::Complete),
        "EXECUTOR_ERROR" => StateFilter::Final(FinalState::ExecutorError),
        "SYSTEM_ERROR" => StateFilter::Final(FinalState::SystemError),
        "CANCELED" => StateFilter::Final(FinalState::Canceled),
        // States of the specification that no task is ever shown in.
        "UNKNOWN" | "PAUSED" | "PREEMPTED" | "CANCELING" => StateFilter::Nothing,
        _ => return Err("state: must be a state of TES 1.1"),
    })
}

/// Keys and values are zipped by their order; a value that is empty or missing stands for any.
fn tags(parameters: &Parameters) -> Result<Vec<TagFilter>, &'static str> {
    let values_of =
        |name| parameters.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.clone());
    let mut values = values_of("tag_value");
    let mut tags = Vec::new();
    for key in values_of("tag_key") {
        if key.is_empty() {
            return Err("tag_key: must not be empty");
        }
        tags.push(TagFilter { key, value: values.next().filter(|value| !value.is_empty()) });
    }
    if values.next().is_some() {
        return Err("tag_value: must not be given more often than tag_key");
    }
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_a_round_trip_and_rubbish_is_refused() {
        assert_eq!(cursor(&token(Cursor(77))), Ok(Cursor(77)));
        for rubbish in ["", "x", "AAAA", "7", "AQAAAAAAAABNAA", "../..", "AgAAAAAAAABN"] {
            assert!(cursor(rubbish).is_err(), "{rubbish}");
        }
    }

    #[test]
    fn tags_are_zipped_in_their_order() {
        let parameters = |pairs: &[(&str, &str)]| -> Parameters {
            pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
        };
        let tag =
            |key: &str, value: Option<&str>| TagFilter { key: key.into(), value: value.map(Into::into) };
        let given = parameters(&[
            ("tag_key", "a"),
            ("tag_key", "b"),
            ("tag_key", "c"),
            ("tag_value", ""),
            ("tag_value", "x"),
        ]);
        assert_eq!(tags(&given), Ok(vec![tag("a", None), tag("b", Some("x")), tag("c", None)]));
        assert!(tags(&parameters(&[("tag_value", "x")])).is_err());
        assert!(tags(&parameters(&[("tag_key", "")])).is_err());
    }
}
