//! The gRPC listener: takes connections, bounds them and what they may have under way, and lets them end
//! well. It owns each connection and each call on it, so that nothing of it is left when it returns.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::middleware::from_fn_with_state;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use teamster_proto::tes::v1 as wire;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::ServiceExt;

use super::super::serve::{Accepted, FINISH_TIMEOUT, accept};
use super::super::slots::Slots;
use super::super::{Api, ApiState};
use super::intake;

/// Calls under way on one connection, watches included; a client with more opens a second one or waits.
const CALLS_PER_CONNECTION_MAX: u32 = 1024;

/// All headers of a call together, unpacked; however many frames they come in. Clients send some hundred bytes.
const HEADERS_BYTES_MAX: u32 = 64 << 10;

/// Calls that are made and taken back before anybody looked at them, or broken off for what is wrong with them. A
/// connection that has more of them is ended: making and unmaking calls costs its client nothing.
const RESET_CALLS_MAX: usize = 64;

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

/// Where hyper runs the calls of a connection.
#[derive(Clone)]
struct Calls {
    tracker: TaskTracker,
    cut: CancellationToken,
}

impl<F> Executor<F> for Calls
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, call: F) {
        self.tracker.spawn(self.cut.clone().run_until_cancelled_owned(call));
    }
}

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
    let slots = Slots::new();
    let calls = Calls { tracker: TaskTracker::new(), cut: CancellationToken::new() };
    health.set_service_status(wire::task_service_server::SERVICE_NAME, ServingStatus::Serving).await;
    // Cancel safe: a connection that is accepted is spawned in the same step.
    while let Some(accepted) = shutdown.run_until_cancelled(accept(&listener, &slots)).await {
        let connection = connection(accepted, router.clone(), shutdown.clone(), calls.clone(), patience);
        calls.tracker.spawn(connection);
    }
    drop(listener);
    end_health(health).await;
    calls.tracker.close();
    if tokio::time::timeout(patience.finish, calls.tracker.wait()).await.is_err() {
        calls.cut.cancel();
        calls.tracker.wait().await;
    }
    Ok(())
}

/// Whoever watches the health is told, and their streams end.
async fn end_health(mut health: HealthReporter) {
    for service in ["", wire::task_service_server::SERVICE_NAME] {
        health.set_service_status(service, ServingStatus::NotServing).await;
        health.clear_service_status(service).await;
    }
}

/// One connection from its first call to its end.
async fn connection(
    accepted: Accepted,
    router: Router,
    shutdown: CancellationToken,
    calls: Calls,
    patience: Patience,
) {
    let Accepted { stream, peer, slot } = accepted;
    let asked = slot.clone();
    let cut = calls.cut.clone();
    let is_client = Arc::new(AtomicBool::new(false));
    let called = is_client.clone();
    let service = service_fn(move |mut request: Request<_>| {
        called.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(peer);
        let (answer, slot) = (router.clone().oneshot(request.map(Body::new)), asked.clone());
        async move { answer.await.inspect(|_| slot.keep()) }
    });
    let connection = http2::Builder::new(calls)
        .timer(TokioTimer::new())
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_pending_accept_reset_streams(RESET_CALLS_MAX)
        .max_local_error_reset_streams(RESET_CALLS_MAX)
        .initial_stream_window_size(CALL_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut first_call = pin!(tokio::time::sleep(patience.first_call));
    let (mut is_stopping, mut is_new) = (false, true);
    let ended = loop {
        // Cancel safe: the connection is polled on after the other branch, never dropped half-way.
        tokio::select! {
            ended = connection.as_mut() => break ended,
            // A greeting that is half said cannot be ended gracefully, so before the first call neither is
            // anything else.
            () = first_call.as_mut(), if is_new => {
                is_new = false;
                if !is_client.load(Ordering::Relaxed) {
                    return;
                }
            }
            () = shutdown.cancelled(), if !is_stopping => {
                is_stopping = true;
                if !is_client.load(Ordering::Relaxed) {
                    return;
                }
                connection.as_mut().graceful_shutdown();
            }
            () = cut.cancelled() => return,
            () = slot.displaced() => {
                tracing::debug!(peer = %peer.0, "a connection that asked nothing gave way");
                return;
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
