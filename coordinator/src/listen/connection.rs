//! One connection from its first word to its end, whichever HTTP is spoken on it. Knows nothing of what is asked.

use std::pin::{Pin, pin};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Peer;
use super::slots::Slot;

/// When a connection ends though its client has not ended it.
#[derive(Debug, Clone)]
pub(crate) struct End {
    /// From now on nothing more is asked; what is under way may end.
    pub(crate) shutdown: CancellationToken,
    /// At once.
    pub(crate) cut: CancellationToken,
    /// After so long, if it is nobody's by then. None where that is seen to otherwise.
    pub(crate) first_call: Option<Duration>,
}

/// Drives a connection until it is over. `graceful` orders it to end with what is under way; that is nothing to say to
/// one that is nobody's yet, because a greeting that is half said cannot be ended gracefully.
pub(crate) async fn run<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    graceful: impl Fn(Pin<&mut C>),
    is_client: impl Fn() -> bool,
    (slot, peer): (&Slot, Peer),
    end: End,
) {
    let mut connection = pin!(connection);
    let mut first_call = pin!(tokio::time::sleep(end.first_call.unwrap_or_default()));
    let (mut is_new, mut is_stopping, mut gives_way) = (end.first_call.is_some(), false, false);
    let ended = loop {
        // Cancel safe: the connection is polled on after the other branches, never dropped half-way.
        tokio::select! {
            ended = connection.as_mut() => break ended,
            () = first_call.as_mut(), if is_new => {
                is_new = false;
                if !is_client() {
                    return;
                }
            }
            () = end.shutdown.cancelled(), if !is_stopping => {
                is_stopping = true;
                if !is_client() {
                    return;
                }
                graceful(connection.as_mut());
            }
            () = end.cut.cancelled() => return,
            () = slot.displaced(), if !gives_way => {
                tracing::debug!(peer = %peer.0, "a connection that asks nothing gives way");
                gives_way = true;
                if !slot.is_kept() {
                    return;
                }
                graceful(connection.as_mut());
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
