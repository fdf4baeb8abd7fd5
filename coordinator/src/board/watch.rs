//! Who wants to hear of which task. Only tasks that somebody watches have an entry, so that what the
//! controller does here costs one look at a number while nobody watches, and else one look-up for each task
//! that changed, however many watchers there are. It carries no states: whoever is woken reads the latest.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The tasks that are watched.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Change number of each watched task, counted from its first watcher.
    changes: Mutex<HashMap<u64, watch::Sender<u64>>>,
    /// How many entries there are, for a look without the lock.
    count: AtomicUsize,
}

/// Somebody's eye on one task. The entry goes with the last one.
#[derive(Debug)]
pub struct Watch {
    seq: u64,
    /// None only while it is being dropped.
    changes: Option<watch::Receiver<u64>>,
    watched: Arc<Watched>,
}

impl Watched {
    pub(super) fn watch(watched: &Arc<Self>, seq: u64) -> Watch {
        let mut changes = watched.lock();
        let receiver = match changes.entry(seq) {
            Entry::Occupied(entry) => entry.get().subscribe(),
            Entry::Vacant(entry) => entry.insert(watch::Sender::new(0)).subscribe(),
        };
        watched.count.store(changes.len(), Ordering::SeqCst);
        drop(changes);
        Watch { seq, changes: Some(receiver), watched: watched.clone() }
    }

    pub(super) fn announce(&self, changed: &[u64]) {
        // A watcher that is not counted yet has not read the task yet either, and will read what is on disk
        // by now.
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let wanted: Vec<_> = {
            let changes = self.lock();
            changed.iter().filter_map(|seq| changes.get(seq).cloned()).collect()
        };
        // Waking takes a while for a task that many watch; nobody waits for the lock meanwhile.
        for sender in wanted {
            sender.send_modify(|number| *number += 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, watch::Sender<u64>>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Waits until the task has changed since the last call, or since the watch began. Several changes may
    /// be told as one. Cancel safe.
    pub async fn changed(&mut self) {
        if let Some(changes) = &mut self.changes {
            // The sender is in the map for as long as this watch is.
            let _ = changes.changed().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut changes = self.watched.lock();
        // Our own receiver must be gone before the rest are counted.
        self.changes = None;
        if changes.get(&self.seq).is_some_and(|sender| sender.receiver_count() == 0) {
            changes.remove(&self.seq);
        }
        self.watched.count.store(changes.len(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::super::Board;
    use super::*;

    /// Long enough for a waker that is due, and waited for in full only where nothing is due.
    const A_WHILE: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn changes_since_the_watch_began_are_told_as_one() {
        let board = Board::default();
        board.announce(&[7]);
        let mut watch = board.watch(7);
        assert!(timeout(A_WHILE, watch.changed()).await.is_err(), "what was before is not told");
        board.announce(&[6, 7]);
        board.announce(&[7]);
        watch.changed().await;
        assert!(timeout(A_WHILE, watch.changed()).await.is_err());
        board.announce(&[8]);
        assert!(timeout(A_WHILE, watch.changed()).await.is_err(), "another task is another's");
    }

    #[tokio::test]
    async fn every_watcher_is_woken_and_nothing_is_left_of_them() {
        let board = Board::default();
        let mut watches: Vec<_> = (0..1000).map(|number| board.watch(number / 2)).collect();
        assert_eq!(board.watched.count.load(Ordering::SeqCst), 500);
        board.announce(&(0..500).collect::<Vec<_>>());
        for watch in &mut watches {
            watch.changed().await;
        }
        drop(watches.split_off(1));
        assert_eq!(board.watched.count.load(Ordering::SeqCst), 1);
        board.announce(&[0]);
        watches[0].changed().await;
        drop(watches);
        assert_eq!(board.watched.count.load(Ordering::SeqCst), 0);
        assert!(board.watched.lock().is_empty());
    }
}
