//! Watches the node's disk while tasks run: how much each of them has written, and whether there is room for new
//! ones. It ends nothing itself: it tells the driver of an attempt that is over its own request, and the session
//! that the node takes no new tasks.
//!
//! Where an attempt has a project of its own ([`crate::quota`]) the kernel counts what it has, and refuses what
//! would be too much; what is left to walk over are its logs, which somebody else writes. Elsewhere there is one
//! walk at a time over all attempts, in a thread that may block. An attempt is measured again the sooner the less
//! room it has, and a walk that takes long is repeated seldom, so that watching stays cheap.

mod gauge;
mod measure;
mod overrun;
mod unlinked;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use teamster_values::ByteCount;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use self::gauge::Gauge;
use self::measure::{Place, Used, measure};
use self::overrun::{overrun, too_large, too_many};
use crate::assignment::AttemptId;
use crate::attempt_dir::AttemptDir;
use crate::boot::BootInstant;
use crate::quota::Quotas;
use crate::runtime::Runtime;

pub use self::overrun::Overrun;
pub use crate::quota::DiskLimits;

/// Between two looks at the file system, and the shortest time between two walks over an attempt.
const TICK: Duration = Duration::from_secs(1);

/// The longest time between two walks over an attempt with much room.
const INTERVAL_MAX: Duration = Duration::from_secs(30);

/// How fast a task is taken to write, in bytes a second: a good disk's pace.
const PACE: u64 = 1 << 30;

/// A walk rests so many times as long as it took: at most a twentieth of one CPU goes into watching one
/// attempt.
const REST_FACTOR: u32 = 20;

/// Between two looks for hard limits that are left over.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// So much of its logs does not count for an attempt with a hard limit: whoever has met that has done nothing that
/// it may not.
const FREE_LOGS_BYTES: u64 = 1 << 20;

/// An attempt that has less room than this has met its limit: what it wanted to write did not fit. Or a sixteenth
/// of its limit, where that is less.
const NO_ROOM_BYTES: u64 = 256 << 10;

/// The attempts that are watched.
#[derive(Debug, Default)]
pub struct DiskWatch {
    quotas: Arc<Quotas>,
    watched: Mutex<BTreeMap<AttemptId, Watched>>,
}

#[derive(Debug)]
struct Watched {
    scratch: PathBuf,
    logs: PathBuf,
    limits: DiskLimits,
    due: Instant,
    /// The limit that the kernel holds was met.
    met: Option<Overrun>,
    tell: watch::Sender<Option<Overrun>>,
}

/// Keeps one attempt watched until it is dropped.
#[derive(Debug)]
pub struct Watching {
    all: Arc<DiskWatch>,
    id: AttemptId,
    overrun: watch::Receiver<Option<Overrun>>,
}

impl Watching {
    /// Waits until the attempt is over a limit.
    pub fn overrun(&self) -> impl Future<Output = Overrun> + Send + 'static {
        let mut receiver = self.overrun.clone();
        async move {
            match receiver.wait_for(Option::is_some).await.map(|found| (*found).clone()) {
                Ok(Some(overrun)) => overrun,
                // Nobody watches any more.
                _ => std::future::pending().await,
            }
        }
    }

    /// The limit that the kernel holds for the attempt, if that was met: then something of what it wanted to write
    /// was refused.
    pub fn met(&self) -> Option<Overrun> {
        let mut all = self.all.lock();
        let watched = all.get_mut(&self.id)?;
        watched.met = watched.met.take().or_else(|| self.all.met(self.id, watched.limits));
        watched.met.clone()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.all.lock().remove(&self.id);
    }
}

impl DiskWatch {
    /// A watch beside these hard limits.
    pub fn beside(quotas: Arc<Quotas>) -> Self {
        Self { quotas, watched: Mutex::default() }
    }

    /// The hard limits.
    pub fn quotas(&self) -> &Arc<Quotas> {
        &self.quotas
    }

    /// The limit that the kernel holds for the attempt, if it leaves no room now.
    pub fn met(&self, id: AttemptId, limits: DiskLimits) -> Option<Overrun> {
        let usage = self.quotas.usage(id)?.ok()?;
        let no_room = NO_ROOM_BYTES.min(limits.bytes / 16);
        if usage.bytes.saturating_add(no_room) > limits.bytes {
            Some(too_large(limits, usage.bytes))
        } else {
            (usage.files >= limits.files).then(|| too_many(limits))
        }
    }

    /// Watches what the task of `dir` may write, from now on.
    pub fn watch(self: &Arc<Self>, id: AttemptId, dir: &AttemptDir, limits: DiskLimits) -> Watching {
        let (tell, overrun) = watch::channel(None);
        let (scratch, logs) = (dir.scratch(), dir.logs());
        self.lock().insert(id, Watched { scratch, logs, limits, due: Instant::now(), met: None, tell });
        Watching { all: self.clone(), id, overrun }
    }

    /// Watches for ever. Whether the node takes no new tasks, and why, goes to `closed`; what blocks is done
    /// by `tracker`.
    pub async fn run(
        self: Arc<Self>,
        data_dir: PathBuf,
        floor: ByteCount,
        runtime: Arc<dyn Runtime>,
        tracker: TaskTracker,
        closed: watch::Sender<Option<String>>,
    ) {
        let mut gauge = Gauge::new(floor);
        let mut sweep = Instant::now() + SWEEP_INTERVAL;
        loop {
            let path = data_dir.clone();
            match tracker.spawn_blocking(move || measure::free(&path)).await {
                Ok(Ok(free)) => gauge.look(free, BootInstant::now()),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the disk of the data directory does not say what is free")
                }
                Err(error) => tracing::error!(%error, "failed to look at the disk"),
            }
            closed.send_if_modified(|closed| {
                let now = gauge.closed();
                let changed = closed.is_some() != now.is_some();
                if changed {
                    match &now {
                        Some(reason) => tracing::warn!(reason, "this node takes no new tasks"),
                        None => tracing::info!("there is room on the disk; this node takes tasks again"),
                    }
                }
                *closed = now;
                changed
            });
            self.measure_all(gauge.is_low(), &runtime, &tracker).await;
            if Instant::now() >= sweep {
                sweep = Instant::now() + SWEEP_INTERVAL;
                let quotas = self.quotas.clone();
                // It says by itself what went wrong.
                let _ = tracker.spawn_blocking(move || quotas.sweep()).await;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Measures those that are due; all of them when the disk is low. Those furthest over are told first.
    async fn measure_all(self: &Arc<Self>, is_low: bool, runtime: &Arc<dyn Runtime>, tracker: &TaskTracker) {
        let now = Instant::now();
        let due: Vec<_> = self
            .lock()
            .iter()
            .filter(|(_, watched)| is_low || watched.due <= now)
            .map(|(id, watched)| (*id, [watched.scratch.clone(), watched.logs.clone()], watched.limits))
            .collect();
        let mut over = Vec::new();
        for (id, places, limits) in due {
            let (all, runtime) = (self.clone(), runtime.clone());
            let work = move || {
                let begun = std::time::Instant::now();
                let used = all.used(id, places, limits, runtime.as_ref())?;
                Ok::<_, io::Error>((used, all.met(id, limits), begun.elapsed()))
            };
            match tracker.spawn_blocking(work).await {
                Ok(Ok((used, met, took))) => {
                    if let Some(watched) = self.lock().get_mut(&id) {
                        watched.due = Instant::now() + interval(limits, used, took);
                        watched.met = watched.met.take().or(met);
                    }
                    over.extend(overrun(limits, used).map(|found| (used.bytes, id, found)));
                }
                Ok(Err(error)) => {
                    tracing::warn!(attempt = %id, %error, "failed to measure what a task wrote")
                }
                Err(error) => tracing::error!(attempt = %id, %error, "failed to measure what a task wrote"),
            }
        }
        over.sort_unstable_by_key(|(bytes, ..)| std::cmp::Reverse(*bytes));
        for (_, id, found) in over {
            if let Some(watched) = self.lock().get(&id) {
                // Whoever has stopped listening has ended.
                let _ = watched.tell.send(Some(found));
            }
        }
    }

    /// What an attempt has: by the kernel's count where there is one, by a walk elsewhere. Logs do not belong to
    /// its project: a task that has filled its disk must still be able to say so.
    fn used(
        &self,
        id: AttemptId,
        [scratch, logs]: [PathBuf; 2],
        limits: DiskLimits,
        runtime: &dyn Runtime,
    ) -> io::Result<Used> {
        // A count that has ended, because somebody switched it off, is none.
        let Some(Ok(counted)) = self.quotas.usage(id) else {
            let place = Place { directories: vec![scratch, logs], processes: runtime.processes(id) };
            return measure(&place, limits.files);
        };
        let logs = measure(&Place { directories: vec![logs], processes: Vec::new() }, limits.files)?;
        let bytes = counted.bytes.saturating_add(logs.bytes.saturating_sub(FREE_LOGS_BYTES));
        Ok(Used { bytes, files: counted.files, is_too_deep: false })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AttemptId, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long the attempt cannot pass its limit, if it writes no faster than [`PACE`], within reason.
fn interval(limits: DiskLimits, used: Used, took: Duration) -> Duration {
    let room = Duration::from_secs(limits.bytes.saturating_sub(used.bytes) / PACE);
    room.clamp(TICK, INTERVAL_MAX).max(took * REST_FACTOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::FakeRuntime;
    use teamster_values::{Reason, TaskId};

    const LIMITS: DiskLimits = DiskLimits { bytes: 10 << 30, files: 100 };

    #[test]
    fn looks_sooner_the_less_room_there_is_and_seldom_where_it_costs() {
        let used = |bytes| Used { bytes, ..Used::default() };
        let quick = Duration::from_millis(1);
        assert_eq!(interval(LIMITS, used(0), quick), Duration::from_secs(10));
        assert_eq!(interval(LIMITS, used(9 << 30), quick), TICK);
        assert_eq!(interval(LIMITS, used(11 << 30), quick), TICK);
        assert_eq!(interval(DiskLimits { bytes: 1 << 50, ..LIMITS }, used(0), quick), INTERVAL_MAX);
        assert_eq!(interval(LIMITS, used(10 << 30), Duration::from_secs(3)), Duration::from_secs(60));
    }

    #[tokio::test]
    async fn tells_the_driver_and_forgets_whoever_is_gone() {
        let data = tempfile::tempdir().unwrap();
        let id = AttemptId { task: TaskId::from_bytes([7; 16]), attempt: 1 };
        let dir = AttemptDir::new(data.path(), id);
        std::fs::create_dir_all(dir.scratch()).unwrap();
        std::fs::write(dir.scratch().join("file"), vec![1; 64 << 10]).unwrap();
        let all = Arc::new(DiskWatch::default());
        let watching = all.watch(id, &dir, DiskLimits { bytes: 4096, files: 10 });
        let (closed, mut is_closed) = watch::channel(None);
        let runtime: Arc<dyn Runtime> = Arc::new(FakeRuntime::new());
        let floor = ByteCount(u64::MAX);
        let run = all.clone().run(data.path().to_owned(), floor, runtime, TaskTracker::new(), closed);
        tokio::select! {
            () = run => unreachable!("it watches for ever"),
            overrun = watching.overrun() => assert_eq!(overrun.reason, Reason::DiskLimit),
        }
        assert!(is_closed.borrow_and_update().is_some(), "no disk has so much room");
        drop(watching);
        assert!(all.lock().is_empty());
    }
}
