//! One task: create, get, cancel.

use std::sync::Arc;

use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Uri, header};
use axum::{Extension, Json};
use serde_json::{Value, json};
use teamster_values::TaskId;

use super::Api;
use super::admission::{self, BODY_TIMEOUT, Incoming};
use super::caller::{Caller, Peer, Surface};
use super::error::ApiError;
use super::once;
use super::request::{self, BODY_BYTES_MAX, Checked};
use super::response::{self, Reading, TaskView, View};
use crate::controller::{CancelAnswer, Once, Submission};
use crate::store::{StoredTask, Want};

/// Parameters of the query, in their order.
pub(super) type Parameters = Vec<(String, String)>;

/// The `{id}` of a path; one that is not UTF-8 is no id either.
pub(super) type PathId = Result<Path<String>, PathRejection>;

/// `POST /tasks`. The answer means that the task is on disk.
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let key = once::key(&headers)?;
    // A body that does not say its size may be the largest.
    let announced_bytes = body.size_hint().upper().map_or(BODY_BYTES_MAX, |bytes| bytes as usize);
    let too_large = ApiError::TooLarge { limit_bytes: BODY_BYTES_MAX };
    if announced_bytes > BODY_BYTES_MAX {
        Incoming::new(body).discard().await;
        return Err(too_large);
    }
    let _room = api.state.admission.body(announced_bytes).await?;
    let body = Incoming::new(body).all(BODY_BYTES_MAX).await?.ok_or(too_large)?;
    let config = api.state.config.clone();
    let (request, once) = admission::read(body.len(), move || {
        let request = request::parse(&body, &config)?;
        let once = once::once(key, &request.spec, &config);
        Ok((request, once))
    })
    .await?;
    let id = submit(&api, request, once).await?;
    Ok(Json(json!({ "id": id })))
}

/// Has a valid task accepted. The answer means that it is on disk.
pub(super) async fn submit(api: &Api, request: Checked, once: Option<Once>) -> Result<TaskId, ApiError> {
    let Checked { spec, notes } = request;
    let owner = Caller::anonymous().owner;
    let submission = Submission { owner, spec: Arc::new(spec), notes, once };
    Ok(api.state.controller.submit(submission).await?)
}

/// `GET /tasks/{id}`
pub(super) async fn get(
    State(api): State<Arc<Api>>,
    id: PathId,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<TaskView>, ApiError> {
    let view = view(&parameters(&uri)?)?;
    read(&api, &text(id)?, view, has_small_sizes(&headers)).map(Json)
}

/// The caller's task `id` as it is shown.
pub(super) fn read(api: &Api, id: &str, view: View, small_sizes: bool) -> Result<TaskView, ApiError> {
    let task = find(api, id, view.want())?;
    Ok(response::task(task, Reading { view, small_sizes, board: &api.state.board }))
}

/// `POST /tasks/{id}:cancel`; other verbs may follow. The colon is no border to the router, so the verb is
/// still part of the id here, and `%3A` is the same. A body says nothing and is not looked at.
pub(super) async fn act(
    State(api): State<Arc<Api>>,
    id: PathId,
    peer: Option<Extension<Peer>>,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let path = text(id)?;
    let Some(id) = path.strip_suffix(":cancel") else { return Err(ApiError::NoSuchRoute) };
    // What little is sent is taken in, so that the connection can be used again.
    drop(tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, 64 << 10)).await);
    let by = Caller::described(peer.map(|Extension(peer)| peer), Surface::Rest);
    cancel(&api, id, by).await?;
    Ok(Json(json!({})))
}

/// Asks for the caller's task `id` to end, on behalf of `by`. The answer means that the wish is on disk.
pub(super) async fn cancel(api: &Api, id: &str, by: String) -> Result<(), ApiError> {
    let task = find(api, id, Want::Status)?;
    match api.state.controller.cancel(task.head.id, by).await? {
        CancelAnswer::Accepted => Ok(()),
        CancelAnswer::Unknown => Err(ApiError::NoSuchTask(id.to_owned())),
    }
}

/// The caller's task `id`. Another's is no task at all to them.
pub(super) fn find(api: &Api, id: &str, want: Want) -> Result<StoredTask, ApiError> {
    // Anything may stand in the path; only what can be an id is worth repeating.
    let Ok(task_id) = id.parse::<TaskId>() else {
        let shown: String = id.chars().take(40).collect();
        return Err(ApiError::NoSuchTask(shown));
    };
    let found = api.state.reader.task(&task_id, want)?;
    let owner = Caller::anonymous().owner;
    found.filter(|task| task.head.owner == owner).ok_or_else(|| ApiError::NoSuchTask(id.to_owned()))
}

/// The path parameter as text.
pub(super) fn text(id: PathId) -> Result<String, ApiError> {
    id.map(|Path(id)| id).map_err(|_| ApiError::NoSuchRoute)
}

/// The parameters of the query.
pub(super) fn parameters(uri: &Uri) -> Result<Parameters, ApiError> {
    let query = Query::<Parameters>::try_from_uri(uri);
    query.map(|Query(parameters)| parameters).map_err(|error| ApiError::Invalid(error.body_text()))
}

/// The last value of parameter `name`; an empty one counts as absent.
pub(super) fn parameter<'p>(parameters: &'p Parameters, name: &str) -> Option<&'p str> {
    let last = parameters.iter().rev().find(|(key, _)| key == name);
    last.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
}

/// The view that is asked for.
pub(super) fn view(parameters: &Parameters) -> Result<View, ApiError> {
    View::parse(parameter(parameters, "view").unwrap_or_default())
        .ok_or_else(|| ApiError::Invalid("view: must be MINIMAL, BASIC or FULL".to_owned()))
}

/// Whether the client is Cromwell, which knows sizes up to 2 GiB only and fails the task over a larger one.
/// It names nothing but its HTTP library.
pub(super) fn has_small_sizes(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    agent.starts_with("akka-http/") || agent.starts_with("pekko-http/")
}
