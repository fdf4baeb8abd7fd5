//! Places for connections: so many and no more. When all are taken, somebody gives way who loses nothing by it: first
//! the oldest connection that has not asked anything yet, so that thousands of strangers who say nothing, or half a
//! sentence, keep no client out; then the one that has been idle for longest since its last answer. Knows nothing of
//! what is asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
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

/// Where newcomers are bounded by themselves, how long each may stay while others wait at the door. Who has something
/// to say says it in a fraction of that.
const NEWCOMER_PERIOD: Duration = Duration::from_secs(1);

/// The places of a listener.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    /// Of these places, those for connections that have not asked anything yet.
    door: Arc<Semaphore>,
    yielding: Mutex<Yielding>,
}

/// Connections that can give way, in the order in which they do.
#[derive(Debug, Default)]
struct Yielding {
    last: u64,
    newcomers: BTreeMap<u64, Newcomer>,
    idle: BTreeMap<u64, CancellationToken>,
}

/// A connection that has not asked anything yet.
#[derive(Debug)]
struct Newcomer {
    displaced: CancellationToken,
    since: Instant,
    _door: OwnedSemaphorePermit,
}

/// The place of a connection; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    standing: Mutex<Standing>,
    displaced: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

/// What a connection has to say for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nothing yet; its number among the newcomers.
    New(u64),
    /// It is being served.
    Kept,
    /// It was served; its number among the idle.
    Idle(u64),
}

impl Slots {
    /// So many places, or this listener's share of what the limit of open files has room for.
    pub(crate) fn at_most(count: usize) -> Arc<Self> {
        Self::with_door(count, Semaphore::MAX_PERMITS)
    }

    /// The same, of which only so many are for connections that have not asked anything yet.
    pub(crate) fn with_door(count: usize, newcomers: usize) -> Arc<Self> {
        let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
        let room = files.map_or(ALL_MAX, |files| files.saturating_sub(OTHER_FILES).min(ALL_MAX));
        Self::of((room * count / ALL_MAX).clamp(1, count), newcomers)
    }

    /// So many places.
    pub(crate) fn of(count: usize, newcomers: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(count)),
            door: Arc::new(Semaphore::new(newcomers)),
            yielding: Mutex::default(),
        })
    }

    /// A place for a connection that has just come. Waits only while everybody is being served, or, where newcomers are
    /// bounded by themselves, for the oldest of them to have had its time.
    pub(crate) async fn take(self: &Arc<Self>) -> Slot {
        let door = self.pass_the_door().await;
        let free = self.free.clone();
        let permit = match free.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                self.displace_one();
                free.acquire_owned().await.expect("the semaphore is never closed")
            }
        };
        let displaced = CancellationToken::new();
        let mut yielding = self.yielding();
        let number = yielding.next();
        let newcomer = Newcomer { displaced: displaced.clone(), since: Instant::now(), _door: door };
        yielding.newcomers.insert(number, newcomer);
        drop(yielding);
        Slot { slots: self.clone(), standing: Mutex::new(Standing::New(number)), displaced, _permit: permit }
    }

    async fn pass_the_door(&self) -> OwnedSemaphorePermit {
        loop {
            let oldest = self.yielding().newcomers.first_key_value().map(|(_, newcomer)| newcomer.since);
            let deadline = oldest.unwrap_or_else(Instant::now) + NEWCOMER_PERIOD;
            match timeout_at(deadline, self.door.clone().acquire_owned()).await {
                Ok(door) => return door.expect("the semaphore is never closed"),
                // Its permit comes back with it.
                Err(_) => drop(self.yielding().newcomers.pop_first().map(|(_, old)| old.displaced.cancel())),
            }
        }
    }

    fn displace_one(&self) {
        let mut yielding = self.yielding();
        if let Some((_, newcomer)) = yielding.newcomers.pop_first() {
            newcomer.displaced.cancel();
        } else if let Some((_, displaced)) = yielding.idle.pop_first() {
            displaced.cancel();
        }
    }

    fn yielding(&self) -> MutexGuard<'_, Yielding> {
        self.yielding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Yielding {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl Slot {
    /// The connection has asked something: it keeps its place until it ends or says that it is idle.
    pub(crate) fn keep(&self) {
        self.stand(|_| Standing::Kept);
    }

    /// The connection has been answered, and asks nothing for now.
    pub(crate) fn idle(&self) {
        self.stand(|yielding| {
            let number = yielding.next();
            yielding.idle.insert(number, self.displaced.clone());
            Standing::Idle(number)
        });
    }

    /// Whether the connection has asked something.
    pub(crate) fn is_kept(&self) -> bool {
        !matches!(*self.standing(), Standing::New(_))
    }

    /// Waits until the place is needed for another one.
    pub(crate) async fn displaced(&self) {
        self.displaced.cancelled().await;
    }

    fn stand(&self, new: impl FnOnce(&mut Yielding) -> Standing) {
        let mut standing = self.standing();
        let mut yielding = self.slots.yielding();
        match *standing {
            Standing::New(number) => drop(yielding.newcomers.remove(&number)),
            Standing::Idle(number) => drop(yielding.idle.remove(&number)),
            Standing::Kept => {}
        }
        *standing = new(&mut yielding);
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn is_displaced(slot: &Slot) -> bool {
        slot.displaced().now_or_never().is_some()
    }

    #[tokio::test]
    async fn the_oldest_that_never_asked_gives_way() {
        let slots = Slots::of(3, Semaphore::MAX_PERMITS);
        let (first, second, third) = (slots.take().await, slots.take().await, slots.take().await);
        first.idle();
        assert!(!is_displaced(&second));
        let mut fourth = Box::pin(slots.take());
        assert!(fourth.as_mut().now_or_never().is_none());
        assert!(is_displaced(&second) && !is_displaced(&first) && !is_displaced(&third));
        drop(second);
        let fourth = fourth.await;
        first.keep();
        third.keep();
        fourth.keep();
        // Nobody is left who could give way.
        let mut fifth = Box::pin(slots.take());
        assert!(fifth.as_mut().now_or_never().is_none());
        assert!([&first, &third, &fourth].iter().all(|slot| !is_displaced(slot)));
        drop(first);
        fifth.await;
        assert!(slots.yielding().newcomers.is_empty());
    }

    #[tokio::test]
    async fn where_all_have_asked_the_longest_idle_gives_way() {
        let slots = Slots::of(3, Semaphore::MAX_PERMITS);
        let (first, second, third) = (slots.take().await, slots.take().await, slots.take().await);
        for slot in [&first, &second, &third] {
            assert!(!slot.is_kept());
            slot.keep();
            slot.idle();
            assert!(slot.is_kept());
        }
        // The first asks again meanwhile, and the second is being served.
        first.keep();
        first.idle();
        second.keep();
        let mut fourth = Box::pin(slots.take());
        assert!(fourth.as_mut().now_or_never().is_none());
        assert!(is_displaced(&third) && !is_displaced(&first) && !is_displaced(&second));
        drop(third);
        fourth.await;
        drop((first, second));
        assert!(slots.yielding().idle.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_door_the_oldest_goes_once_it_had_its_time() {
        let slots = Slots::of(9, 2);
        let (first, second) = (slots.take().await, slots.take().await);
        let begin = Instant::now();
        let third = slots.take().await;
        assert_eq!(begin.elapsed(), NEWCOMER_PERIOD);
        assert!(is_displaced(&first) && !is_displaced(&second));
        // Who has asked something makes room at once.
        second.keep();
        let fourth = slots.take().await;
        assert_eq!(begin.elapsed(), NEWCOMER_PERIOD);
        assert!(!is_displaced(&third) && !is_displaced(&fourth));
    }
}
