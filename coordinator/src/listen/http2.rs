//! A listener for HTTP/2: takes connections, bounds them and what they may have under way, and lets them end
//! well. It owns each connection and each call on it, so that nothing of it is left when it returns. Knows nothing
//! of what is called.

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
use tower::Service;

use super::connection::{self, End};
use super::slots::Slots;
use super::{Accepted, Guest, accept};

/// All headers of a call together, unpacked; however many frames they come in. Clients send some hundred bytes.
const HEADERS_BYTES_MAX: u32 = 64 << 10;

/// Calls that are made and taken back before anybody looked at them, or broken off for what is wrong with them. A
/// connection that has more of them is ended: making and unmaking calls costs its client nothing.
const RESET_CALLS_MAX: usize = 64;

/// Whose connections keep their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Everybody's who has been answered.
    Answered,
    /// Of those only whom the service [admits](Guest::admit). Until then they are newcomers, of whom there are at most
    /// so many.
    ByService {
        /// So many.
        newcomers_max: usize,
    },
}

/// What differs between listeners.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at the same time.
    pub(crate) connections_max: usize,
    /// Which of them keep their places.
    pub(crate) admission: Admission,
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
    /// How long is waited for the first call, or for the service to admit who calls. Who says nothing, or half of a
    /// greeting, is no client.
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
    let slots = match limits.admission {
        Admission::Answered => Slots::at_most(limits.connections_max),
        Admission::ByService { newcomers_max } => Slots::with_door(limits.connections_max, newcomers_max),
    };
    let calls = Calls { tracker: TaskTracker::new(), cut: CancellationToken::new() };
    // Cancel safe: a connection that is accepted is spawned in the same step.
    while let Some(accepted) = shutdown.run_until_cancelled(accept(&listener, &slots)).await {
        let connection = serve_one(accepted, router.clone(), shutdown.clone(), calls.clone(), limits);
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
async fn serve_one(
    accepted: Accepted,
    router: Router,
    shutdown: CancellationToken,
    calls: Calls,
    limits: Limits,
) {
    let Accepted { stream, peer, slot } = accepted;
    let asked = slot.clone();
    let cut = calls.cut.clone();
    let has_called = Arc::new(AtomicBool::new(false));
    let called = has_called.clone();
    let service = service_fn(move |mut request: Request<_>| {
        called.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(Guest(asked.clone()));
        let (answer, slot) = (router.clone().call(request.map(Body::new)), asked.clone());
        async move {
            let answer = answer.await;
            if limits.admission == Admission::Answered {
                slot.keep();
            }
            answer
        }
    });
    let is_client = || match limits.admission {
        Admission::Answered => has_called.load(Ordering::Relaxed),
        Admission::ByService { .. } => slot.is_kept(),
    };
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
    let first_call = Some(limits.first_call);
    let end = End { shutdown, cut, first_call };
    connection::run(connection, http2::Connection::graceful_shutdown, is_client, (&slot, peer), end).await;
}
