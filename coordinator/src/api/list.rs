//! `GET /tasks`: one page, newest first.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Api;
use super::caller::Caller;
use super::error::ApiError;
use super::page_token::{self, Filters};
use super::response::{self, Reading, TaskView};
use super::tasks::{self, Parameters, parameter};
use crate::store::{FinalState, ListQuery, Shown, StateFilter, TagFilter};

/// By the specification, and the most.
const PAGE_SIZE_DEFAULT: usize = 256;
const PAGE_SIZE_MAX: usize = 2047;

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
    let owner = Caller::anonymous().owner;
    let (view, query) = match (tasks::view(parameters), query(api, &owner, parameters)) {
        (Ok(view), Ok(query)) => (view, ListQuery { want: view.want(), ..query }),
        (Err(ApiError::Invalid(one)), Err(ApiError::Invalid(other))) => {
            return Err(ApiError::Invalid(format!("{one}; {other}")));
        }
        (Err(error), _) | (_, Err(error)) => return Err(error),
    };
    let _turn = api.state.admission.list().await;
    let (reader, board) = (api.state.reader.clone(), api.state.board.clone());
    let (secret, state) = (api.state.secret.clone(), state_name(parameters));
    // Reading and writing out thousands of tasks would hold up everybody else on this thread.
    let listed = tokio::task::spawn_blocking(move || -> Result<T, ApiError> {
        let page = reader.list(&query)?;
        let reading = Reading { view, small_sizes, board: &board };
        let tasks = page.tasks.into_iter().map(|task| response::task(task, reading)).collect();
        let token = |cursor| page_token::seal(&secret, &owner, &filters(&query, state.as_deref()), cursor);
        Ok(write(ListView { tasks, next_page_token: page.next.map(token) }))
    });
    // It fails only by a panic or because the runtime is going down.
    listed.await.map_err(|_| ApiError::Passing)?
}

fn query(api: &Api, owner: &str, parameters: &Parameters) -> Result<ListQuery, ApiError> {
    let mut errors = Vec::new();
    let limit = parameter(parameters, "page_size").map_or(Ok(PAGE_SIZE_DEFAULT), page_size);
    let opened = parameter(parameters, "page_token").map(|token| {
        page_token::open(&api.state.secret, owner, token)
            .ok_or("page_token: must be one that this service gave out")
    });
    let opened = opened.transpose();
    let state_name = state_name(parameters);
    let state = state_name.as_deref().map(state).transpose();
    let tags = tags(parameters);
    for error in [limit.as_ref().err(), opened.as_ref().err(), state.as_ref().err(), tags.as_ref().err()] {
        errors.extend(error.copied());
    }
    let (Ok(limit), Ok(opened), Ok(state), Ok(tags)) = (limit, opened, state, tags) else {
        return Err(ApiError::Invalid(errors.join("; ")));
    };
    let query = ListQuery {
        below: opened.map(|opened| opened.cursor),
        state,
        tags,
        owner: Some(owner.to_owned()),
        name_prefix: parameter(parameters, "name_prefix").map(str::to_owned),
        ..ListQuery::newest(limit)
    };
    if opened.is_some_and(|opened| !opened.is_for(&filters(&query, state_name.as_deref()))) {
        let reason = "page_token: belongs to a list with other filters; send the same state, name_prefix, \
                      tag_key and tag_value with every page";
        return Err(ApiError::Invalid(reason.to_owned()));
    }
    Ok(query)
}

/// What the pages of one list have in common. The state is that of `query`, by its name.
fn filters<'f>(query: &'f ListQuery, state: Option<&'f str>) -> Filters<'f> {
    Filters { state, name_prefix: query.name_prefix.as_deref(), tags: &query.tags }
}

fn state_name(parameters: &Parameters) -> Option<String> {
    parameter(parameters, "state").map(str::to_ascii_uppercase)
}

fn page_size(text: &str) -> Result<usize, &'static str> {
    let size = text.parse().ok().filter(|size| (1..=PAGE_SIZE_MAX).contains(size));
    size.ok_or("page_size: must be a whole number from 1 to 2047")
}

fn state(name: &str) -> Result<StateFilter, &'static str> {
    Ok(match name {
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
