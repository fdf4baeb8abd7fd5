//! What an attempt leaves behind for its user. Like `spec`, one serde type serves store, API and session.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What an attempt left behind.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AttemptLog {
    /// Where it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Timestamp>,
    /// The executors that ended, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub executors: Vec<ExecutorLog>,
    /// The files that were put in place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputFileLog>,
    /// What the system has to say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub system_logs: Vec<String>,
    /// Figures and names that clients may like to know.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// What an executor left behind.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecutorLog {
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Timestamp>,
    /// Its exit code.
    pub exit_code: i32,
    /// The end of its standard output.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stdout: String,
    /// The end of its standard error.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stderr: String,
    /// How much it wrote to standard output in all; 0 where that was not told.
    #[serde(skip_serializing_if = "is_zero")]
    pub stdout_bytes: u64,
    /// The same of standard error.
    #[serde(skip_serializing_if = "is_zero")]
    pub stderr_bytes: u64,
    /// Whether the kernel killed it because its memory was used up.
    #[serde(skip_serializing_if = "is_false")]
    pub out_of_memory: bool,
}

/// A file that was put in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFileLog {
    /// Where it is now.
    pub url: String,
    /// Where the container wrote it.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(truth: &bool) -> bool {
    !truth
}
