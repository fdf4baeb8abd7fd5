//! As much of a task as people are shown.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

/// As much of a TES task as is shown; what a view leaves out is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Task {
    pub(super) id: String,
    pub(super) state: String,
    pub(super) name: String,
    pub(super) creation_time: Option<Timestamp>,
    executors: Vec<Executor>,
    logs: Vec<TaskLog>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Executor {
    image: String,
    command: Vec<String>,
}

/// One attempt.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TaskLog {
    start_time: Option<Timestamp>,
    end_time: Option<Timestamp>,
    metadata: BTreeMap<String, Value>,
    logs: Vec<ExecutorLog>,
    system_logs: Vec<String>,
    outputs: Vec<OutputLog>,
}

/// One executor's end.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ExecutorLog {
    end_time: Option<Timestamp>,
    exit_code: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OutputLog {
    url: String,
    size_bytes: Value,
}

impl Task {
    /// The node of its last attempt.
    pub(super) fn node(&self) -> Option<&str> {
        self.logs.last()?.node()
    }

    /// What the last command that ran ended with.
    pub(super) fn exit_code(&self) -> Option<i64> {
        self.logs.last()?.logs.last()?.exit_code
    }

    /// For people, a line for each thing that is known.
    pub(super) fn described(&self) -> String {
        let mut lines = vec![("id", self.id.clone()), ("state", self.state.clone())];
        let mut add = |key, value: String| lines.push((key, value));
        if !self.name.is_empty() {
            add("name", self.name.clone());
        }
        if let Some(time) = self.creation_time {
            add("created", time.to_string());
        }
        for executor in &self.executors {
            add("image", executor.image.clone());
            add("command", executor.command.join(" "));
        }
        if let Some(log) = self.logs.last() {
            if self.logs.len() > 1 {
                add("attempts", self.logs.len().to_string());
            }
            if let Some(node) = log.node() {
                add("node", node.to_owned());
            }
            for (key, time) in [("started", log.start_time), ("ended", log.end_time)] {
                if let Some(time) = time {
                    add(key, time.to_string());
                }
            }
            for executor in log.logs.iter().filter(|e| e.end_time.is_some()) {
                add("exit code", executor.exit_code.unwrap_or_default().to_string());
            }
            for output in &log.outputs {
                add("output", format!("{} ({} bytes)", output.url, plain(&output.size_bytes)));
            }
            for line in &log.system_logs {
                add("system log", line.clone());
            }
        }
        lines.iter().map(|(key, value)| format!("{key:<12}{value}\n")).collect()
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl TaskLog {
    fn node(&self) -> Option<&str> {
        self.metadata.get("node").and_then(Value::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_any_view() {
        let minimal: Task = serde_json::from_str(r#"{"id":"a","state":"QUEUED"}"#).unwrap();
        assert_eq!(minimal.described(), "id          a\nstate       QUEUED\n");
        let full: Task = serde_json::from_str(
            r#"{"id":"a","state":"EXECUTOR_ERROR","name":"n","creation_time":"2025-01-01T00:00:00Z",
                "executors":[{"image":"busybox","command":["false","x"]}],
                "logs":[{"metadata":{"node":"n1"},"logs":[{"exit_code":1,"end_time":"2025-01-01T00:00:02Z"}],
                         "outputs":[{"url":"/mnt/shared/o","path":"/o","size_bytes":"12"}],
                         "system_logs":["out of memory"]}]}"#,
        )
        .unwrap();
        let text = full.described();
        for part in
            ["node        n1\n", "exit code   1\n", "/mnt/shared/o (12 bytes)", "out of memory", "false x"]
        {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }
}
