//! Reading, replacing and deleting `attempt.json` and the root-only directories around it. It never follows
//! a path into anything that a task can write, and never deletes what it does not know.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Attempt, RECORD_VERSION};
use crate::assignment::AttemptId;
use crate::attempt_dir::AttemptDir;

const TEMPORARY: &str = "attempt.json.new";

/// Why a record could not be read or written. The texts fit after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system refused.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is no record of this program.
    #[error("read the record {path}: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl RecordError {
    /// Whether space on the disk would help.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Unreadable { .. } => false,
        }
    }
}

fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RecordError + 'a {
    move |source| RecordError::Io { action, path: path.to_owned(), source }
}

impl AttemptDir {
    /// Makes the directory and the ones above it, root-only. One that exists is fine.
    pub fn make(&self) -> Result<(), RecordError> {
        let path = self.path();
        DirBuilder::new().mode(0o700).recursive(true).create(path).map_err(at("create", path))
    }

    /// Writes the first record, with the names of the directories above it: they must survive a power cut as
    /// surely as the record in them does. After the record, because a journal that holds what came later holds
    /// them too, and there is nothing left to wait for.
    pub fn store_first(&self, attempt: &Attempt) -> Result<(), RecordError> {
        self.store(attempt)?;
        self.path().ancestors().skip(1).take(3).try_for_each(sync_directory)
    }

    /// Makes the directory of the streams with an empty file for each stream of `executor`. Files that exist
    /// keep their content.
    pub fn make_logs(&self, executor: u32) -> Result<(), RecordError> {
        for directory in [self.logs(), self.private()] {
            DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(&directory)
                .map_err(at("create", &directory))?;
        }
        for file in [self.stdout(executor), self.stderr(executor)] {
            OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(&file)
                .map_err(at("create", &file))?;
        }
        Ok(())
    }

    /// Replaces the record: when this returns, the new one survives a power cut; until then the old one does.
    pub fn store(&self, attempt: &Attempt) -> Result<(), RecordError> {
        let temporary = self.path().join(TEMPORARY);
        let text = serde_json::to_vec(attempt).map_err(|error| RecordError::Unreadable {
            path: temporary.clone(),
            reason: format!("it cannot be written as JSON: {error}"),
        })?;
        let result = write_synced(&temporary, &text);
        if result.is_err() {
            // Half a file would keep the very space that is missing.
            let _ = fs::remove_file(&temporary);
        }
        result.map_err(at("write", &temporary))?;
        let record = self.record();
        fs::rename(&temporary, &record).map_err(at("replace", &record))?;
        sync_directory(self.path())
    }

    /// The record; none when there is no such attempt here.
    pub fn load(&self) -> Result<Option<Attempt>, RecordError> {
        let path = self.record();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at("read", &path)(error)),
        };
        let unreadable = |reason: String| RecordError::Unreadable { path: path.clone(), reason };
        let attempt: Attempt =
            serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        if attempt.version != RECORD_VERSION {
            return Err(unreadable(format!("its version is {}, not {RECORD_VERSION}", attempt.version)));
        }
        if *self != AttemptDir::new(&data_dir_of(self), attempt.id()) {
            return Err(unreadable(format!("it speaks of attempt {}", attempt.id())));
        }
        Ok(Some(attempt))
    }

    /// Deletes the directory, the record last, so that a kill in the middle is taken up again. The stager
    /// must have released it before: what a task could write is not entered here.
    pub fn delete(&self) -> Result<(), RecordError> {
        for directory in [self.logs(), self.private(), self.talks()] {
            absent_is_fine(fs::remove_dir_all(&directory)).map_err(at("delete", &directory))?;
        }
        for directory in [self.scratch(), self.binds()] {
            absent_is_fine(fs::remove_dir(&directory)).map_err(at("delete", &directory))?;
        }
        for file in [self.lease(), self.path().join(TEMPORARY), self.record()] {
            absent_is_fine(fs::remove_file(&file)).map_err(at("delete", &file))?;
        }
        absent_is_fine(fs::remove_dir(self.path())).map_err(at("delete", self.path()))?;
        if let Some(task) = self.path().parent() {
            // Another attempt of the task may still lie there.
            let _ = fs::remove_dir(task);
        }
        Ok(())
    }
}

/// All attempts in a data directory, in order. A record that cannot be read is moved aside with its
/// directory, to `<data>/aside/`, and logged as an error: it is neither trusted nor destroyed.
pub fn load_all(data_dir: &Path) -> Result<Vec<Attempt>, RecordError> {
    let tasks = data_dir.join("tasks");
    let mut attempts = Vec::new();
    for (task, task_name) in directories(&tasks)? {
        for (path, attempt_name) in directories(&task)? {
            let (Ok(task), Ok(attempt)) = (task_name.parse(), attempt_name.parse()) else {
                tracing::error!(path = %path.display(), "what lies in the data directory is no attempt; left alone");
                continue;
            };
            let dir = AttemptDir::new(data_dir, AttemptId { task, attempt });
            match dir.load() {
                Ok(Some(attempt)) => attempts.push(attempt),
                // Killed before the first record, or after the last was deleted: nothing was done.
                Ok(None) => dir.delete().unwrap_or_else(|error| {
                    tracing::error!(path = %path.display(), %error, "a directory without a record is left alone");
                }),
                Err(error) => put_aside(data_dir, &dir, &format!("{task_name}-{attempt_name}"), &error)?,
            }
        }
        // Killed before its first attempt was made, or after its last was deleted. One with attempts stays.
        let _ = fs::remove_dir(&task);
    }
    attempts.sort_by_key(Attempt::id);
    Ok(attempts)
}

fn put_aside(data_dir: &Path, dir: &AttemptDir, name: &str, error: &RecordError) -> Result<(), RecordError> {
    let aside = data_dir.join("aside");
    DirBuilder::new().mode(0o700).recursive(true).create(&aside).map_err(at("create", &aside))?;
    let target = (0..)
        .map(|number| aside.join(format!("{name}.{number}")))
        .find(|path| !path.exists())
        .expect("the numbers do not end");
    fs::rename(dir.path(), &target).map_err(at("put aside", dir.path()))?;
    tracing::error!(kept = %target.display(), %error, "the record of an attempt is damaged; its containers are killed");
    Ok(())
}

fn directories(parent: &Path) -> Result<Vec<(PathBuf, String)>, RecordError> {
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at("read", parent)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at("read", parent))?;
        if entry.file_type().map_err(at("read", parent))?.is_dir() {
            found.push((entry.path(), entry.file_name().to_string_lossy().into_owned()));
        }
    }
    found.sort();
    Ok(found)
}

fn data_dir_of(dir: &AttemptDir) -> PathBuf {
    dir.path().ancestors().nth(3).unwrap_or(Path::new("/")).to_owned()
}

fn write_synced(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn sync_directory(path: &Path) -> Result<(), RecordError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(at("sync", path))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::{Assignment, Resources};
    use crate::attempt::Phase;
    use teamster_values::TaskId;

    fn attempt(number: u32) -> Attempt {
        let assignment = Assignment {
            id: AttemptId { task: TaskId::from_bytes([7; 16]), attempt: number },
            executors: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            volumes: Vec::new(),
            limits: Resources::default(),
            lease: std::time::Duration::from_secs(60),
            network: None,
            time_limit: None,
            image_entrypoint: false,
        };
        Attempt::new(assignment, "boot", jiff::Timestamp::UNIX_EPOCH)
    }

    fn stored(data: &Path, number: u32) -> (AttemptDir, Attempt) {
        let attempt = attempt(number);
        let dir = AttemptDir::new(data, attempt.id());
        dir.make().unwrap();
        dir.store(&attempt).unwrap();
        (dir, attempt)
    }

    #[test]
    fn replaces_and_reads_back() {
        let data = tempfile::tempdir().unwrap();
        let (dir, mut attempt) = stored(data.path(), 1);
        assert_eq!(dir.load().unwrap(), Some(attempt.clone()));
        attempt.phase = Phase::Started(3);
        dir.store(&attempt).unwrap();
        assert_eq!(load_all(data.path()).unwrap(), [attempt]);
        use std::os::unix::fs::PermissionsExt;
        for path in dir.path().ancestors().take(3) {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700, "{path:?}");
        }
    }

    #[test]
    fn a_torn_write_leaves_the_old_record() {
        let data = tempfile::tempdir().unwrap();
        let (dir, attempt) = stored(data.path(), 1);
        fs::write(dir.path().join(TEMPORARY), b"{\"version\":1,\"assi").unwrap();
        assert_eq!(load_all(data.path()).unwrap(), [attempt]);
        dir.delete().unwrap();
        assert!(
            !data.path().join("tasks").read_dir().unwrap().any(|_| true),
            "the task's directory goes too"
        );
    }

    #[test]
    fn a_damaged_record_is_kept_aside_and_the_others_are_read() {
        let data = tempfile::tempdir().unwrap();
        let (dir, _) = stored(data.path(), 1);
        let (_, whole) = stored(data.path(), 2);
        fs::write(dir.record(), b"{}").unwrap();
        assert_eq!(load_all(data.path()).unwrap(), [whole]);
        let kept: Vec<_> = fs::read_dir(data.path().join("aside")).unwrap().collect();
        assert_eq!(kept.len(), 1);
        assert!(kept[0].as_ref().unwrap().path().join("attempt.json").exists());
    }

    #[test]
    fn a_record_in_the_wrong_place_is_not_believed() {
        let data = tempfile::tempdir().unwrap();
        let (dir, _) = stored(data.path(), 1);
        dir.store(&attempt(2)).unwrap();
        assert!(dir.load().unwrap_err().to_string().contains("speaks of"));
    }

    #[test]
    fn a_directory_without_a_record_is_removed_but_never_its_scratch() {
        let data = tempfile::tempdir().unwrap();
        let (dir, _) = stored(data.path(), 1);
        fs::remove_file(dir.record()).unwrap();
        fs::create_dir_all(dir.scratch().join("precious")).unwrap();
        assert_eq!(load_all(data.path()).unwrap(), []);
        assert!(dir.scratch().join("precious").exists());
        fs::remove_dir_all(dir.scratch()).unwrap();
        assert_eq!(load_all(data.path()).unwrap(), []);
        assert!(!dir.path().exists());
    }

    #[test]
    fn a_task_without_attempts_is_removed() {
        let data = tempfile::tempdir().unwrap();
        let (dir, attempt) = stored(data.path(), 1);
        let task = dir.path().parent().unwrap();
        assert_eq!(load_all(data.path()).unwrap(), [attempt]);
        assert!(dir.path().exists());
        // As if killed in the middle of a deletion.
        fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!(load_all(data.path()).unwrap(), []);
        assert!(!task.exists());
    }

    #[test]
    fn says_plainly_what_the_disk_refused() {
        let data = tempfile::tempdir().unwrap();
        let (dir, attempt) = stored(data.path(), 1);
        fs::create_dir(dir.path().join(TEMPORARY)).unwrap();
        let text = dir.store(&attempt).unwrap_err().to_string();
        assert!(text.starts_with("write ") && text.contains(TEMPORARY), "{text}");
        let full = RecordError::Io {
            action: "write",
            path: "/x".into(),
            source: io::Error::from(io::ErrorKind::StorageFull),
        };
        assert!(full.is_disk_full());
    }
}
