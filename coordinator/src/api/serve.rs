//! The listener: takes connections, bounds them, and lets them end well. Knows nothing of what is asked.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::error::Abandoned;
use super::strict_heads::Strict;
use super::{ApiState, router};
use crate::listen::connection::{self, End};
use crate::listen::slots::{CLIENTS_MAX, Slots};
use crate::listen::{Accepted, accept};

/// The longest head of a request, and what is read ahead of a body. Engines send less than a kilobyte, an
/// attacker as much as is taken on each connection.
const READ_AHEAD_BYTES_MAX: usize = 64 << 10;

/// How long is waited for clients.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For the head of a connection's next request. It also ends idle connections, so it is longer than the idle
    /// time of the engines' own pools (60 s): whoever closes first while the other one sends loses a request, and
    /// some clients do not repeat it.
    pub(super) next_request: Duration,
    /// For a client to take more of its answer. One that follows a log and stands still is better off coming back.
    pub(super) stall: Duration,
}

const PATIENCE: Patience =
    Patience { next_request: Duration::from_secs(75), stall: Duration::from_secs(120) };

/// How long requests under way may go on after the order to stop.
pub(super) const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves the API on `listener` until `shutdown`, then lets requests under way end within 10 seconds.
pub async fn serve(listener: TcpListener, state: ApiState, shutdown: CancellationToken) -> io::Result<()> {
    serve_with(Slots::at_most(CLIENTS_MAX), PATIENCE, listener, state, shutdown).await
}

/// The same with other places and times.
pub(super) async fn serve_with(
    slots: Arc<Slots>,
    patience: Patience,
    listener: TcpListener,
    state: ApiState,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let router = router(state);
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    // Cancel safe: a connection that is accepted is spawned in the same step.
    while let Some(accepted) = shutdown.run_until_cancelled(accept(&listener, &slots)).await {
        let (router, shutdown, cut) = (router.clone(), shutdown.clone(), cut.clone());
        connections.spawn(serve_one(accepted, router, shutdown, cut, patience));
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(FINISH_TIMEOUT, connections.wait()).await.is_err() {
        cut.cancel();
        connections.wait().await;
    }
    Ok(())
}

/// One connection from its first request to its end.
async fn serve_one(
    accepted: Accepted,
    router: Router,
    shutdown: CancellationToken,
    cut: CancellationToken,
    patience: Patience,
) {
    let Accepted { stream, peer, slot } = accepted;
    let asked = slot.clone();
    let service = service_fn(move |mut request: Request<_>| {
        request.extensions_mut().insert(peer);
        // Who was served before is not idle while it asks again; who was not has to be answered first.
        if asked.is_kept() {
            asked.keep();
        }
        let (answer, slot) = (answer(router.clone(), request), asked.clone());
        async move {
            answer.await.inspect(|answer| match answer.body().size_hint().exact() {
                Some(_) => slot.idle(),
                // It goes on for as long as there is something to tell.
                None => slot.keep(),
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.next_request)
        .max_buf_size(READ_AHEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(Strict::new(stream, patience.stall)), service);
    // Before its first request hyper itself loses patience with it.
    let end = End { shutdown, cut, first_call: None };
    connection::run(connection, http1::Connection::graceful_shutdown, || true, (&slot, peer), end).await;
}

/// An error here makes hyper close the connection without a word.
async fn answer(mut router: Router, request: Request<Incoming>) -> Result<Response<Body>, Abandoned> {
    // No engine sends chunks. Where they end is not followed, so nothing is read behind them.
    let is_last = request.headers().contains_key(header::TRANSFER_ENCODING);
    let mut response = match router.call(request.map(Body::new)).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if is_last {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    match response.extensions().get::<Abandoned>() {
        Some(abandoned) => Err(*abandoned),
        None => Ok(response),
    }
}
