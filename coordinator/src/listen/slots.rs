//! Places for connections: so many and no more. When all are taken, the oldest connection that has not asked
//! anything yet gives its place up, so that thousands of strangers who say nothing, or half a sentence, keep no
//! client out. Knows nothing of what is asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Connections of all listeners together: those of REST, of gRPC and of agents.
const ALL_MAX: usize = 2 * CLIENTS_MAX + AGENTS_MAX;

/// Connections of clients to one of the two APIs at the same time; more wait in the kernel's queue. Each idle one costs
/// some kilobytes.
pub(crate) const CLIENTS_MAX: usize = 8192;

/// Connections of agents: one for each node, with room for a large cluster that comes back at once.
pub(crate) const AGENTS_MAX: usize = 16_384;

/// Files that are left for all else: the database, the log, connections that are just taken or let go.
const OTHER_FILES: usize = 256;

/// The places of a listener.
#[derive(Debug)]
pub(crate) struct Slots {
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
pub(crate) struct Slot {
    slots: Arc<Slots>,
    number: u64,
    displaced: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    /// So many places, or this listener's share of what the limit of open files has room for.
    pub(crate) fn at_most(count: usize) -> Arc<Self> {
        let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
        let room = files.map_or(ALL_MAX, |files| files.saturating_sub(OTHER_FILES).min(ALL_MAX));
        Self::of((room * count / ALL_MAX).clamp(1, count))
    }

    /// So many places.
    pub(crate) fn of(count: usize) -> Arc<Self> {
        Arc::new(Self { free: Arc::new(Semaphore::new(count)), newcomers: Mutex::default() })
    }

    /// A place for a connection that has just come. Waits only while everybody has asked something.
    pub(crate) async fn take(self: &Arc<Self>) -> Slot {
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
    pub(crate) fn keep(&self) {
        let mut newcomers = self.slots.newcomers.lock().unwrap_or_else(PoisonError::into_inner);
        newcomers.waiting.remove(&self.number);
    }

    /// Waits until the place is needed for another one.
    pub(crate) async fn displaced(&self) {
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
