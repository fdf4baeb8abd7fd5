//! A stored task -> TES 1.1.0's `tesTask` in one of its three views. Strictly: no null, no default, nothing
//! that was not submitted or is not the server's to say; clients refuse keys and forms that they do not
//! know.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use teamster_values::TaskId;

use crate::attempt_log::{AttemptLog, ExecutorLog, OutputFileLog};
use crate::board::{Amount, Board, Progress};
use crate::spec::TaskSpec;
use crate::store::{FinalState, LiveRow, LiveState, Shown, Status, StoredTask, Want};

/// Engines stop asking for whole tasks once they have seen what a task costs; it costs nothing here.
const PRICE: (&str, &str) = ("vm_price_per_hour_usd", "0");

/// The largest size that clients with 32-bit sizes can read.
const SIZE_BYTES_MAX_32: u64 = i32::MAX as u64;

/// How much of a task is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// Id and state.
    Minimal,
    /// All but file contents, log text and system logs.
    Basic,
    /// All.
    Full,
}

/// For whom a task is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading<'b> {
    pub(super) view: View,
    /// Whether the client fails over sizes of 2 GiB and more, so that they are better left out.
    pub(super) small_sizes: bool,
    /// To say why a task waits, and how far preparing it is.
    pub(super) board: &'b Board,
}

/// `tesTask`
#[derive(Debug, Serialize)]
pub(super) struct TaskView {
    pub(super) id: TaskId,
    pub(super) state: &'static str,
    #[serde(flatten)]
    pub(super) spec: Option<TaskSpec>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) logs: Vec<TaskLogView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) creation_time: Option<Timestamp>,
}

/// `tesTaskLog`
#[derive(Debug, Default, Serialize)]
pub(super) struct TaskLogView {
    pub(super) logs: Vec<ExecutorLogView>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end_time: Option<Timestamp>,
    pub(super) outputs: Vec<OutputFileLogView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) system_logs: Vec<String>,
}

/// `tesExecutorLog`
#[derive(Debug, Serialize)]
pub(super) struct ExecutorLogView {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) stdout: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) stderr: String,
    pub(super) exit_code: i32,
}

/// `tesOutputFileLog`
#[derive(Debug, Serialize)]
pub(super) struct OutputFileLogView {
    pub(super) url: String,
    pub(super) path: String,
    /// A 64-bit number is a text in TES.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub(super) size_bytes: Option<u64>,
}

impl View {
    /// The view called `name`; lower case is taken, too.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "" | "MINIMAL" => Some(Self::Minimal),
            "BASIC" => Some(Self::Basic),
            "FULL" => Some(Self::Full),
            _ => None,
        }
    }

    /// What must be read for it.
    pub(super) fn want(self) -> Want {
        match self {
            Self::Minimal => Want::Status,
            Self::Basic | Self::Full => Want::Everything,
        }
    }
}

/// The name of the state that clients see.
pub(super) fn state_name(status: &Status) -> &'static str {
    match status {
        Status::Live(row) => match row.state.shown() {
            Shown::Queued => "QUEUED",
            Shown::Initializing => "INITIALIZING",
            Shown::Running => "RUNNING",
        },
        Status::Final(row) => match row.state {
            FinalState::Complete => "COMPLETE",
            FinalState::ExecutorError => "EXECUTOR_ERROR",
            FinalState::SystemError => "SYSTEM_ERROR",
            FinalState::Canceled => "CANCELED",
        },
    }
}

/// `task` as `reading` wants it.
pub(super) fn task(task: StoredTask, reading: Reading<'_>) -> TaskView {
    let (id, state) = (task.head.id, state_name(&task.status));
    if reading.view == View::Minimal {
        return TaskView { id, state, spec: None, logs: Vec::new(), creation_time: None };
    }
    let creation_time = Some(task.created());
    let mut logs = task_logs(task.seq, task.attempts, &task.status, reading);
    add_queue_times(&mut logs, task.head.created);
    let spec = task.spec.map(|mut spec| {
        if reading.view == View::Basic {
            spec.inputs.iter_mut().for_each(|input| input.content = None);
        }
        spec
    });
    TaskView { id, state, spec, logs, creation_time }
}

/// One entry per attempt, oldest first.
fn task_logs(
    seq: u64,
    attempts: Vec<(u32, AttemptLog)>,
    status: &Status,
    reading: Reading<'_>,
) -> Vec<TaskLogView> {
    let last = attempts.last().map_or(0, |(number, _)| *number);
    let mut logs: Vec<_> = attempts.into_iter().map(|(_, log)| task_log(log, reading)).collect();
    if let Status::Live(row) = status
        && row.since.is_some()
        && row.attempt > last
    {
        logs.push(attempt_under_way(row));
    }
    let notes = notes(seq, status, reading.board);
    if reading.view == View::Full && !notes.is_empty() {
        let is_between = matches!(status, Status::Live(row) if row.since.is_none());
        if logs.is_empty() || is_between {
            logs.push(TaskLogView::default());
        }
        logs.last_mut().expect("one was just pushed where there was none").system_logs.extend(notes);
    }
    logs
}

/// What the system says of a task that belongs to no attempt; of one that waits, why; of one that is made
/// ready, how far that is.
pub(super) fn notes(seq: u64, status: &Status, board: &Board) -> Vec<String> {
    match status {
        Status::Live(row) => row.notes.iter().cloned().chain(now(seq, row, board)).collect(),
        Status::Final(row) => row.notes.clone(),
    }
}

/// Why a task waits, or how far making it ready is, where there is a reason of its own to say.
pub(super) fn now(seq: u64, row: &LiveRow, board: &Board) -> Option<String> {
    why_waiting(row, board).or_else(|| how_far(seq, row, board))
}

/// How long each attempt had to wait: since the task came, or since the attempt before ended.
fn add_queue_times(logs: &mut [TaskLogView], created: Timestamp) {
    let mut since = Some(created);
    for log in logs {
        if let (Some(since), Some(start)) = (since, log.start_time) {
            let millis = start.duration_since(since).as_millis().max(0);
            let seconds = format!("{}.{:03}", millis / 1000, millis % 1000);
            log.metadata.insert("queue_seconds".to_owned(), seconds);
        }
        since = log.end_time;
    }
}

fn attempt_under_way(row: &LiveRow) -> TaskLogView {
    TaskLogView {
        start_time: row.since,
        metadata: metadata(BTreeMap::new(), row.node.clone()),
        ..TaskLogView::default()
    }
}

fn why_waiting(row: &LiveRow, board: &Board) -> Option<String> {
    if row.state != LiveState::Queued {
        return None;
    }
    let need = Amount {
        cpu_milli: row.asks.cpu_milli,
        memory_bytes: row.asks.memory_bytes,
        disk_bytes: row.asks.disk_bytes,
    };
    let storages: Vec<_> = row.asks.storages.iter().map(String::as_str).collect();
    board.view().why_unplaceable(need, &storages, row.asks.network.as_deref())
}

fn how_far(seq: u64, row: &LiveRow, board: &Board) -> Option<String> {
    match board.progress(seq).filter(|_| row.state == LiveState::Initializing)? {
        Progress::Preparing { note } => Some(note.as_ref().to_owned()),
        Progress::Running { .. } => None,
    }
}

fn metadata(mut entries: BTreeMap<String, String>, node: Option<String>) -> BTreeMap<String, String> {
    if let Some(node) = node {
        entries.entry("node".to_owned()).or_insert(node);
    }
    entries.entry(PRICE.0.to_owned()).or_insert_with(|| PRICE.1.to_owned());
    entries
}

fn task_log(log: AttemptLog, reading: Reading<'_>) -> TaskLogView {
    let is_full = reading.view == View::Full;
    TaskLogView {
        logs: log.executors.into_iter().map(|executor| executor_log(executor, is_full)).collect(),
        metadata: metadata(log.metadata, log.node),
        start_time: log.start_time,
        end_time: log.end_time,
        outputs: log.outputs.into_iter().map(|file| output_file_log(file, reading.small_sizes)).collect(),
        system_logs: if is_full { log.system_logs } else { Vec::new() },
    }
}

fn executor_log(log: ExecutorLog, is_full: bool) -> ExecutorLogView {
    let text = |text| if is_full { text } else { String::new() };
    ExecutorLogView {
        start_time: log.start_time,
        end_time: log.end_time,
        stdout: text(log.stdout),
        stderr: text(log.stderr),
        exit_code: log.exit_code,
    }
}

fn output_file_log(file: OutputFileLog, small_sizes: bool) -> OutputFileLogView {
    let size_bytes = Some(file.size_bytes).filter(|size| !small_sizes || *size <= SIZE_BYTES_MAX_32);
    OutputFileLogView { url: file.url, path: file.path, size_bytes }
}

fn as_text<S: Serializer>(number: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&number.unwrap_or_default())
}
