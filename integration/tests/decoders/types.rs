//! What clients decode answers into. Each set of types is as strict as the library that the client uses, and
//! no stricter.

#![allow(dead_code, reason = "decoding is the check")]

/// Pulsar's pydantic models: states from a closed list, types of files required, whole tasks only.
pub(crate) mod pulsar {
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
    pub(crate) struct Task {
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
pub(crate) mod tes_crate {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use serde::Deserialize;

    #[derive(Deserialize)]
    pub(crate) struct Page<T> {
        tasks: Vec<T>,
        next_page_token: Option<String>,
    }

    #[derive(Deserialize)]
    pub(crate) struct Minimal {
        id: String,
        state: Option<String>,
    }

    #[derive(Deserialize)]
    pub(crate) struct Task {
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
pub(crate) mod nextflow {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    #[derive(Deserialize)]
    pub(crate) struct Task {
        pub(crate) state: String,
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
        pub(crate) fn exit_code(&self) -> Option<i32> {
            self.logs.as_ref()?.first()?.logs.as_ref()?.first()?.exit_code
        }
    }
}
