//! The one way to change the database: a batch of changes, all or none, on disk when it returns.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use redb::{AccessGuard, Durability, ReadableTable, Table, WriteTransaction};
use teamster_values::TaskId;

use super::StoreError;
use super::open::Shared;
use super::record::{self, Asks, FinalRow, FinalState, Head, LiveRow};
use super::requests::{self, ForgottenRequest, RememberedRequest};
use super::tables::{
    ATTEMPTS, FINALS, FINALS_BY_END, FINALS_BY_STATE, HEADS, IDS, LAST_SEQ, LIVE, META, SPECS,
};
use crate::attempt_log::AttemptLog;
use crate::spec::TaskSpec;

/// The one writer. It is moved into the controller's thread and is not `Clone`.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
}

/// One thing that changes.
#[derive(Debug, Clone)]
pub enum Change {
    /// A task is accepted; until a [`Change::Live`] says otherwise it is queued, before its first attempt.
    Accepted {
        /// Its place in the order of acceptance.
        seq: u64,
        /// Its public id.
        id: TaskId,
        /// Whose it is.
        owner: String,
        /// When it was accepted.
        created: Timestamp,
        /// What was submitted.
        spec: Arc<TaskSpec>,
        /// What the scheduler must know of it.
        asks: Asks,
        /// What was left out of what was submitted; it stays with the task.
        notes: Vec<String>,
    },
    /// Where a task stands.
    Live {
        /// Which task.
        seq: u64,
        /// Its new row; its notes are added to those that are there.
        row: LiveRow,
    },
    /// There is something to say in the system log of a task that has not ended.
    Noted {
        /// Which task.
        seq: u64,
        /// The line.
        note: String,
    },
    /// An attempt ended.
    AttemptEnded {
        /// Which task.
        seq: u64,
        /// Which attempt.
        attempt: u32,
        /// What it left behind.
        log: AttemptLog,
    },
    /// A task reached its end.
    Finished {
        /// Which task.
        seq: u64,
        /// How.
        state: FinalState,
    },
    /// A request was taken that is to be taken once.
    Remembered {
        /// Whose it is.
        owner: String,
        /// Its name.
        key: String,
        /// What came of it.
        request: RememberedRequest,
    },
    /// Such a request no longer counts.
    RequestForgotten {
        /// Which one.
        request: ForgottenRequest,
    },
    /// A task that has ended was kept long enough: nothing is left of it.
    Swept {
        /// Which task, as [`Reader::ended_before`](super::Reader::ended_before) names it.
        ended: Ended,
    },
}

/// A task that has ended, by its place in the order of ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its place in the order of acceptance.
    pub seq: u64,
    pub(super) end_millis: u64,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Puts all of `changes` on disk, in their order, or none of them. After an error nothing more can be
    /// written until the database is opened again; what was there before can still be read.
    pub fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let transaction = begin(&self.shared)?;
        apply(&transaction, changes).map_err(|error| match error {
            Failure::Redb(error) => StoreError::from_redb(&self.shared.path, *error),
            Failure::Row { table, seq, reason } => self.shared.bad_row(table, seq, reason),
        })?;
        transaction.commit().map_err(|error| StoreError::from_redb(&self.shared.path, error))?;
        self.shared.latest.committed();
        Ok(())
    }
}

/// A time as an index keeps it.
pub(super) fn millis(time: Timestamp) -> u64 {
    time.as_millisecond().max(0) as u64
}

/// A transaction whose commit is on disk when it returns, that cannot be half there after a crash, and
/// after which opening does not walk the whole file.
pub(super) fn begin(shared: &Shared) -> Result<WriteTransaction, StoreError> {
    let begun = shared.database.begin_write();
    let mut transaction = begun.map_err(|error| StoreError::from_redb(&shared.path, error))?;
    transaction
        .set_durability(Durability::Immediate)
        .expect("only a savepoint forbids a durability, and none is ever made");
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    Ok(transaction)
}

enum Failure {
    Redb(Box<redb::Error>),
    Row { table: &'static str, seq: u64, reason: String },
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Redb(Box::new(error.into()))
    }
}

fn apply(transaction: &WriteTransaction, changes: &[Change]) -> Result<(), Failure> {
    let mut rows = Rows {
        heads: transaction.open_table(HEADS)?,
        specs: transaction.open_table(SPECS)?,
        ids: transaction.open_table(IDS)?,
        live: transaction.open_table(LIVE)?,
        finals: transaction.open_table(FINALS)?,
        finals_by_state: transaction.open_table(FINALS_BY_STATE)?,
        finals_by_end: transaction.open_table(FINALS_BY_END)?,
        attempts: transaction.open_table(ATTEMPTS)?,
        now_millis: millis(Timestamp::now()),
        changed: BTreeMap::new(),
    };
    let mut last_accepted = None;
    for change in changes {
        if let Change::Accepted { seq, .. } = change {
            last_accepted = last_accepted.max(Some(*seq));
        }
        match change {
            Change::Remembered { owner, key, request } => {
                requests::remember(transaction, owner, key, request)?;
            }
            Change::RequestForgotten { request } => requests::forget(transaction, request)?,
            change => rows.apply(change)?,
        }
    }
    rows.write_changed()?;
    if let Some(seq) = last_accepted {
        transaction.open_table(META)?.insert(LAST_SEQ, seq.to_be_bytes().as_slice())?;
    }
    Ok(())
}

struct Rows<'t> {
    heads: Table<'t, u64, &'static [u8]>,
    specs: Table<'t, u64, &'static [u8]>,
    ids: Table<'t, [u8; 16], u64>,
    live: Table<'t, u64, &'static [u8]>,
    finals: Table<'t, u64, &'static [u8]>,
    finals_by_state: Table<'t, (u8, u64), ()>,
    finals_by_end: Table<'t, (u64, u64), ()>,
    attempts: Table<'t, (u64, u32), &'static [u8]>,
    now_millis: u64,
    /// Live rows that are new or changed. Most tasks are placed in the batch that accepts them, so each is
    /// written once, when all is known.
    changed: BTreeMap<u64, (TaskId, LiveRow)>,
}

impl Rows<'_> {
    fn apply(&mut self, change: &Change) -> Result<(), Failure> {
        match change {
            Change::Accepted { seq, id, owner, created, spec, asks, notes } => {
                let head = Head {
                    id: *id,
                    name: spec.name.clone(),
                    owner: owner.clone(),
                    created: *created,
                    tags: spec.tags.clone(),
                };
                self.heads.insert(seq, record::encode(&head).as_slice())?;
                self.specs.insert(seq, record::encode(spec.as_ref()).as_slice())?;
                self.ids.insert(id.as_bytes(), seq)?;
                let row = LiveRow { notes: notes.clone(), ..LiveRow::queued(asks.clone()) };
                self.changed.insert(*seq, (*id, row));
            }
            Change::Live { seq, row } => {
                let (id, LiveRow { mut notes, .. }) = self.live_row(*seq)?;
                notes.extend_from_slice(&row.notes);
                self.changed.insert(*seq, (id, LiveRow { notes, ..row.clone() }));
            }
            Change::Noted { seq, note } => {
                let (id, mut row) = self.live_row(*seq)?;
                row.notes.push(note.clone());
                self.changed.insert(*seq, (id, row));
            }
            Change::AttemptEnded { seq, attempt, log } => {
                self.attempts.insert((*seq, *attempt), record::encode(log).as_slice())?;
            }
            Change::Finished { seq, state } => {
                let row = FinalRow { state: *state, notes: self.take_live_row(*seq)? };
                self.finals.insert(seq, record::encode(&row).as_slice())?;
                self.finals_by_state.insert((*state as u8, *seq), ())?;
                self.finals_by_end.insert((self.now_millis, *seq), ())?;
            }
            // Rare, so their tables are opened only for them.
            Change::Remembered { .. } | Change::RequestForgotten { .. } => {}
            Change::Swept { ended } => self.sweep(*ended)?,
        }
        Ok(())
    }

    fn sweep(&mut self, Ended { seq, end_millis }: Ended) -> Result<(), Failure> {
        let refuse = |table, reason| Failure::Row { table, seq, reason };
        if self.finals_by_end.remove((end_millis, seq))?.is_none() {
            return Err(refuse("finals_by_end", "there is no task that ended then".to_owned()));
        }
        if let Some(bytes) = self.finals.remove(seq)? {
            let row: FinalRow = record::decode(bytes.value()).map_err(|reason| refuse("finals", reason))?;
            self.finals_by_state.remove((row.state as u8, seq))?;
        }
        if let Some(bytes) = self.heads.remove(seq)? {
            let head: Head = record::decode(bytes.value()).map_err(|reason| refuse("heads", reason))?;
            self.ids.remove(head.id.as_bytes())?;
        }
        self.specs.remove(seq)?;
        self.attempts.retain_in((seq, 0)..=(seq, u32::MAX), |_, _| false)?;
        Ok(())
    }

    /// The row of a task that has not ended; it comes back changed. A change to any other task is a defect of the
    /// model, and refusing it keeps a terminal state terminal.
    fn live_row(&mut self, seq: u64) -> Result<(TaskId, LiveRow), Failure> {
        match self.changed.remove(&seq) {
            Some(changed) => Ok(changed),
            None => decode(seq, self.live.get(seq)?, record::decode_live),
        }
    }

    /// The same for a task that ends: its row is no more, and what is left of it are its notes.
    fn take_live_row(&mut self, seq: u64) -> Result<Vec<String>, Failure> {
        let on_disk = self.live.remove(seq)?;
        match self.changed.remove(&seq) {
            Some((_, row)) => Ok(row.notes),
            None => decode(seq, on_disk, record::decode_live_notes),
        }
    }

    fn write_changed(&mut self) -> Result<(), Failure> {
        for (seq, (id, row)) in std::mem::take(&mut self.changed) {
            self.live.insert(seq, record::encode_live(&id, &row).as_slice())?;
        }
        Ok(())
    }
}

fn decode<T>(
    seq: u64,
    found: Option<AccessGuard<'_, &'static [u8]>>,
    read: fn(&[u8]) -> Result<T, String>,
) -> Result<T, Failure> {
    let row = |reason| Failure::Row { table: "live", seq, reason };
    let bytes = found.ok_or_else(|| row("there is no such live task".to_owned()))?;
    read(bytes.value()).map_err(row)
}
