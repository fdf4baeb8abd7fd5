//! Places for connections: so many and no more. When all are taken, the oldest connection that has not asked
//! anything yet gives its place up, so that thousands of strangers who say nothing, or half a sentence, keep no
//! client out. Knows nothing of what is asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Connections of one listener at the same time; more wait in the kernel's queue. Each idle one costs some
/// kilobytes.
const SLOTS_MAX: usize = 8192;

/// The REST listener and the gRPC listener.
const LISTENERS: usize = 2;

/// Files that are left for all else: the database, agents, the log.
const OTHER_FILES: usize = 512;

/// The places of a listener.
#[derive(Debug)]
pub(super) struct Slots {
    free: Arc<Semaphore>,
    newcomers: Mutex<Newcomers>,
}

/// Connections that have not asked anything yet, in the order in which they came.
#[derive(Debug, Default)]
struct Newcomers {
    last: u64,
    waiting: BTreeMap<u64, CancellationToken>,
}

/// The place of a connection; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    number: u64,
    displaced: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    /// As many places as there are, or as the limit of open files has room for.
    pub(super) fn new() -> Arc<Self> {
        let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
        let room = files.map_or(SLOTS_MAX, |files| files.saturating_sub(OTHER_FILES) / LISTENERS);
        Self::of(room.clamp(1, SLOTS_MAX))
    }

    /// So many places.
    pub(super) fn of(count: usize) -> Arc<Self> {
        Arc::new(Self { free: Arc::new(Semaphore::new(count)), newcomers: Mutex::default() })
    }

    /// A place for a connection that has just come. Waits only while everybody has asked something.
    pub(super) async fn take(self: &Arc<Self>) -> Slot {
        let free = self.free.clone();
        let permit = match free.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                self.displace_one();
                free.acquire_owned().await.expect("the semaphore is never closed")
            }
        };
        let displaced = CancellationToken::new();
        let mut newcomers = self.newcomers.lock().unwrap_or_else(PoisonError::into_inner);
        newcomers.last += 1;
        let number = newcomers.last;
        newcomers.waiting.insert(number, displaced.clone());
        drop(newcomers);
        Slot { slots: self.clone(), number, displaced, _permit: permit }
    }

    fn displace_one(&self) {
        let mut newcomers = self.newcomers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, displaced)) = newcomers.waiting.pop_first() {
            displaced.cancel();
        }
    }
}

impl Slot {
    /// The connection has asked something, and been answered: it keeps its place until it ends.
    pub(super) fn keep(&self) {
        let mut newcomers = self.slots.newcomers.lock().unwrap_or_else(PoisonError::into_inner);
        newcomers.waiting.remove(&self.number);
    }

    /// Waits until the place is needed for another one.
    pub(super) async fn displaced(&self) {
        self.displaced.cancelled().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.keep();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_oldest_that_never_asked_gives_way() {
        let slots = Slots::of(3);
        let (first, second, third) = (slots.take().await, slots.take().await, slots.take().await);
        first.keep();
        assert!(second.displaced().now_or_never().is_none());
        let mut fourth = Box::pin(slots.take());
        assert!(fourth.as_mut().now_or_never().is_none());
        assert!(second.displaced().now_or_never().is_some());
        assert!(first.displaced().now_or_never().is_none() && third.displaced().now_or_never().is_none());
        drop(second);
        let fourth = fourth.await;
        third.keep();
        fourth.keep();
        // Nobody is left who could give way.
        let mut fifth = Box::pin(slots.take());
        assert!(fifth.as_mut().now_or_never().is_none());
        assert!([&first, &third, &fourth].iter().all(|slot| slot.displaced().now_or_never().is_none()));
        drop(first);
        fifth.await;
        assert!(slots.newcomers.lock().unwrap().waiting.is_empty());
    }
}
