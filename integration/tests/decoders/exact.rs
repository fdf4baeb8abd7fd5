//! py-tes and whoever else refuses keys that TES does not have: the keys of TES 1.1.0 and no other, and never
//! null.

#![allow(dead_code, reason = "decoding is the check")]

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

/// A field that may be absent but never null.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A 64-bit number that is a text.
fn number_as_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(serde::de::Error::custom)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Minimal {
    id: String,
    state: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Page<T> {
    tasks: Vec<T>,
    #[serde(default, deserialize_with = "present")]
    next_page_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Task {
    id: String,
    state: String,
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    description: Option<String>,
    #[serde(default)]
    inputs: Vec<Input>,
    #[serde(default)]
    outputs: Vec<Output>,
    #[serde(default, deserialize_with = "present")]
    resources: Option<Resources>,
    executors: Vec<Executor>,
    #[serde(default)]
    volumes: Vec<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    logs: Vec<TaskLog>,
    creation_time: Timestamp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    description: Option<String>,
    #[serde(default, deserialize_with = "present")]
    url: Option<String>,
    path: String,
    #[serde(default, deserialize_with = "present")]
    r#type: Option<String>,
    #[serde(default, deserialize_with = "present")]
    content: Option<String>,
    #[serde(default, deserialize_with = "present")]
    streamable: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Output {
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    description: Option<String>,
    url: String,
    path: String,
    #[serde(default, deserialize_with = "present")]
    path_prefix: Option<String>,
    #[serde(default, deserialize_with = "present")]
    r#type: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    #[serde(default, deserialize_with = "present")]
    cpu_cores: Option<i64>,
    #[serde(default, deserialize_with = "present")]
    ram_gb: Option<f64>,
    #[serde(default, deserialize_with = "present")]
    disk_gb: Option<f64>,
    #[serde(default, deserialize_with = "present")]
    preemptible: Option<bool>,
    #[serde(default)]
    zones: Vec<String>,
    #[serde(default)]
    backend_parameters: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "present")]
    backend_parameters_strict: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Executor {
    image: String,
    command: Vec<String>,
    #[serde(default, deserialize_with = "present")]
    workdir: Option<String>,
    #[serde(default, deserialize_with = "present")]
    stdin: Option<String>,
    #[serde(default, deserialize_with = "present")]
    stdout: Option<String>,
    #[serde(default, deserialize_with = "present")]
    stderr: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "present")]
    ignore_error: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskLog {
    logs: Vec<ExecutorLog>,
    outputs: Vec<OutputFileLog>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "present")]
    start_time: Option<Timestamp>,
    #[serde(default, deserialize_with = "present")]
    end_time: Option<Timestamp>,
    #[serde(default)]
    system_logs: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExecutorLog {
    exit_code: i32,
    #[serde(default, deserialize_with = "present")]
    start_time: Option<Timestamp>,
    #[serde(default, deserialize_with = "present")]
    end_time: Option<Timestamp>,
    #[serde(default, deserialize_with = "present")]
    stdout: Option<String>,
    #[serde(default, deserialize_with = "present")]
    stderr: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputFileLog {
    url: String,
    path: String,
    #[serde(default, deserialize_with = "number_as_text")]
    size_bytes: Option<i64>,
}
