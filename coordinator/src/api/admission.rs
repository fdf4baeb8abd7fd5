//! How much may be under way at one time, over REST and gRPC together: bodies that are held, by their bytes, and
//! lists that are read. Who finds no room waits for it; nobody is refused because others are served.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use futures_util::StreamExt;
use prost::bytes::BytesMut;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::error::ApiError;

/// How long a body may take to arrive. Engines give up after about a minute themselves.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long is waited for room before the connection is dropped, so that the client asks again.
const ROOM_TIMEOUT: Duration = Duration::from_secs(60);

/// Bodies beyond this have a room of their own, so that they hold up no others, and are parsed aside, so as not to
/// hold up everybody else on the thread.
const LARGE_BODY_BYTES: usize = 256 << 10;

/// How many bytes of small bodies are held at the same time: thousands of usual tasks.
const SMALL_BODIES_BYTES_MAX: usize = 64 << 20;

/// How many bytes of large ones: four of the largest.
const LARGE_BODIES_BYTES_MAX: usize = 128 << 20;

/// What a large body counts for at least: it may hold a million short values, each of which takes some hundred bytes
/// while it is parsed.
const LARGE_BODY_WEIGHT_MIN: usize = 16 << 20;

/// How much of a body that is too large is dropped, how long that may take, and after how long without a byte of it
/// its sender is taken to wait for the answer.
const DISCARDED_BYTES_MAX: usize = 256 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(30);
const SILENCE_MAX: Duration = Duration::from_millis(500);

/// How many lists are read at the same time: each may hold some ten megabytes.
const LISTS_AT_ONCE: usize = 8;

/// What is under way. One for all listeners.
#[derive(Debug)]
pub struct Admission {
    /// One permit per byte.
    small_bodies: Semaphore,
    /// One permit per byte.
    large_bodies: Semaphore,
    lists: Semaphore,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            small_bodies: Semaphore::new(SMALL_BODIES_BYTES_MAX),
            large_bodies: Semaphore::new(LARGE_BODIES_BYTES_MAX),
            lists: Semaphore::new(LISTS_AT_ONCE),
        }
    }
}

impl Admission {
    /// Room for a body of so many bytes, until it is dropped.
    pub(super) async fn body(&self, bytes: usize) -> Result<SemaphorePermit<'_>, ApiError> {
        let (room, weight) = if bytes > LARGE_BODY_BYTES {
            (&self.large_bodies, bytes.max(LARGE_BODY_WEIGHT_MIN))
        } else {
            (&self.small_bodies, bytes)
        };
        let weight = u32::try_from(weight.min(LARGE_BODIES_BYTES_MAX)).expect("the most is far below");
        let permit = timeout(ROOM_TIMEOUT, room.acquire_many(weight)).await.map_err(|_| ApiError::Passing)?;
        Ok(permit.expect("the semaphore is never closed"))
    }

    /// A turn to read a list.
    pub(super) async fn list(&self) -> SemaphorePermit<'_> {
        self.lists.acquire().await.expect("the semaphore is never closed")
    }
}

/// Reads a body of so many bytes; a large one aside.
pub(super) async fn read<T: Send + 'static>(
    body_bytes: usize,
    read: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if body_bytes <= LARGE_BODY_BYTES {
        return read();
    }
    // It fails only by a panic or because the runtime is going down.
    tokio::task::spawn_blocking(read).await.map_err(|_| ApiError::Passing)?
}

/// A body as it comes in.
pub(super) struct Incoming {
    pieces: BodyDataStream,
    taken: BytesMut,
}

impl Incoming {
    pub(super) fn new(body: Body) -> Self {
        Self { pieces: body.into_data_stream(), taken: BytesMut::new() }
    }

    /// What is there so far.
    pub(super) fn taken(&self) -> &[u8] {
        &self.taken
    }

    /// Reads until at least so many bytes are there, or the body is over.
    pub(super) async fn at_least(&mut self, bytes: usize) -> Result<(), ApiError> {
        let reading = async {
            while self.taken.len() < bytes {
                let Some(piece) = self.pieces.next().await else { break };
                let unreadable = |error| ApiError::Invalid(format!("the body cannot be read: {error}"));
                self.taken.extend_from_slice(&piece.map_err(unreadable)?);
            }
            Ok(())
        };
        timeout(BODY_TIMEOUT, reading).await.map_err(|_| ApiError::BodyTimeout)?
    }

    /// Takes in what is sent although it is refused, and drops it: a client that goes on sending to a closed connection
    /// never reads why. Ends with the body, or when nothing more comes, or when it is enough.
    pub(super) async fn discard(mut self) {
        let discarding = async {
            let mut discarded_bytes = 0;
            while let Ok(Some(Ok(piece))) = timeout(SILENCE_MAX, self.pieces.next()).await {
                discarded_bytes += piece.len();
                if discarded_bytes > DISCARDED_BYTES_MAX {
                    break;
                }
            }
        };
        // Whether it was all or not: the answer follows.
        let _ = timeout(DISCARD_TIMEOUT, discarding).await;
    }

    /// Reads the rest of a body that has at most so many bytes in all; `None` when it has more.
    pub(super) async fn all(mut self, bytes_max: usize) -> Result<Option<BytesMut>, ApiError> {
        self.at_least(bytes_max + 1).await?;
        Ok((self.taken.len() <= bytes_max).then_some(self.taken))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn large_bodies_hold_up_no_small_ones() {
        let admission = Admission::default();
        let mut large = Vec::new();
        while let Some(room) = admission.body(LARGE_BODY_BYTES + 1).now_or_never() {
            large.push(room.unwrap());
        }
        assert_eq!(large.len(), LARGE_BODIES_BYTES_MAX / LARGE_BODY_WEIGHT_MIN);
        assert!(admission.body(32 << 20).now_or_never().is_none());
        assert!(admission.body(LARGE_BODY_BYTES).now_or_never().is_some());
        large.pop();
        assert!(admission.body(LARGE_BODY_BYTES + 1).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_dropped() {
        let admission = Admission::default();
        let mut small = Vec::new();
        for _ in 0..SMALL_BODIES_BYTES_MAX / LARGE_BODY_BYTES {
            small.push(admission.body(LARGE_BODY_BYTES).await.unwrap());
        }
        assert!(matches!(admission.body(LARGE_BODY_BYTES).await, Err(ApiError::Passing)));
        assert!(admission.body(0).await.is_ok());
    }

    #[tokio::test]
    async fn bodies_end_where_they_may() {
        let incoming = || Incoming::new(Body::from("12345"));
        assert_eq!(incoming().all(5).await.unwrap().unwrap(), "12345");
        assert!(incoming().all(4).await.unwrap().is_none());
        let mut begun = incoming();
        begun.at_least(1).await.unwrap();
        assert_eq!(begun.taken(), b"12345");
        assert_eq!(begun.all(9).await.unwrap().unwrap(), "12345");
    }
}
