//! The disk of the data directory, before it is full. Below a floor new tasks are held, so that what is left
//! serves the tasks that run; when even that is nearly gone, a ballast file makes room for the commits of
//! their ends. Looks now and then, never for a request; knows nothing of tasks.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use teamster_values::ByteCount;
use tokio::sync::{Semaphore, watch};

use crate::metrics::Metrics;

/// How long a new task is held before its connection is dropped. Engines wait about a minute for an answer.
pub const HOLD: Duration = Duration::from_secs(30);

/// Name of the ballast in the data directory.
const BALLAST_NAME: &str = "ballast";
/// The ballast is this part of the floor, and not more than [`BALLAST_BYTES_MAX`].
const BALLAST_SHARE: u64 = 16;
/// Holds thousands of ends of tasks with their logs.
const BALLAST_BYTES_MAX: u64 = 64 << 20;

/// New tasks that are held at the same time; each keeps up to some hundred kilobytes in memory.
const HELD_MAX: usize = 1024;

/// Whether there is room for new tasks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Room {
    enough: watch::Receiver<bool>,
    turns: Arc<Semaphore>,
    hold: Duration,
}

impl Room {
    /// Waits for room; false when there is none in time, or when too many wait already.
    pub async fn wait(&self) -> bool {
        if *self.enough.borrow() {
            return true;
        }
        let Ok(_turn) = self.turns.try_acquire() else { return false };
        let mut enough = self.enough.clone();
        matches!(tokio::time::timeout(self.hold, enough.wait_for(|enough| *enough)).await, Ok(Ok(_)))
    }
}

/// Watches one data directory.
#[derive(Debug)]
pub struct Guard {
    data_dir: PathBuf,
    floor_bytes: u64,
    enough: watch::Sender<bool>,
    ballast: Ballast,
    metrics: Metrics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ballast {
    /// Not looked at yet.
    Unknown,
    InPlace,
    /// Given up for the space that it took.
    Gone,
    /// This file system cannot set space aside.
    Impossible,
}

impl Guard {
    /// A guard that holds new tasks for `hold` while fewer than `floor_bytes` are free; 0 for never.
    pub fn new(data_dir: &Path, floor_bytes: u64, hold: Duration, metrics: Metrics) -> (Self, Room) {
        let (enough, receiver) = watch::channel(true);
        let room = Room { enough: receiver, turns: Arc::new(Semaphore::new(HELD_MAX)), hold };
        (
            Self { data_dir: data_dir.to_owned(), floor_bytes, enough, ballast: Ballast::Unknown, metrics },
            room,
        )
    }

    /// Looks at the disk and does what follows.
    pub fn check(&mut self) {
        // The data directory may not have been made yet, and a disk that cannot be asked is the store's to
        // report.
        let Ok(stat) = statvfs(&self.data_dir) else { return };
        let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free_bytes < self.ballast_bytes() {
            self.drop_ballast();
        }
        let was_enough = *self.enough.borrow();
        // The ballast comes on top of the floor, so that putting it in place does not fall below it again.
        let resume_bytes = self.floor_bytes + self.ballast_bytes();
        let is_enough = free_bytes >= if was_enough { self.floor_bytes } else { resume_bytes };
        if is_enough && free_bytes >= resume_bytes {
            self.place_ballast();
        }
        self.metrics.disk(free_bytes, !is_enough);
        if is_enough != was_enough {
            self.announce(is_enough, free_bytes);
            self.enough.send_replace(is_enough);
        }
    }

    fn announce(&self, is_enough: bool, free_bytes: u64) {
        let (data_dir, free) = (self.data_dir.display(), ByteCount(free_bytes));
        if is_enough {
            tracing::info!(%data_dir, %free, "the disk has room again: new tasks are taken");
        } else {
            let floor = ByteCount(self.floor_bytes);
            tracing::error!(%data_dir, %free, %floor, "the disk is low: new tasks are held, all else goes on");
        }
    }

    fn ballast_bytes(&self) -> u64 {
        (self.floor_bytes / BALLAST_SHARE).min(BALLAST_BYTES_MAX)
    }

    fn ballast_path(&self) -> PathBuf {
        self.data_dir.join(BALLAST_NAME)
    }

    fn drop_ballast(&mut self) {
        if !matches!(self.ballast, Ballast::Unknown | Ballast::InPlace) {
            return;
        }
        match fs::remove_file(self.ballast_path()) {
            Ok(()) => tracing::error!("the disk is nearly full: gave up the ballast for the tasks that run"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::error!(%error, "failed to remove the ballast from a disk that is nearly full")
            }
        }
        self.ballast = Ballast::Gone;
    }

    fn place_ballast(&mut self) {
        if matches!(self.ballast, Ballast::InPlace | Ballast::Impossible) || self.ballast_bytes() == 0 {
            return;
        }
        let was_gone = self.ballast == Ballast::Gone;
        self.ballast = match make_ballast(&self.ballast_path(), self.ballast_bytes()) {
            Ok(()) if was_gone => {
                tracing::info!("put the ballast back");
                Ballast::InPlace
            }
            Ok(()) => Ballast::InPlace,
            Err(error) => {
                tracing::warn!(%error, "failed to set space aside for when the disk is full; going on without");
                Ballast::Impossible
            }
        };
    }
}

/// A file of this size whose blocks are really taken.
fn make_ballast(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    if file.metadata()?.len() != bytes {
        file.set_len(0)?;
    }
    fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
    Ok(())
}
