//! What probes, Prometheus and tools ask: whether the process lives and works, its figures, and what the API
//! is. Reads only what is at hand.

use std::sync::{Arc, LazyLock};

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
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

/// What is counted of a request. Routes are named as they are declared, never as they were asked for: who asks must
/// not be able to make new series.
pub(super) struct Asked {
    method: &'static str,
    route: Option<MatchedPath>,
}

impl Asked {
    pub(super) fn of(request: &Request) -> Self {
        let method = match *request.method() {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::HEAD => "HEAD",
            _ => "other",
        };
        Self { method, route: request.extensions().get().cloned() }
    }

    /// Counts it with its answer.
    pub(super) fn count(self, api: &Api, response: &Response) {
        let is_dropped = response.extensions().get::<Abandoned>().is_some();
        let status = (!is_dropped).then(|| response.status().as_u16());
        let route = self.route.as_ref().map_or("other", MatchedPath::as_str);
        api.state.metrics.request(self.method, route, status);
    }
}
