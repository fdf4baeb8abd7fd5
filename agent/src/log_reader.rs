//! Parts of what executors wrote, for whoever reads logs: while the attempt is here from its own directory,
//! afterwards from where the logs are kept. It only reads; that somebody reads never delays a task.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::assignment::{AttemptId, Stage};
use crate::attempt_dir::AttemptDir;
use crate::kept_logs;

/// The most bytes of one part, and the longest wait for one.
pub const PART_BYTES_MAX: usize = 64 << 10;
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How often a file is looked at while somebody waits for more of it. Part of the delay that readers see.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How far the attempts are that have no result yet. The supervisor keeps it true; an attempt that is not in
/// it is over.
#[derive(Debug, Default)]
pub struct Stages(Mutex<BTreeMap<AttemptId, Stage>>);

impl Stages {
    /// The attempt is here and has come so far.
    pub fn set(&self, id: AttemptId, stage: Stage) {
        self.lock().insert(id, stage);
    }

    /// The attempt has a result.
    pub fn over(&self, id: AttemptId) {
        self.lock().remove(&id);
    }

    /// Whether `executor` can write nothing more. While outputs are put in place, the last bytes of the last
    /// one may still be on their way through the shim.
    fn is_over(&self, id: AttemptId, executor: u32) -> bool {
        match self.lock().get(&id) {
            None => true,
            Some(Stage::Preparing | Stage::Finalizing) => false,
            Some(Stage::Running { executor: running, .. }) => *running > executor,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AttemptId, Stage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the two streams of an executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Of which attempt.
    pub id: AttemptId,
    /// Index of the executor.
    pub executor: u32,
    /// Which of its streams.
    pub stream: Stream,
    /// From this byte on.
    pub offset: u64,
    /// At most so many bytes, and never more than [`PART_BYTES_MAX`]; none asks for the size alone.
    pub bytes_max: u64,
    /// How long to wait for something to be there.
    pub wait: Duration,
}

/// A part of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Empty at the end, and when the wait was in vain.
    pub data: Vec<u8>,
    /// How much has been written so far.
    pub size_bytes: u64,
    /// Whether nothing follows after `size_bytes`.
    pub has_ended: bool,
}

/// Reads logs.
#[derive(Debug)]
pub struct LogReader {
    data_dir: PathBuf,
    stages: Arc<Stages>,
}

impl LogReader {
    /// A reader of the logs in the agent's data directory.
    pub fn new(data_dir: &Path, stages: Arc<Stages>) -> Self {
        Self { data_dir: data_dir.to_owned(), stages }
    }

    /// The part; none when there is no such log here.
    pub async fn read(&self, wanted: &Wanted) -> io::Result<Option<Part>> {
        let deadline = Instant::now() + wanted.wait.min(WAIT_MAX);
        loop {
            // Asked before the file is looked at: what it holds then is all that there will be.
            let has_ended = self.stages.is_over(wanted.id, wanted.executor);
            let (data_dir, asked) = (self.data_dir.clone(), wanted.clone());
            let looked = tokio::task::spawn_blocking(move || look(&data_dir, &asked)).await;
            let (data, size_bytes) = match looked.map_err(io::Error::other)?? {
                Look::Part { data, size_bytes } => (data, size_bytes),
                Look::NoAttempt if has_ended => return Ok(None),
                Look::NoFile | Look::NoAttempt => (Vec::new(), 0),
            };
            let is_enough = !data.is_empty() || has_ended || wanted.bytes_max == 0;
            if is_enough || Instant::now() >= deadline {
                return Ok(Some(Part { data, size_bytes, has_ended }));
            }
            tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_INTERVAL)).await;
        }
    }
}

enum Look {
    Part {
        data: Vec<u8>,
        size_bytes: u64,
    },
    /// The executor was never made.
    NoFile,
    NoAttempt,
}

fn look(data_dir: &Path, wanted: &Wanted) -> io::Result<Look> {
    let live = AttemptDir::new(data_dir, wanted.id);
    let kept = kept_logs::directory(data_dir, wanted.id);
    let file = match wanted.stream {
        Stream::Stdout => live.stdout(wanted.executor),
        Stream::Stderr => live.stderr(wanted.executor),
    };
    let name = file.file_name().map(PathBuf::from).unwrap_or_default();
    // In this order: they move from the one place to the other, at once and never back.
    for path in [&file, &kept.join(name)] {
        match File::open(path) {
            Ok(file) => return part(&file, wanted),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let is_here = live.path().is_dir() || kept.is_dir();
    Ok(if is_here { Look::NoFile } else { Look::NoAttempt })
}

fn part(file: &File, wanted: &Wanted) -> io::Result<Look> {
    let size_bytes = file.metadata()?.len();
    let left = size_bytes.saturating_sub(wanted.offset).min(wanted.bytes_max).min(PART_BYTES_MAX as u64);
    let mut data = vec![0; left as usize];
    let mut filled = 0;
    while filled < data.len() {
        match file.read_at(&mut data[filled..], wanted.offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    data.truncate(filled);
    Ok(Look::Part { data, size_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use teamster_values::TaskId;

    fn id() -> AttemptId {
        AttemptId { task: TaskId::from_bytes([3; 16]), attempt: 1 }
    }

    fn wanted(executor: u32, offset: u64) -> Wanted {
        let wait = Duration::from_secs(3600);
        Wanted { id: id(), executor, stream: Stream::Stdout, offset, bytes_max: u64::MAX, wait }
    }

    fn running(executor: u32) -> Stage {
        Stage::Running { executor, since: jiff::Timestamp::UNIX_EPOCH }
    }

    struct Stand {
        data: tempfile::TempDir,
        dir: AttemptDir,
        stages: Arc<Stages>,
        reader: LogReader,
    }

    fn stand() -> Stand {
        let data = tempfile::tempdir().unwrap();
        let dir = AttemptDir::new(data.path(), id());
        let stages = Arc::new(Stages::default());
        let reader = LogReader::new(data.path(), stages.clone());
        Stand { data, dir, stages, reader }
    }

    fn whole(data: &[u8], has_ended: bool) -> Option<Part> {
        Some(Part { data: data.to_vec(), size_bytes: data.len() as u64, has_ended })
    }

    #[tokio::test]
    async fn waits_for_growth_and_sees_the_end() {
        let stand = stand();
        assert_eq!(stand.reader.read(&wanted(0, 0)).await.unwrap(), None);
        stand.stages.set(id(), Stage::Preparing);
        let first = wanted(0, 0);
        let mut reading = Box::pin(stand.reader.read(&first));
        assert!(futures_util::poll!(&mut reading).is_pending(), "nothing is there yet, not even the file");
        stand.dir.make().unwrap();
        stand.dir.make_logs(0).unwrap();
        stand.stages.set(id(), running(0));
        std::fs::write(stand.dir.stdout(0), "one").unwrap();
        assert_eq!(reading.await.unwrap(), whole(b"one", false));
        let more = wanted(0, 3);
        let mut reading = Box::pin(stand.reader.read(&more));
        assert!(futures_util::poll!(&mut reading).is_pending());
        stand.stages.set(id(), running(1));
        let end = Part { data: Vec::new(), size_bytes: 3, has_ended: true };
        assert_eq!(reading.await.unwrap(), Some(end.clone()));
        // The last executor is not over while outputs are put in place; one that never ran is, at the end.
        stand.stages.set(id(), Stage::Finalizing);
        let now = Wanted { wait: Duration::ZERO, ..wanted(1, 0) };
        assert_eq!(stand.reader.read(&now).await.unwrap(), whole(b"", false));
        stand.stages.over(id());
        assert_eq!(stand.reader.read(&wanted(1, 0)).await.unwrap(), whole(b"", true));
        assert_eq!(stand.reader.read(&more).await.unwrap(), Some(end));
    }

    #[tokio::test]
    async fn reads_in_parts_and_after_the_attempt_is_gone() {
        let stand = stand();
        stand.dir.make().unwrap();
        stand.dir.make_logs(0).unwrap();
        let text: Vec<u8> = (0..3 * PART_BYTES_MAX + 17).map(|n| (n % 251) as u8).collect();
        std::fs::write(stand.dir.stdout(0), &text).unwrap();
        std::fs::write(stand.dir.stdin(0), "secret").unwrap();
        for is_kept in [false, true] {
            if is_kept {
                kept_logs::keep(stand.data.path(), &stand.dir, id()).unwrap();
                stand.dir.delete().unwrap();
            }
            let mut read = Vec::new();
            while read.len() < text.len() {
                let part = stand.reader.read(&wanted(0, read.len() as u64)).await.unwrap().unwrap();
                assert!((1..=PART_BYTES_MAX).contains(&part.data.len()));
                assert_eq!(part.size_bytes, text.len() as u64);
                read.extend(part.data);
            }
            assert_eq!(read, text);
            let size = Wanted { bytes_max: 0, ..wanted(0, 0) };
            let size = stand.reader.read(&size).await.unwrap().unwrap();
            assert_eq!((size.data.len(), size.size_bytes), (0, text.len() as u64));
        }
    }
}
