//! The database as it was after one commit, opened once for all who read until the next one: opening costs
//! several times what reading a small row does.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{ReadOnlyTable, ReadTransaction, ReadableDatabase};
use serde::de::DeserializeOwned;
use teamster_values::TaskId;

use super::StoreError;
use super::open::Shared;
use super::reader::{Status, StoredTask, Want};
use super::record::{self, Head, LiveRow};
use super::tables::{ATTEMPTS, FINALS, HEADS, IDS, LIVE, SPECS};

/// A table of rows by sequence number.
type ByNumber = ReadOnlyTable<u64, &'static [u8]>;

/// The database as it was at one moment.
pub(super) struct Snapshot<'s> {
    shared: &'s Shared,
    opened: Arc<Opened>,
}

/// What is opened of the database at one moment.
pub(super) struct Opened {
    pub(super) transaction: ReadTransaction,
    pub(super) ids: ReadOnlyTable<[u8; 16], u64>,
    pub(super) heads: ByNumber,
    pub(super) live: ByNumber,
    pub(super) finals: ByNumber,
}

/// Where the latest is found. Pages that a commit replaces are kept while a snapshot shows them, so an old
/// one is let go with the next commit.
#[derive(Default)]
pub(super) struct Latest(RwLock<Slot>);

#[derive(Default)]
struct Slot {
    /// How many commits there were.
    commits: u64,
    /// The database after the last of them, once somebody has asked for it.
    opened: Option<Arc<Opened>>,
}

impl Latest {
    /// From now on nobody is given what was before a commit. Only the writer calls this, before anybody
    /// hears of the commit.
    pub(super) fn committed(&self) {
        let mut slot = self.write();
        slot.commits += 1;
        let old = slot.opened.take();
        drop(slot);
        // Closing it takes a while; nobody waits for the lock meanwhile.
        drop(old);
    }

    fn read(&self) -> RwLockReadGuard<'_, Slot> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Slot> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Latest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latest").field("commits", &self.read().commits).finish_non_exhaustive()
    }
}

impl Opened {
    fn new(shared: &Shared) -> Result<Self, redb::Error> {
        let transaction = shared.database.begin_read()?;
        Ok(Self {
            ids: transaction.open_table(IDS)?,
            heads: transaction.open_table(HEADS)?,
            live: transaction.open_table(LIVE)?,
            finals: transaction.open_table(FINALS)?,
            transaction,
        })
    }
}

impl<'s> Snapshot<'s> {
    /// The database after the latest commit.
    pub(super) fn latest(shared: &'s Shared) -> Result<Self, StoreError> {
        let commits = {
            let latest = shared.latest.read();
            if let Some(opened) = &latest.opened {
                return Ok(Self { shared, opened: opened.clone() });
            }
            latest.commits
        };
        let opened = Opened::new(shared).map_err(|error| StoreError::from_redb(&shared.path, error))?;
        let opened = Arc::new(opened);
        let mut latest = shared.latest.write();
        // A commit that came meanwhile may not be in it: right for us, who asked before, not for the next.
        if latest.commits == commits {
            latest.opened = Some(opened.clone());
        }
        Ok(Self { shared, opened })
    }

    /// The tables that nearly every read looks at.
    pub(super) fn tables(&self) -> &Opened {
        &self.opened
    }

    pub(super) fn table<K: redb::Key + 'static, V: redb::Value + 'static>(
        &self,
        definition: redb::TableDefinition<'_, K, V>,
    ) -> Result<redb::ReadOnlyTable<K, V>, StoreError> {
        self.opened.transaction.open_table(definition).map_err(|error| self.failed(error))
    }

    pub(super) fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        StoreError::from_redb(&self.shared.path, error)
    }

    pub(super) fn seq(&self, id: &TaskId) -> Result<Option<u64>, StoreError> {
        let found = self.opened.ids.get(id.as_bytes()).map_err(|error| self.failed(error))?;
        Ok(found.map(|seq| seq.value()))
    }

    pub(super) fn row<T: DeserializeOwned>(
        &self,
        table: &ByNumber,
        name: &'static str,
        seq: u64,
    ) -> Result<Option<T>, StoreError> {
        let found = table.get(seq).map_err(|error| self.failed(error))?;
        let Some(bytes) = found else { return Ok(None) };
        record::decode(bytes.value()).map(Some).map_err(|reason| self.bad_row(name, seq, reason))
    }

    pub(super) fn bad_row(&self, table: &'static str, seq: u64, reason: String) -> StoreError {
        self.shared.bad_row(table, seq, reason)
    }

    /// What lists need of task number `seq`, which an index names.
    pub(super) fn head(&self, seq: u64) -> Result<Head, StoreError> {
        let head = self.row(&self.opened.heads, "heads", seq)?;
        head.ok_or_else(|| self.bad_row("heads", seq, "it is missing".to_owned()))
    }

    /// Task number `seq`, which an index names: that a part of it is missing is damage.
    pub(super) fn task(&self, seq: u64, want: Want) -> Result<StoredTask, StoreError> {
        let missing = |table| self.bad_row(table, seq, "it is missing".to_owned());
        let (head, status) = (self.head(seq)?, self.status(seq)?.ok_or_else(|| missing("live"))?);
        let mut task = StoredTask { seq, head, status, spec: None, attempts: Vec::new(), big_rows_bytes: 0 };
        if want == Want::Everything {
            let found = self.table(SPECS)?.get(seq).map_err(|error| self.failed(error))?;
            let bytes = found.ok_or_else(|| missing("specs"))?;
            task.take_spec(bytes.value()).map_err(|reason| self.bad_row("specs", seq, reason))?;
            self.read_attempts(&mut task)?;
        }
        Ok(task)
    }

    fn status(&self, seq: u64) -> Result<Option<Status>, StoreError> {
        if let Some(row) = self.row(&self.opened.finals, "finals", seq)? {
            return Ok(Some(Status::Final(row)));
        }
        Ok(self.live_task(seq)?.map(|(_, row)| Status::Live(row)))
    }

    pub(super) fn live_task(&self, seq: u64) -> Result<Option<(TaskId, LiveRow)>, StoreError> {
        let found = self.opened.live.get(seq).map_err(|error| self.failed(error))?;
        let Some(bytes) = found else { return Ok(None) };
        record::decode_live(bytes.value()).map(Some).map_err(|reason| self.bad_row("live", seq, reason))
    }

    fn read_attempts(&self, task: &mut StoredTask) -> Result<(), StoreError> {
        let seq = task.seq;
        let keys = (seq, 0)..=(seq, u32::MAX);
        for entry in self.table(ATTEMPTS)?.range(keys).map_err(|error| self.failed(error))? {
            let (key, bytes) = entry.map_err(|error| self.failed(error))?;
            let taken = task.take_attempt(key.value().1, bytes.value());
            taken.map_err(|reason| self.bad_row("attempts", seq, reason))?;
        }
        Ok(())
    }
}
