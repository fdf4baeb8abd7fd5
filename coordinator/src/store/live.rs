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
    placed: Vec<(TaskId, LiveTask)>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveTask {
    /// Its place in the order of acceptance.
    pub seq: u64,
    /// Which of the [rows](Live::rows) says where it stands.
    pub row: u32,
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

    /// Those of which an attempt is under way on a node, each with its row.
    pub fn placed(&self) -> impl Iterator<Item = (u64, TaskId, &LiveRow)> {
        self.placed.iter().map(|(id, task)| (task.seq, *id, &self.rows[task.row as usize]))
    }
}

/// Takes rows in.
#[derive(Debug, Default)]
pub(super) struct Reading {
    live: Live,
    /// Which row was made of these bytes.
    seen: HashMap<Box<[u8]>, u32>,
}

impl Reading {
    /// When so many tasks are expected.
    pub(super) fn of(tasks: usize) -> Self {
        Self { live: Live { tasks: Vec::with_capacity(tasks), ..Live::default() }, seen: HashMap::new() }
    }

    /// The next task; the text says what is wrong with its row.
    pub(super) fn add(&mut self, seq: u64, bytes: &[u8]) -> Result<(), String> {
        let (id, json) = record::split_live(bytes)?;
        let row = match self.seen.get(json) {
            Some(row) => *row,
            None => {
                let row = u32::try_from(self.live.rows.len()).map_err(|_| "there are too many live tasks")?;
                self.live.rows.push(record::decode_live_row(json)?);
                if self.seen.len() < TOLD_APART_MAX {
                    self.seen.insert(json.into(), row);
                }
                row
            }
        };
        let task = LiveTask { seq, row };
        if self.live.rows[row as usize].node.is_some() {
            self.live.placed.push((id, task));
        }
        self.live.tasks.push(task);
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
        let id = |seq| TaskId::from_bytes([seq; 16]);
        let row = |seq: u8| {
            let mut row = LiveRow::queued(Asks { cpu_milli: u64::from(seq % 2), ..Asks::default() });
            row.notes.extend((seq == 3).then(|| "a word".to_owned()));
            row.node = (seq == 5).then(|| "n".to_owned());
            row
        };
        let mut reading = Reading::default();
        for seq in 1..=7 {
            reading.add(seq.into(), &record::encode_live(&id(seq), &row(seq))).unwrap();
        }
        assert!(reading.add(8, &[9]).is_err());
        let live = reading.end();
        assert_eq!(live.rows().len(), 4);
        let found: Vec<_> =
            live.tasks().iter().map(|task| (task.seq, &live.rows()[task.row as usize])).collect();
        let rows: Vec<_> = (1..=7).map(row).collect();
        assert_eq!(found, (1..).zip(&rows).collect::<Vec<_>>());
        assert_eq!(live.placed().collect::<Vec<_>>(), [(5, id(5), &row(5))]);
    }
}
