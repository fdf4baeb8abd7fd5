//! Whole tasks for a list. It wants their rows downwards, nearly always of one number after the other, so each table is
//! walked down beside the others instead of being searched from the top for every task: what a page costs hardly
//! depends on how many tasks there are.

use std::iter::Rev;

use redb::{AccessGuard, Key, Range, ReadOnlyTable, StorageError};

use super::StoreError;
use super::reader::{Status, StoredTask, Want};
use super::record::{self, Head};
use super::snapshot::Snapshot;
use super::tables::{ATTEMPTS, FINALS, LIVE, SPECS};

/// So many rows are passed over before the right place is searched for: about what a search costs.
const PASSED_MAX: usize = 8;

type Bytes = &'static [u8];
type Table<K> = ReadOnlyTable<K, Bytes>;
type Rows<K> = Range<'static, K, Bytes>;

/// A row's key and value.
type Entry<K> = (AccessGuard<'static, K>, AccessGuard<'static, Bytes>);

/// A table with what is left of it below the row that was looked at last.
struct Column<K: Key + 'static> {
    table: Table<K>,
    /// The number of the task that a key belongs to.
    number: fn(&AccessGuard<'static, K>) -> u64,
    /// All rows up to those of a number.
    up_to: fn(&Table<K>, u64) -> Result<Rows<K>, StorageError>,
    rest: Option<Rev<Rows<K>>>,
    /// The first of the rest, where it was looked at already.
    ahead: Option<Entry<K>>,
}

/// The tables that tell of a task beside its head.
pub(super) struct Columns<'s> {
    snapshot: &'s Snapshot<'s>,
    finals: Column<u64>,
    live: Column<u64>,
    /// What a page without them need not open.
    big: Option<Big>,
}

/// The tables of what is big.
struct Big {
    specs: Column<u64>,
    attempts: Column<(u64, u32)>,
}

impl Column<u64> {
    fn by_number(table: Table<u64>) -> Self {
        let up_to = |table: &Table<u64>, seq| table.range(..=seq);
        Self { table, number: |key| key.value(), up_to, rest: None, ahead: None }
    }
}

impl Column<(u64, u32)> {
    fn by_attempt(table: Table<(u64, u32)>) -> Self {
        let up_to = |table: &Table<(u64, u32)>, seq| table.range(..=(seq, u32::MAX));
        Self { table, number: |key| key.value().0, up_to, rest: None, ahead: None }
    }
}

impl<K: Key + 'static> Column<K> {
    /// The rows of a number, the last first. Numbers are asked for downwards.
    fn rows(&mut self, seq: u64) -> Result<Vec<Entry<K>>, StorageError> {
        let (mut found, mut passed) = (Vec::new(), 0);
        loop {
            let rest = match &mut self.rest {
                Some(rest) if passed < PASSED_MAX => rest,
                rest => {
                    self.ahead = None;
                    passed = 0;
                    rest.insert((self.up_to)(&self.table, seq)?.rev())
                }
            };
            let entry = match self.ahead.take() {
                Some(entry) => entry,
                None => match rest.next().transpose()? {
                    Some(entry) => entry,
                    None => return Ok(found),
                },
            };
            let number = (self.number)(&entry.0);
            if number < seq {
                self.ahead = Some(entry);
                return Ok(found);
            }
            if number == seq {
                found.push(entry);
            } else {
                passed += 1;
            }
        }
    }

    /// The one row of a number.
    fn row(&mut self, seq: u64) -> Result<Option<AccessGuard<'static, Bytes>>, StorageError> {
        Ok(self.rows(seq)?.pop().map(|(_, value)| value))
    }
}

impl<'s> Columns<'s> {
    /// For as much of each task as is wanted.
    pub(super) fn open(snapshot: &'s Snapshot<'s>, want: Want) -> Result<Self, StoreError> {
        let big = match want {
            Want::Status => None,
            Want::Everything => Some(Big {
                specs: Column::by_number(snapshot.table(SPECS)?),
                attempts: Column::by_attempt(snapshot.table(ATTEMPTS)?),
            }),
        };
        let (finals, live) = (snapshot.table(FINALS)?, snapshot.table(LIVE)?);
        Ok(Self { snapshot, finals: Column::by_number(finals), live: Column::by_number(live), big })
    }

    /// Task number `seq`; the next one must have a lower number.
    pub(super) fn task(&mut self, seq: u64, head: Head) -> Result<StoredTask, StoreError> {
        let status = self.status(seq)?;
        let mut task = StoredTask { seq, head, status, spec: None, attempts: Vec::new(), big_rows_bytes: 0 };
        let snapshot = self.snapshot;
        let Some(Big { specs, attempts }) = &mut self.big else { return Ok(task) };
        let spec = specs.row(seq).map_err(|error| snapshot.failed(error))?;
        let spec = spec.ok_or_else(|| snapshot.bad_row("specs", seq, "it is missing".to_owned()))?;
        task.take_spec(spec.value()).map_err(|reason| snapshot.bad_row("specs", seq, reason))?;
        for (key, log) in attempts.rows(seq).map_err(|error| snapshot.failed(error))?.into_iter().rev() {
            let taken = task.take_attempt(key.value().1, log.value());
            taken.map_err(|reason| snapshot.bad_row("attempts", seq, reason))?;
        }
        Ok(task)
    }

    fn status(&mut self, seq: u64) -> Result<Status, StoreError> {
        let snapshot = self.snapshot;
        if let Some(row) = self.finals.row(seq).map_err(|error| snapshot.failed(error))? {
            let row =
                record::decode(row.value()).map_err(|reason| snapshot.bad_row("finals", seq, reason))?;
            return Ok(Status::Final(row));
        }
        let row = self.live.row(seq).map_err(|error| snapshot.failed(error))?;
        let row = row.ok_or_else(|| snapshot.bad_row("live", seq, "it is missing".to_owned()))?;
        let row = record::decode_live(row.value()).map_err(|reason| snapshot.bad_row("live", seq, reason))?;
        Ok(Status::Live(row.1))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use teamster_values::TaskId;

    use super::super::{Asks, Change, FinalState, ListQuery, Opened, StateFilter, open};
    use super::*;
    use crate::attempt_log::AttemptLog;
    use crate::spec::TaskSpec;

    const TASKS: u8 = 50;

    fn id(seq: u8) -> TaskId {
        TaskId::from_bytes([seq; 16])
    }

    /// Every third one has ended; among these are ones without an attempt, and with several.
    fn changes() -> Vec<Change> {
        let mut changes = Vec::new();
        for number in 1..=TASKS {
            let seq = u64::from(number);
            let name = format!("{}{seq}", if number % 20 == 1 { "rare" } else { "often" });
            changes.push(Change::Accepted {
                seq,
                id: id(number),
                owner: "o".into(),
                created: Timestamp::UNIX_EPOCH,
                spec: Arc::new(TaskSpec { name: Some(name), ..TaskSpec::default() }),
                asks: Asks::default(),
                notes: vec![format!("note {seq}")],
            });
            for attempt in 1..=u32::from(number) % 4 {
                let log = AttemptLog { node: Some(format!("{seq}-{attempt}")), ..AttemptLog::default() };
                changes.push(Change::AttemptEnded { seq, attempt, log });
            }
            if number % 3 == 0 {
                changes.push(Change::Finished { seq, state: FinalState::Complete });
            }
        }
        changes
    }

    #[test]
    fn a_list_shows_each_task_as_it_is_read_alone() {
        let directory = tempfile::tempdir().unwrap();
        let Opened { mut writer, reader, .. } = open(directory.path()).unwrap();
        writer.commit(&changes()).unwrap();
        for want in [Want::Status, Want::Everything] {
            let all = ListQuery { want, ..ListQuery::newest(usize::from(TASKS)) };
            let rare = ListQuery { name_prefix: Some("rare".into()), ..all.clone() };
            let ended = ListQuery { state: Some(StateFilter::Final(FinalState::Complete)), ..all.clone() };
            for (query, expected) in [(&all, 50), (&rare, 3), (&ended, 16)] {
                let page = reader.list(query).unwrap();
                assert_eq!(page.tasks.len(), expected);
                for task in page.tasks {
                    assert_eq!(reader.task(&task.head.id, want).unwrap().as_ref(), Some(&task));
                }
            }
        }
    }
}
