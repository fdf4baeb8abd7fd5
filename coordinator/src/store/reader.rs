//! Reading. Every call sees one snapshot of the database and never holds up the writer.

use std::sync::Arc;

use jiff::Timestamp;
use redb::{ReadTransaction, ReadableDatabase, ReadableTable};
use serde::de::DeserializeOwned;
use teamster_values::TaskId;

use super::StoreError;
use super::open::Shared;
use super::page::{self, ListQuery, Page};
use super::record::{self, FinalRow, Head, LiveRow};
use super::tables::{ATTEMPTS, FINALS, FINALS_BY_END, HEADS, IDS, LAST_SEQ, LIVE, META, SPECS};
use super::writer::{self, Ended};
use crate::attempt_log::AttemptLog;
use crate::spec::TaskSpec;

/// Reads the database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

/// How much of a task is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Who it is and where it stands: small rows only.
    Status,
    /// What was submitted and what the attempts left behind, too.
    Everything,
}

/// A task as it is on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTask {
    /// Its place in the order of acceptance.
    pub seq: u64,
    /// Id, name, owner, time of acceptance, tags.
    pub head: Head,
    /// Where it stands.
    pub status: Status,
    /// What was submitted, where it was wanted.
    pub spec: Option<TaskSpec>,
    /// The attempts that have ended with their numbers, oldest first, where they were wanted.
    pub attempts: Vec<(u32, AttemptLog)>,
    /// How many bytes spec and attempts take on disk, where they were wanted.
    pub big_rows_bytes: usize,
}

/// Where a task stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    /// It has not ended.
    Live(LiveRow),
    /// It has.
    Final(FinalRow),
}

impl StoredTask {
    /// When it was accepted.
    pub fn created(&self) -> Timestamp {
        self.head.created
    }
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The task `id`.
    pub fn task(&self, id: &TaskId, want: Want) -> Result<Option<StoredTask>, StoreError> {
        let snapshot = self.snapshot()?;
        match snapshot.seq(id)? {
            Some(seq) => snapshot.task(seq, want).map(Some),
            None => Ok(None),
        }
    }

    /// Sequence number of the task `id`.
    pub fn seq(&self, id: &TaskId) -> Result<Option<u64>, StoreError> {
        self.snapshot()?.seq(id)
    }

    /// What was submitted as number `seq`.
    pub fn spec(&self, seq: u64) -> Result<Option<(TaskId, Arc<TaskSpec>)>, StoreError> {
        let snapshot = self.snapshot()?;
        let Some(head) = snapshot.row::<Head>(HEADS, "heads", seq)? else { return Ok(None) };
        let spec = snapshot.row::<TaskSpec>(SPECS, "specs", seq)?;
        Ok(spec.map(|spec| (head.id, Arc::new(spec))))
    }

    /// Every task that has not ended, in order of acceptance. Reads no other rows.
    pub fn live(&self) -> Result<Vec<(u64, TaskId, LiveRow)>, StoreError> {
        let snapshot = self.snapshot()?;
        let failed = |error: redb::StorageError| StoreError::from_redb(&self.shared.path, error);
        let table = snapshot.table(LIVE)?;
        let mut rows = Vec::new();
        for entry in table.iter().map_err(failed)? {
            let (seq, bytes) = entry.map_err(failed)?;
            let seq = seq.value();
            let (id, row) = record::decode_live(bytes.value())
                .map_err(|reason| self.shared.bad_row("live", seq, reason))?;
            rows.push((seq, id, row));
        }
        Ok(rows)
    }

    /// The number that the next accepted task gets; one that was given is never given again.
    pub fn next_seq(&self) -> Result<u64, StoreError> {
        let snapshot = self.snapshot()?;
        let last = snapshot.table(META)?.get(LAST_SEQ).map_err(|e| snapshot.failed(e))?;
        match last {
            None => Ok(1),
            Some(bytes) => {
                let bytes = bytes.value().try_into();
                let bytes =
                    bytes.map_err(|_| self.shared.bad_row("meta", 0, "last_seq has not 8 bytes".into()))?;
                Ok(u64::from_be_bytes(bytes) + 1)
            }
        }
    }

    /// At most `limit` tasks whose end was put on disk before `time`, the oldest end first. Reads only an
    /// index, however many there are.
    pub fn ended_before(&self, time: Timestamp, limit: usize) -> Result<Vec<Ended>, StoreError> {
        let snapshot = self.snapshot()?;
        let failed = |error: redb::StorageError| StoreError::from_redb(&self.shared.path, error);
        let keys = ..(writer::millis(time), 0);
        let index = snapshot.table(FINALS_BY_END)?;
        let entries = index.range::<(u64, u64)>(keys).map_err(failed)?.take(limit);
        entries
            .map(|entry| {
                let (end_millis, seq) = entry.map_err(failed)?.0.value();
                Ok(Ended { seq, end_millis })
            })
            .collect()
    }

    /// The newest tasks that `query` fits, one page.
    pub fn list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        page::read(&self.snapshot()?, query)
    }

    pub(super) fn snapshot(&self) -> Result<Snapshot<'_>, StoreError> {
        let begun = self.shared.database.begin_read();
        let transaction = begun.map_err(|error| StoreError::from_redb(&self.shared.path, error))?;
        Ok(Snapshot { shared: &self.shared, transaction })
    }
}

/// The database as it was at one moment.
pub(super) struct Snapshot<'s> {
    shared: &'s Shared,
    transaction: ReadTransaction,
}

impl Snapshot<'_> {
    pub(super) fn table<K: redb::Key + 'static, V: redb::Value + 'static>(
        &self,
        definition: redb::TableDefinition<'_, K, V>,
    ) -> Result<redb::ReadOnlyTable<K, V>, StoreError> {
        self.transaction.open_table(definition).map_err(|error| self.failed(error))
    }

    pub(super) fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        StoreError::from_redb(&self.shared.path, error)
    }

    fn seq(&self, id: &TaskId) -> Result<Option<u64>, StoreError> {
        let found = self.table(IDS)?.get(id.as_bytes()).map_err(|error| self.failed(error))?;
        Ok(found.map(|seq| seq.value()))
    }

    pub(super) fn row<T: DeserializeOwned>(
        &self,
        definition: redb::TableDefinition<'_, u64, &'static [u8]>,
        name: &'static str,
        seq: u64,
    ) -> Result<Option<T>, StoreError> {
        let found = self.table(definition)?.get(seq).map_err(|error| self.failed(error))?;
        let Some(bytes) = found else { return Ok(None) };
        record::decode(bytes.value()).map(Some).map_err(|reason| self.bad_row(name, seq, reason))
    }

    pub(super) fn bad_row(&self, table: &'static str, seq: u64, reason: String) -> StoreError {
        self.shared.bad_row(table, seq, reason)
    }

    /// Task number `seq`, which an index names: that it is missing is damage.
    fn task(&self, seq: u64, want: Want) -> Result<StoredTask, StoreError> {
        self.task_with_head(seq, self.head(seq)?, want)
    }

    /// What lists need of task number `seq`, which an index names.
    pub(super) fn head(&self, seq: u64) -> Result<Head, StoreError> {
        let head = self.row(HEADS, "heads", seq)?;
        head.ok_or_else(|| self.bad_row("heads", seq, "it is missing".to_owned()))
    }

    /// The same where its head has been read already.
    pub(super) fn task_with_head(&self, seq: u64, head: Head, want: Want) -> Result<StoredTask, StoreError> {
        let missing = |table| self.bad_row(table, seq, "it is missing".to_owned());
        let status = self.status(seq)?.ok_or_else(|| missing("live"))?;
        let mut task = StoredTask { seq, head, status, spec: None, attempts: Vec::new(), big_rows_bytes: 0 };
        if want == Want::Everything {
            let found = self.table(SPECS)?.get(seq).map_err(|error| self.failed(error))?;
            let bytes = found.ok_or_else(|| missing("specs"))?;
            let bad_row = |reason| self.bad_row("specs", seq, reason);
            task.spec = Some(record::decode(bytes.value()).map_err(bad_row)?);
            task.big_rows_bytes = bytes.value().len();
            self.read_attempts(&mut task)?;
        }
        Ok(task)
    }

    fn status(&self, seq: u64) -> Result<Option<Status>, StoreError> {
        if let Some(row) = self.row(FINALS, "finals", seq)? {
            return Ok(Some(Status::Final(row)));
        }
        let found = self.table(LIVE)?.get(seq).map_err(|error| self.failed(error))?;
        let Some(bytes) = found else { return Ok(None) };
        let (_, row) =
            record::decode_live(bytes.value()).map_err(|reason| self.bad_row("live", seq, reason))?;
        Ok(Some(Status::Live(row)))
    }

    fn read_attempts(&self, task: &mut StoredTask) -> Result<(), StoreError> {
        let seq = task.seq;
        let keys = (seq, 0)..=(seq, u32::MAX);
        for entry in self.table(ATTEMPTS)?.range(keys).map_err(|error| self.failed(error))? {
            let (key, bytes) = entry.map_err(|error| self.failed(error))?;
            let log = record::decode(bytes.value());
            let log = log.map_err(|reason| self.bad_row("attempts", seq, reason))?;
            task.attempts.push((key.value().1, log));
            task.big_rows_bytes += bytes.value().len();
        }
        Ok(())
    }
}
