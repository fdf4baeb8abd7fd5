//! All tasks that have not ended, as a restart reads them. Of a million tasks that wait most ask for the same as many
//! others, and their rows are the same bytes: each of these is decoded and held once.

use std::collections::HashMap;

use teamster_values::TaskId;

use super::record::{self, LiveRow};

/// So many different rows are told apart. Beyond that they are held once for each task: rows that never come again
/// are not worth the memory for looking.
const TOLD_APART_MAX: usize = 1 << 16;

/// Tasks that have not ended, in order of acceptance.
#[derive(Debug, Default)]
pub struct Live {
    tasks: Vec<LiveTask>,
    rows: Vec<LiveRow>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveTask {
    /// Its place in the order of acceptance.
    pub seq: u64,
    /// Its public id.
    pub id: TaskId,
    /// Which of the [rows](Live::rows) says where it stands.
    pub row: usize,
}

impl Live {
    /// The tasks.
    pub fn tasks(&self) -> &[LiveTask] {
        &self.tasks
    }

    /// What there is to say of tasks; one row may be of many.
    pub fn rows(&self) -> &[LiveRow] {
        &self.rows
    }

    /// Each task with its row.
    pub fn iter(&self) -> impl Iterator<Item = (u64, TaskId, &LiveRow)> {
        self.tasks.iter().map(|task| (task.seq, task.id, &self.rows[task.row]))
    }
}

/// Takes rows in.
#[derive(Debug, Default)]
pub(super) struct Reading {
    live: Live,
    /// Which row was made of these bytes.
    seen: HashMap<Box<[u8]>, usize>,
}

impl Reading {
    /// When so many tasks are expected.
    pub(super) fn of(tasks: usize) -> Self {
        Self { live: Live { tasks: Vec::with_capacity(tasks), rows: Vec::new() }, seen: HashMap::new() }
    }

    /// The next task; the text says what is wrong with its row.
    pub(super) fn add(&mut self, seq: u64, bytes: &[u8]) -> Result<(), String> {
        let (id, json) = record::split_live(bytes)?;
        let row = match self.seen.get(json) {
            Some(row) => *row,
            None => {
                let row = self.live.rows.len();
                self.live.rows.push(record::decode_live_row(json)?);
                if self.seen.len() < TOLD_APART_MAX {
                    self.seen.insert(json.into(), row);
                }
                row
            }
        };
        self.live.tasks.push(LiveTask { seq, id, row });
        Ok(())
    }

    /// All of them.
    pub(super) fn end(self) -> Live {
        self.live
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Asks;
    use super::*;

    #[test]
    fn the_same_is_held_once() {
        let mut reading = Reading::default();
        let id = |seq| TaskId::from_bytes([seq; 16]);
        let row = |seq: u8| {
            let mut row = LiveRow::queued(Asks { cpu_milli: u64::from(seq % 2), ..Asks::default() });
            row.notes.extend((seq == 3).then(|| "a word".to_owned()));
            row
        };
        for seq in 1..=5 {
            reading.add(seq.into(), &record::encode_live(&id(seq), &row(seq))).unwrap();
        }
        assert!(reading.add(6, &[9]).is_err());
        let live = reading.end();
        assert_eq!(live.rows().len(), 3);
        let expected: Vec<_> = (1..=5).map(|seq| (u64::from(seq), id(seq), row(seq))).collect();
        let found: Vec<_> = live.iter().map(|(seq, id, row)| (seq, id, row.clone())).collect();
        assert_eq!(found, expected);
    }
}
