//! What the rows hold, and their form on disk: one byte that names the version of the form, then JSON.
//! A row of a version that this program does not know is refused, never guessed at.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use teamster_values::TaskId;

/// The one version of the form so far.
const VERSION: u8 = 1;

/// What lists need of a task. Never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Public id.
    pub id: TaskId,
    /// The user's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whose it is.
    pub owner: String,
    /// When it was accepted.
    pub created: Timestamp,
    /// The user's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

/// The small row of a task that has not ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveRow {
    /// Where it stands.
    pub state: LiveState,
    /// Number of the current attempt, or of the last one while none is under way; 0 before the first.
    pub attempt: u32,
    /// Where the attempt is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Since when the attempt is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The node that failed it last; another one is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avoid: Option<String>,
    /// Words for the system log that belong to no ended attempt. They go over into the final row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What it asks for, so that a restart reads no specs.
    pub asks: Asks,
}

/// What the scheduler must know of a task.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Asks {
    /// Thousandths of a CPU.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of scratch space.
    pub disk_bytes: u64,
    /// Paths of the storages that its node must offer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub storages: Vec<String>,
    /// The network that its node must offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Whether it may be run again after it had started.
    #[serde(default, skip_serializing_if = "is_false")]
    pub preemptible: bool,
}

/// State of a task that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LiveState {
    /// Waits for a node.
    Queued,
    /// A node prepares it.
    Initializing,
    /// Its executors run.
    Running,
    /// Its executors have ended; outputs are being put in place.
    Finalizing,
    /// It is being stopped.
    Canceling {
        /// What clients see meanwhile.
        shown: Shown,
    },
}

/// What clients see of a task that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Shown {
    /// It waits.
    Queued,
    /// It had been prepared.
    Initializing,
    /// It had been running.
    Running,
}

/// How a task ended. The numbers are the keys of an index on disk: never change one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum FinalState {
    /// All went well.
    Complete = 1,
    /// The user's command failed.
    ExecutorError = 2,
    /// We failed.
    SystemError = 3,
    /// Somebody stopped it.
    Canceled = 4,
}

/// The row of a task that has ended. Never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinalRow {
    /// How it ended.
    pub state: FinalState,
    /// Words for the system log that belong to no attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl LiveRow {
    /// A task that was just accepted.
    pub fn queued(asks: Asks) -> Self {
        Self {
            state: LiveState::Queued,
            attempt: 0,
            node: None,
            since: None,
            avoid: None,
            notes: Vec::new(),
            asks,
        }
    }
}

fn is_false(truth: &bool) -> bool {
    !truth
}

/// The form on disk of `row`.
pub(super) fn encode(row: &impl Serialize) -> Vec<u8> {
    encode_after(&[], row)
}

/// The row that [`encode`] made; the text says why not.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let (version, json) = bytes.split_first().ok_or("it is empty")?;
    if *version != VERSION {
        return Err(format!("its form has version {version}, this program knows version {VERSION}"));
    }
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

/// A live row carries its task's id in front of the JSON, so that a restart reads no other table.
pub(super) fn encode_live(id: &TaskId, row: &LiveRow) -> Vec<u8> {
    encode_after(id.as_bytes(), row)
}

/// The id and row that [`encode_live`] made.
pub(super) fn decode_live(bytes: &[u8]) -> Result<(TaskId, LiveRow), String> {
    let (id, json) = split_live(bytes)?;
    Ok((id, decode_live_row(json)?))
}

/// The id, and the row as it is written: tasks of which there is the same to say have the same bytes here.
pub(super) fn split_live(bytes: &[u8]) -> Result<(TaskId, &[u8]), String> {
    let (version, rest) = bytes.split_first().ok_or("it is empty")?;
    if *version != VERSION {
        return Err(format!("its form has version {version}, this program knows version {VERSION}"));
    }
    let (id, json) = rest.split_first_chunk::<16>().ok_or("it is cut short")?;
    Ok((TaskId::from_bytes(*id), json))
}

/// The row that [`split_live`] left as it was.
pub(super) fn decode_live_row(json: &[u8]) -> Result<LiveRow, String> {
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

/// Only the notes of a row that [`encode_live`] made.
pub(super) fn decode_live_notes(bytes: &[u8]) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Notes {
        #[serde(default)]
        notes: Vec<String>,
    }
    let (_, json) = split_live(bytes)?;
    let row: Notes = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    Ok(row.notes)
}

fn encode_after(prefix: &[u8], row: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    bytes.push(VERSION);
    bytes.extend_from_slice(prefix);
    serde_json::to_writer(&mut bytes, row).expect("rows have text keys and no failing serializer");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_a_round_trip() {
        let states = [
            LiveState::Queued,
            LiveState::Initializing,
            LiveState::Running,
            LiveState::Finalizing,
            LiveState::Canceling { shown: Shown::Initializing },
        ];
        for state in states {
            let mut row =
                LiveRow { state, attempt: 3, node: Some("n".into()), ..LiveRow::queued(Asks::default()) };
            let id = TaskId::from_bytes([7; 16]);
            assert_eq!(decode_live(&encode_live(&id, &row)), Ok((id, row.clone())));
            assert_eq!(decode_live_notes(&encode_live(&id, &row)), Ok(Vec::new()));
            row.notes = vec!["a".into(), "b".into()];
            assert_eq!(decode_live_notes(&encode_live(&id, &row)), Ok(row.notes));
        }
    }

    #[test]
    fn live_rows_are_small() {
        let id = TaskId::from_bytes([7; 16]);
        assert!(encode_live(&id, &LiveRow::queued(Asks::default())).len() < 128);
    }

    #[test]
    fn refuses_another_version_and_rubbish() {
        let mut bytes = encode(&FinalRow { state: FinalState::Complete, notes: Vec::new() });
        bytes[0] = 9;
        assert!(decode::<FinalRow>(&bytes).unwrap_err().contains("version 9"));
        assert!(decode_live(&bytes).unwrap_err().contains("version 9"));
        assert!(decode::<FinalRow>(&[]).is_err());
        assert!(decode_live(&[VERSION, 1, 2]).is_err());
        assert!(decode_live_notes(&[VERSION, 1, 2]).is_err());
        assert!(decode::<FinalRow>(&[VERSION, b'{']).is_err());
    }
}
