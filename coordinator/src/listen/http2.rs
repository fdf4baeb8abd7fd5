//! A listener for HTTP/2: takes connections, bounds them and what they may have under way, and lets them end
//! well. It owns each connection and each call on it, so that nothing of it is left when it returns. Knows nothing
//! of what is called.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::slots::Slots;
use super::{Accepted, accept};

/// All headers of a call together, unpacked; however many frames they come in. Clients send some hundred bytes.
const HEADERS_BYTES_MAX: u32 = 64 << 10;

/// Calls that are made and taken back before anybody looked at them, or broken off for what is wrong with them. A
/// connection that has more of them is ended: making and unmaking calls costs its client nothing.
const RESET_CALLS_MAX: usize = 64;

/// What differs between listeners.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at the same time.
    pub(crate) connections_max: usize,
    /// Calls under way on one connection.
    pub(crate) calls_max: u32,
    /// What a client may send of one call before somebody reads it. All of that is held in memory.
    pub(crate) call_window_bytes: u32,
    /// The same for all calls of a connection together.
    pub(crate) connection_window_bytes: u32,
    /// A connection on which nothing is heard for so long is asked whether it lives.
    pub(crate) keepalive_interval: Duration,
    /// It is ended when it does not say so in this time: the other machine may be gone without a word.
    pub(crate) keepalive_timeout: Duration,
    /// How long is waited for the first call. Who says nothing, or half of a greeting, is no client.
    pub(crate) first_call: Duration,
    /// How long calls under way may go on after the order to stop.
    pub(crate) finish: Duration,
}

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

/// Serves `router` on `listener` until `shutdown`; then `stopping` is run, and calls under way may end.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
    stopping: impl Future<Output = ()>,
) {
    let slots = Slots::at_most(limits.connections_max);
    let calls = Calls { tracker: TaskTracker::new(), cut: CancellationToken::new() };
    // Cancel safe: a connection that is accepted is spawned in the same step.
    while let Some(accepted) = shutdown.run_until_cancelled(accept(&listener, &slots)).await {
        let connection = connection(accepted, router.clone(), shutdown.clone(), calls.clone(), limits);
        calls.tracker.spawn(connection);
    }
    drop(listener);
    stopping.await;
    calls.tracker.close();
    if tokio::time::timeout(limits.finish, calls.tracker.wait()).await.is_err() {
        calls.cut.cancel();
        calls.tracker.wait().await;
    }
}

/// One connection from its first call to its end.
async fn connection(
    accepted: Accepted,
    router: Router,
    shutdown: CancellationToken,
    calls: Calls,
    limits: Limits,
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
        .max_concurrent_streams(limits.calls_max)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_pending_accept_reset_streams(RESET_CALLS_MAX)
        .max_local_error_reset_streams(RESET_CALLS_MAX)
        .initial_stream_window_size(limits.call_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut first_call = pin!(tokio::time::sleep(limits.first_call));
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
