//! Opening the database file, or saying clearly why not. A file that is not ours is never written to.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::Database;
use uuid::Uuid;

use super::StoreError;
use super::migrations::{self, Identity, New};
use super::reader::Reader;
use super::secret::Secret;
use super::snapshot::Latest;
use super::writer::{self, Writer};

/// Name of the database in the data directory.
const FILE_NAME: &str = "state.redb";
/// A database that is being made; it gets its real name when it is whole.
const UNFINISHED_NAME: &str = "state.redb.new";
/// Held locked as long as the database is open. A file of its own, so that it also guards the making.
const LOCK_NAME: &str = "lock";

/// How long to wait for a predecessor: one that was killed may still sit in fsync and hold its files.
const PREDECESSOR_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Memory for cached pages. The live rows of 1 M tasks take about as much.
const CACHE_BYTES: usize = 256 << 20;

/// What every redb file begins with.
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";

/// An open database.
#[derive(Debug)]
pub struct Opened {
    /// The one writer.
    pub writer: Writer,
    /// The first reader, to be cloned.
    pub reader: Reader,
    /// Name of the cluster, made with the database.
    pub cluster_id: String,
    /// What this cluster signs with.
    pub secret: Secret,
    /// How often the database was opened, this time included. On disk.
    pub term: u64,
}

/// What reader and writer share. The database is closed when the last of them goes.
#[derive(Debug)]
pub(super) struct Shared {
    // Before the database: fields are dropped in this order, and what it has open must be closed first.
    pub(super) latest: Latest,
    pub(super) database: Database,
    pub(super) path: PathBuf,
    // After the database: fields are dropped in this order, and the lock must outlive it.
    _lock: File,
}

impl Shared {
    pub(super) fn bad_row(&self, table: &'static str, seq: u64, reason: String) -> StoreError {
        StoreError::Record { path: self.path.clone(), table, key: seq.to_string(), reason }
    }
}

/// Opens the database in `data_dir`, making both where they do not exist, and begins a new term.
/// Waits up to 10 seconds for a predecessor to let go of it.
pub fn open(data_dir: &Path) -> Result<Opened, StoreError> {
    open_within(data_dir, PREDECESSOR_TIMEOUT)
}

pub(super) fn open_within(data_dir: &Path, patience: Duration) -> Result<Opened, StoreError> {
    let deadline = Instant::now() + patience;
    let path = data_dir.join(FILE_NAME);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .map_err(|source| StoreError::from_directory(data_dir, source))?;
    let lock = lock(data_dir, &path, deadline)?;
    let is_new = !is_database(&path)?;
    let file_path = if is_new { data_dir.join(UNFINISHED_NAME) } else { path.clone() };
    if is_new {
        remove_unfinished(&file_path).map_err(|source| StoreError::from_directory(data_dir, source))?;
    }
    let database = open_file(&file_path, deadline)?;
    let shared = Shared { latest: Latest::default(), database, path: path.clone(), _lock: lock };
    let identity = begin_term(&shared)?;
    if is_new {
        std::fs::rename(&file_path, &path)
            .and_then(|()| File::open(data_dir)?.sync_all())
            .map_err(|source| StoreError::from_directory(data_dir, source))?;
    }
    let shared = Arc::new(shared);
    Ok(Opened {
        writer: Writer::new(shared.clone()),
        reader: Reader::new(shared),
        cluster_id: identity.cluster_id,
        secret: identity.secret,
        term: identity.term,
    })
}

fn lock(data_dir: &Path, path: &Path, deadline: Instant) -> Result<File, StoreError> {
    let unusable = |source| StoreError::from_directory(data_dir, source);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(data_dir.join(LOCK_NAME))
        .map_err(unusable)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(StoreError::InUse { path: path.to_owned() });
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(RETRY_INTERVAL),
        }
    }
}

/// Whether there is a database to open; none where the file does not exist. Looks before redb does, because
/// redb opens for writing.
fn is_database(path: &Path) -> Result<bool, StoreError> {
    let failed = |error: io::Error| StoreError::Failed { path: path.to_owned(), reason: error.to_string() };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    let mut start = Vec::with_capacity(MAGIC.len());
    file.take(MAGIC.len() as u64).read_to_end(&mut start).map_err(failed)?;
    if start == MAGIC { Ok(true) } else { Err(StoreError::Foreign { path: path.to_owned() }) }
}

fn remove_unfinished(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn open_file(path: &Path, deadline: Instant) -> Result<Database, StoreError> {
    loop {
        match Database::builder().set_cache_size(CACHE_BYTES).create(path) {
            Ok(database) => return Ok(database),
            Err(redb::DatabaseError::DatabaseAlreadyOpen) if Instant::now() < deadline => {
                std::thread::sleep(RETRY_INTERVAL);
            }
            Err(error) => return Err(StoreError::from_redb(path, error)),
        }
    }
}

fn begin_term(shared: &Shared) -> Result<Identity, StoreError> {
    let transaction = writer::begin(shared)?;
    let secret = Secret::new()
        .map_err(|error| StoreError::Failed { path: shared.path.clone(), reason: error.to_string() })?;
    let new = New { cluster_id: Uuid::now_v7().to_string(), secret };
    let identity = migrations::begin_term(shared, &transaction, new)?;
    transaction.commit().map_err(|error| StoreError::from_redb(&shared.path, error))?;
    Ok(identity)
}
