//! The gRPC listener: what its connections may do, and who is told when it ends.

use std::io;
use std::time::Duration;

use axum::middleware::from_fn_with_state;
use teamster_proto::tes::v1 as wire;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::super::serve::FINISH_TIMEOUT;
use super::super::{Api, ApiState};
use super::intake;
use crate::listen::http2::{self, Admission, Limits};
use crate::listen::slots::CLIENTS_MAX;

/// Calls under way on one connection, watches included; a client with more opens a second one or waits.
const CALLS_PER_CONNECTION_MAX: u32 = 1024;

/// What a client may send of one call, and of all its calls together, before somebody reads it. All of that is held in
/// memory, for each connection.
const CALL_WINDOW_BYTES: u32 = 128 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;

/// A connection on which nothing is heard for so long is asked whether it lives, and ended when it does not
/// say so in time: a watcher's machine may be gone without a word.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long is waited for others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For the first call on a connection. One that says nothing, or half of a greeting, is no client.
    pub(super) first_call: Duration,
    /// For calls under way after the order to stop.
    pub(super) finish: Duration,
}

const PATIENCE: Patience = Patience { first_call: Duration::from_secs(75), finish: FINISH_TIMEOUT };

/// Serves the gRPC API on `listener` until `shutdown`, then lets calls under way end within 10 seconds;
/// watches are ended at once.
pub async fn serve(listener: TcpListener, state: ApiState, shutdown: CancellationToken) -> io::Result<()> {
    serve_with(PATIENCE, listener, state, shutdown).await
}

pub(super) async fn serve_with(
    patience: Patience,
    listener: TcpListener,
    state: ApiState,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let api = Api::new(state);
    let (routes, health) = super::routes(api.clone(), shutdown.clone());
    let router = routes.prepare().into_axum_router().layer(from_fn_with_state(api, intake::bounded));
    let limits = Limits {
        connections_max: CLIENTS_MAX,
        admission: Admission::Answered,
        calls_max: CALLS_PER_CONNECTION_MAX,
        call_window_bytes: CALL_WINDOW_BYTES,
        connection_window_bytes: CONNECTION_WINDOW_BYTES,
        keepalive_interval: KEEPALIVE_INTERVAL,
        keepalive_timeout: KEEPALIVE_TIMEOUT,
        first_call: patience.first_call,
        finish: patience.finish,
    };
    health.set_service_status(wire::task_service_server::SERVICE_NAME, ServingStatus::Serving).await;
    http2::serve(listener, router, limits, shutdown, end_health(health)).await;
    Ok(())
}

/// Whoever watches the health is told, and their streams end.
async fn end_health(mut health: HealthReporter) {
    for service in ["", wire::task_service_server::SERVICE_NAME] {
        health.set_service_status(service, ServingStatus::NotServing).await;
        health.clear_service_status(service).await;
    }
}
