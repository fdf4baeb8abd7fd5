//! Reading. Every call sees one snapshot of the database and never holds up the writer.

use std::sync::Arc;

use jiff::Timestamp;
use redb::{ReadableTable, ReadableTableMetadata};
use teamster_values::TaskId;

use super::StoreError;
use super::live::{self, Live};
use super::open::Shared;
use super::page::{self, ListQuery, Page};
use super::record::{self, FinalRow, Head, LiveRow};
use super::snapshot::Snapshot;
use super::tables::{FINALS_BY_END, LAST_SEQ, META, SPECS};
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

    /// Takes in its spec as it is on disk; the text says what is wrong with it.
    pub(super) fn take_spec(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.spec = Some(record::decode(bytes)?);
        self.big_rows_bytes += bytes.len();
        Ok(())
    }

    /// Takes in what its next attempt left behind.
    pub(super) fn take_attempt(&mut self, number: u32, bytes: &[u8]) -> Result<(), String> {
        self.attempts.push((number, record::decode(bytes)?));
        self.big_rows_bytes += bytes.len();
        Ok(())
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
        let tables = snapshot.tables();
        let Some(head) = snapshot.row::<Head>(&tables.heads, "heads", seq)? else { return Ok(None) };
        let spec = snapshot.row::<TaskSpec>(&snapshot.table(SPECS)?, "specs", seq)?;
        Ok(spec.map(|spec| (head.id, Arc::new(spec))))
    }

    /// Id and row of task number `seq`, if it has not ended.
    pub fn live_task(&self, seq: u64) -> Result<Option<(TaskId, LiveRow)>, StoreError> {
        self.snapshot()?.live_task(seq)
    }

    /// Every task that has not ended, in order of acceptance. Reads no other rows.
    pub fn live(&self) -> Result<Live, StoreError> {
        let snapshot = self.snapshot()?;
        let failed = |error: redb::StorageError| StoreError::from_redb(&self.shared.path, error);
        let table = &snapshot.tables().live;
        let mut reading = live::Reading::of(table.len().map_err(failed)? as usize);
        for entry in table.iter().map_err(failed)? {
            let (seq, bytes) = entry.map_err(failed)?;
            let seq = seq.value();
            let taken = reading.add(seq, bytes.value());
            taken.map_err(|reason| self.shared.bad_row("live", seq, reason))?;
        }
        Ok(reading.end())
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
        Snapshot::latest(&self.shared)
    }
}
