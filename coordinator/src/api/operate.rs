//! What probes, Prometheus and tools ask: whether the process lives and works, its figures, and what the API
//! is. Reads only what is at hand.

use std::sync::{Arc, LazyLock};

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Api;
use super::error::Abandoned;

/// What `GET /openapi.json` says, written by hand; a test holds it to what is served.
static DOCUMENT: LazyLock<String> =
    LazyLock::new(|| include_str!("openapi.json").replace("{version}", env!("CARGO_PKG_VERSION")));

/// `GET /healthz`: that it answers is the answer.
pub(super) async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// `GET /readyz`: whether the controller takes events and the store can be read.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Response {
    let broken = if !api.state.controller.is_running() {
        "the controller has stopped".to_owned()
    } else {
        match api.state.reader.next_seq() {
            Ok(_) => return Json(json!({ "status": "ready" })).into_response(),
            Err(error) => format!("failed to {error}"),
        }
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": broken }))).into_response()
}

/// `GET /metrics`
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Response {
    let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, form)], api.state.metrics.text()).into_response()
}

/// `GET /openapi.json`
pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

/// Counts every request. Routes are named as they are declared, never as they were asked for: who asks must
/// not be able to make new series.
pub(super) async fn count(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let method = match request.method().as_str() {
        known @ ("GET" | "POST" | "HEAD") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let is_dropped = response.extensions().get::<Abandoned>().is_some();
    let status = (!is_dropped).then(|| response.status().as_u16());
    api.state.metrics.request(&method, route.as_ref().map_or("other", MatchedPath::as_str), status);
    response
}
