//! What this service is, in the words of today's TES and of the one before 1.0.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Api;
use super::backend_parameters::BACKEND_PARAMETERS;

/// `GET /service-info`: exactly the keys of TES 1.1.0's `tesServiceInfo`, because clients refuse others.
pub(super) async fn current(State(api): State<Arc<Api>>) -> Json<Value> {
    let config = &api.state.config;
    Json(json!({
        // Unique per service, in reverse domain name notation.
        "id": format!("local.teamster.{}", api.state.cluster_id),
        "name": "Teamster",
        "type": { "group": "org.ga4gh", "artifact": "tes", "version": "1.1.0" },
        "description": "Runs each task as a container on a node of this cluster.",
        "organization": { "name": config.organization_name, "url": config.organization_url },
        "version": env!("CARGO_PKG_VERSION"),
        "storage": storage(&api),
        "tesResources_backend_parameters": BACKEND_PARAMETERS,
    }))
}

/// `GET /tasks/service-info`: these three keys and no other, or old clients refuse to start.
pub(super) async fn old(State(api): State<Arc<Api>>) -> Json<Value> {
    Json(json!({
        "name": "Teamster",
        "doc": "Runs each task as a container on a node of this cluster.",
        "storage": storage(&api),
    }))
}

fn storage(api: &Api) -> Vec<String> {
    api.state.config.storage.iter().map(|path| format!("file://{path}")).collect()
}
