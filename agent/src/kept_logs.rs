//! Whole logs of attempts that are done with, kept for a while after everything else of them was deleted:
//! `<data>/logs/<task>/<attempt>/`, root-only. It keeps what executors wrote and nothing that they read.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio_util::task::TaskTracker;

use crate::assignment::AttemptId;
use crate::attempt_dir::AttemptDir;

/// Between two looks for what is too old: a small part of the time, within these bounds.
const SWEEP_INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// When less of the disk than one part in so many is free, the oldest logs go early: tasks need the space.
const LEAST_FREE_PART: u64 = 20;

/// Where the logs of an attempt are kept.
pub fn directory(data_dir: &Path, id: AttemptId) -> PathBuf {
    top(data_dir).join(id.task.to_string()).join(id.attempt.to_string())
}

fn top(data_dir: &Path) -> PathBuf {
    data_dir.join("logs")
}

/// Moves the logs of an attempt to where they are kept. They may have been moved before.
pub fn keep(data_dir: &Path, dir: &AttemptDir, id: AttemptId) -> io::Result<()> {
    let logs = dir.logs();
    let entries = match fs::read_dir(&logs) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let path = entry?.path();
        if !path.extension().is_some_and(|extension| extension == "stdout" || extension == "stderr") {
            fs::remove_file(path)?;
        }
    }
    let kept = directory(data_dir, id);
    let parent = kept.parent().unwrap_or(data_dir);
    DirBuilder::new().mode(0o700).recursive(true).create(parent)?;
    // Their time begins now, however long the task ran.
    File::open(&logs)?.set_modified(SystemTime::now())?;
    fs::rename(&logs, &kept)
}

/// Deletes what is older than `retention` from time to time, until it is dropped. `disk` owns the work.
pub async fn sweep(data_dir: PathBuf, retention: Duration, disk: TaskTracker) {
    let pause = (retention / 24).clamp(SWEEP_INTERVALS.0, SWEEP_INTERVALS.1);
    loop {
        let data_dir = data_dir.clone();
        let swept = disk.spawn_blocking(move || {
            sweep_once(&data_dir, retention, SystemTime::now(), || is_short_of_space(&data_dir))
        });
        match swept.await {
            Ok(Ok(0)) => {}
            Ok(Ok(count)) => tracing::debug!(count, "deleted kept logs"),
            Ok(Err(error)) => tracing::error!(%error, "failed to delete kept logs; trying again later"),
            Err(error) => tracing::error!(%error, "failed to delete kept logs; trying again later"),
        }
        tokio::time::sleep(pause).await;
    }
}

/// Deletes what is older than `retention`, and while the disk `is_short` of space the oldest first. Answers how
/// many attempts' logs went.
fn sweep_once(
    data_dir: &Path,
    retention: Duration,
    now: SystemTime,
    is_short: impl Fn() -> io::Result<bool>,
) -> io::Result<usize> {
    let mut kept = Vec::new();
    for task in directories(&top(data_dir))? {
        for attempt in directories(&task)? {
            kept.push((fs::metadata(&attempt)?.modified()?, attempt));
        }
    }
    kept.sort();
    let mut count = 0;
    for (since, attempt) in kept {
        // A clock that was set back makes nothing older.
        let is_old = now.duration_since(since).is_ok_and(|age| age >= retention);
        if !is_old && !is_short()? {
            break;
        }
        fs::remove_dir_all(&attempt)?;
        count += 1;
        if let Some(task) = attempt.parent() {
            // Another attempt of the task may still lie there.
            let _ = fs::remove_dir(task);
        }
    }
    Ok(count)
}

fn is_short_of_space(path: &Path) -> io::Result<bool> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail < disk.f_blocks / LEAST_FREE_PART)
}

fn directories(parent: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(parent) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use teamster_values::TaskId;

    use super::*;

    fn kept(data: &Path, attempt: u32) -> PathBuf {
        let id = AttemptId { task: TaskId::from_bytes([5; 16]), attempt };
        let dir = AttemptDir::new(data, id);
        dir.make().unwrap();
        dir.make_logs(0).unwrap();
        fs::write(dir.stdout(0), "x").unwrap();
        fs::write(dir.stdin(0), "secret").unwrap();
        keep(data, &dir, id).unwrap();
        // A kill right after it: the same again.
        keep(data, &dir, id).unwrap();
        dir.delete().unwrap();
        directory(data, id)
    }

    #[test]
    fn keeps_what_was_written_where_only_root_comes() {
        let data = tempfile::tempdir().unwrap();
        let kept = kept(data.path(), 1);
        assert_eq!(fs::read_to_string(kept.join("0.stdout")).unwrap(), "x");
        assert!(kept.join("0.stderr").exists() && !kept.join("0.stdin").exists());
        for path in kept.ancestors().take(3) {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700, "{path:?}");
        }
    }

    #[test]
    fn deletes_what_is_old_and_nothing_else() {
        let data = tempfile::tempdir().unwrap();
        let (first, second) = (kept(data.path(), 1), kept(data.path(), 2));
        let now = SystemTime::now();
        File::open(&first).unwrap().set_modified(now - Duration::from_secs(100)).unwrap();
        let roomy = || Ok(false);
        assert_eq!(sweep_once(data.path(), Duration::from_secs(60), now, roomy).unwrap(), 1);
        assert!(!first.exists() && second.exists());
        assert_eq!(sweep_once(data.path(), Duration::ZERO, now + Duration::from_secs(1), roomy).unwrap(), 1);
        assert_eq!(
            directories(&top(data.path())).unwrap(),
            [] as [PathBuf; 0],
            "the task's directory goes too"
        );
        assert_eq!(sweep_once(Path::new("/nonexistent"), Duration::ZERO, now, roomy).unwrap(), 0);
    }

    #[test]
    fn the_oldest_make_room_on_a_short_disk() {
        let data = tempfile::tempdir().unwrap();
        let (young, old) = (kept(data.path(), 1), kept(data.path(), 2));
        let now = SystemTime::now();
        File::open(&old).unwrap().set_modified(now - Duration::from_secs(100)).unwrap();
        let short_once = std::cell::Cell::new(true);
        let day = Duration::from_secs(86400);
        assert_eq!(sweep_once(data.path(), day, now, || Ok(short_once.take())).unwrap(), 1);
        assert!(young.exists() && !old.exists());
    }
}
