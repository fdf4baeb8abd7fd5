//! What operators ask: the nodes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Api;

/// `GET /v1/nodes`
pub(super) async fn list(State(api): State<Arc<Api>>) -> Json<Value> {
    Json(json!({ "nodes": api.state.board.view().nodes }))
}
