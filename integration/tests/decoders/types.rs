//! What clients decode answers into. Each set of types is as strict as the library that the client uses, and
//! no stricter.

#![allow(dead_code, reason = "decoding is the check")]

use serde::{Deserialize, Deserializer};

/// A field that may be absent but never null.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A 64-bit number that is a text.
fn number_as_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(serde::de::Error::custom)
}

/// py-tes and whoever else refuses keys that TES does not have: the keys of TES 1.1.0 and no other, and never
/// null.
pub mod exact {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use serde::Deserialize;

    use super::{number_as_text, present};

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Minimal {
        id: String,
        state: String,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Page<T> {
        tasks: Vec<T>,
        #[serde(default, deserialize_with = "present")]
        next_page_token: Option<String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Task {
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
}

/// Pulsar's pydantic models: states from a closed list, types of files required, whole tasks only.
pub mod pulsar {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use serde::Deserialize;

    #[derive(Deserialize)]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    enum State {
        Unknown,
        Queued,
        Initializing,
        Running,
        Paused,
        Complete,
        ExecutorError,
        SystemError,
        Canceled,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "UPPERCASE")]
    enum FileType {
        File,
        Directory,
    }

    #[derive(Deserialize)]
    pub struct Task {
        id: Option<String>,
        state: Option<State>,
        inputs: Option<Vec<Input>>,
        outputs: Option<Vec<Output>>,
        executors: Vec<Executor>,
        volumes: Option<Vec<String>>,
        tags: Option<BTreeMap<String, String>>,
        logs: Option<Vec<TaskLog>>,
        creation_time: Option<Timestamp>,
    }

    #[derive(Deserialize)]
    struct Input {
        path: String,
        url: Option<String>,
        content: Option<String>,
        r#type: FileType,
    }

    #[derive(Deserialize)]
    struct Output {
        path: String,
        url: String,
        r#type: FileType,
    }

    #[derive(Deserialize)]
    struct Executor {
        image: String,
        command: Vec<String>,
        env: Option<BTreeMap<String, String>>,
    }

    #[derive(Deserialize)]
    struct TaskLog {
        logs: Vec<ExecutorLog>,
        outputs: Vec<OutputFileLog>,
        metadata: Option<BTreeMap<String, String>>,
        start_time: Option<Timestamp>,
        end_time: Option<Timestamp>,
        system_logs: Option<Vec<String>>,
    }

    #[derive(Deserialize)]
    struct ExecutorLog {
        exit_code: i32,
        stdout: Option<String>,
        stderr: Option<String>,
    }

    #[derive(Deserialize)]
    struct OutputFileLog {
        url: String,
        path: String,
        size_bytes: String,
    }
}

/// The `tes` crate, which Sprocket uses: what a log must have, and times with a zone.
pub mod tes_crate {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use serde::Deserialize;

    #[derive(Deserialize)]
    pub struct Page<T> {
        tasks: Vec<T>,
        next_page_token: Option<String>,
    }

    #[derive(Deserialize)]
    pub struct Minimal {
        id: String,
        state: Option<String>,
    }

    #[derive(Deserialize)]
    pub struct Task {
        id: Option<String>,
        state: Option<String>,
        executors: Vec<Executor>,
        tags: Option<BTreeMap<String, String>>,
        logs: Option<Vec<TaskLog>>,
        creation_time: Option<Timestamp>,
    }

    #[derive(Deserialize)]
    struct Executor {
        image: String,
        command: Vec<String>,
        env: Option<BTreeMap<String, String>>,
        ignore_error: Option<bool>,
    }

    #[derive(Deserialize)]
    struct TaskLog {
        logs: Vec<ExecutorLog>,
        outputs: Vec<OutputFileLog>,
        start_time: Option<Timestamp>,
        end_time: Option<Timestamp>,
        system_logs: Option<Vec<String>>,
    }

    #[derive(Deserialize)]
    struct ExecutorLog {
        exit_code: i32,
        start_time: Option<Timestamp>,
        end_time: Option<Timestamp>,
    }

    #[derive(Deserialize)]
    struct OutputFileLog {
        url: String,
        path: String,
        size_bytes: String,
    }
}

/// Nextflow's Gson models: unknown keys and nulls do not matter, a nested value in a map of texts does, and
/// the first exit code of the first log is the task's.
pub mod nextflow {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    #[derive(Deserialize)]
    pub struct Task {
        pub state: String,
        tags: Option<BTreeMap<String, String>>,
        resources: Option<Resources>,
        logs: Option<Vec<TaskLog>>,
    }

    #[derive(Deserialize)]
    struct Resources {
        cpu_cores: Option<i32>,
        ram_gb: Option<f64>,
        disk_gb: Option<f64>,
        backend_parameters: Option<BTreeMap<String, String>>,
    }

    #[derive(Deserialize)]
    struct TaskLog {
        logs: Option<Vec<ExecutorLog>>,
        metadata: Option<BTreeMap<String, String>>,
        start_time: Option<String>,
        system_logs: Option<Vec<String>>,
    }

    #[derive(Deserialize)]
    struct ExecutorLog {
        exit_code: Option<i32>,
    }

    impl Task {
        /// What Nextflow takes for the exit code.
        pub fn exit_code(&self) -> Option<i32> {
            self.logs.as_ref()?.first()?.logs.as_ref()?.first()?.exit_code
        }
    }
}
