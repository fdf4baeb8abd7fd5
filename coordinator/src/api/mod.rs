//! TES in, TES out: HTTP and gRPC to events, and store reads to HTTP and gRPC. Decides nothing about tasks,
//! and never speaks to agents.
//!
//! Two laws hold for every answer. What comes in is read leniently and refused with every error at once;
//! what goes out holds only what was submitted and what TES 1.1.0 has a place for. And an engine never gets
//! a 5xx for a passing cause, because the widely used ones give a task up at the first: the request is held,
//! or the connection is dropped.

mod admission;
mod backend_parameters;
mod caller;
mod error;
mod fields;
mod grpc;
mod json;
mod list;
mod logs;
mod nodes;
mod once;
mod operate;
mod origin;
mod page_token;
mod request;
mod response;
mod routes;
mod serve;
mod service_info;
mod strict_heads;
mod tasks;

#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod once_tests;
#[cfg(test)]
mod operate_tests;
#[cfg(test)]
mod request_tests;
#[cfg(test)]
mod stand;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};

pub use admission::Admission;
pub use grpc::serve as serve_grpc;
pub use routes::{Route, served};
pub use serve::serve;

use crate::board::Board;
use crate::config::Config;
use crate::controller::Handle;
use crate::log_hub::LogHub;
use crate::metrics::Metrics;
use crate::store::{Reader, Secret};
use error::ApiError;
use routes::Routes;

/// What the API works with.
#[derive(Debug, Clone)]
pub struct ApiState {
    /// Where changes go.
    pub controller: Handle,
    /// Where tasks are read.
    pub reader: Reader,
    /// Where nodes are read.
    pub board: Arc<Board>,
    /// Where requests are counted, and what `/metrics` shows.
    pub metrics: Metrics,
    /// Where nodes are asked for what executors wrote.
    pub log_hub: Arc<LogHub>,
    /// What the operator decided.
    pub config: Arc<Config>,
    /// Name of the cluster.
    pub cluster_id: String,
    /// What page tokens are signed with.
    pub secret: Secret,
    /// How much may be under way, on all listeners together.
    pub admission: Arc<Admission>,
}

/// What the handlers share.
struct Api {
    state: ApiState,
}

impl Api {
    fn new(state: ApiState) -> Arc<Self> {
        Arc::new(Self { state })
    }
}

/// All routes.
pub fn router(state: ApiState) -> Router {
    let api = Api::new(state);
    Routes::all()
        .into_router()
        // Clients probe several prefixes and take nothing but 404 for "not here".
        .method_not_allowed_fallback(no_such_route)
        .fallback(no_such_route)
        // One layer for all that is done for every request: each further one costs as much as a small handler.
        .layer(from_fn_with_state(api.clone(), guarded_and_counted))
        .with_state(api)
}

async fn guarded_and_counted(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let asked = operate::Asked::of(&request);
    let response = match origin::refusal(&api, &request) {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    };
    asked.count(&api, &response);
    response
}

async fn no_such_route() -> ApiError {
    ApiError::NoSuchRoute
}
