//! Taking connections, so that no number of strangers keeps a client or an agent out. Knows nothing of what is asked.

pub(crate) mod connection;
pub(crate) mod http2;
pub(crate) mod slots;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use self::slots::{Slot, Slots};

/// Pause after a failed accept: it fails for want of file descriptors, which only time mends.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Whoever is at the other end of a connection, until it is known that they belong here.
#[derive(Debug, Clone)]
pub(crate) struct Guest(Arc<Slot>);

impl Guest {
    /// They belong here: their connection keeps its place.
    pub(crate) fn admit(&self) {
        self.0.keep();
    }

    /// Whether that is known.
    pub(crate) fn is_admitted(&self) -> bool {
        self.0.is_kept()
    }
}

/// A connection that was taken.
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) peer: Peer,
    pub(crate) slot: Arc<Slot>,
}

pub(crate) async fn accept(listener: &TcpListener, slots: &Arc<Slots>) -> Accepted {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let slot = Arc::new(slots.take().await);
                match stream.set_nodelay(true) {
                    Ok(()) => return Accepted { stream, peer: Peer(peer), slot },
                    Err(error) => tracing::debug!(%error, "failed to set up a connection"),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
            }
        }
    }
}
