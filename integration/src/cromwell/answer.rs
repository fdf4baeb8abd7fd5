//! Answers as Cromwell's JSON library reads them: unknown keys do not matter and null is as good as nothing,
//! but a wrong type anywhere fails the call at once, and so does a size that does not fit into 32 bits.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// The answer to a create.
#[derive(Debug, Deserialize)]
pub struct Created {
    /// Name of the new task.
    pub id: String,
}

/// The MINIMAL view.
#[derive(Debug, Deserialize)]
pub struct Minimal {
    /// Name of the task.
    pub id: String,
    /// State of the task.
    pub state: String,
}

/// The FULL view.
#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "decoding it is the check")]
pub struct Task {
    id: Option<String>,
    /// A task without a state is held to be running.
    pub state: Option<String>,
    name: Option<String>,
    description: Option<String>,
    inputs: Option<Vec<Input>>,
    outputs: Option<Vec<Output>>,
    resources: Option<Resources>,
    executors: Vec<Executor>,
    volumes: Option<Vec<String>>,
    tags: Option<BTreeMap<String, Option<String>>>,
    /// One entry per attempt.
    pub logs: Option<Vec<TaskLog>>,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "decoding it is the check")]
struct Input {
    name: Option<String>,
    description: Option<String>,
    url: Option<String>,
    path: String,
    r#type: Option<String>,
    content: Option<String>,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "decoding it is the check")]
struct Output {
    name: Option<String>,
    description: Option<String>,
    url: Option<String>,
    path: String,
    r#type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "decoding it is the check")]
struct Resources {
    cpu_cores: Option<i32>,
    ram_gb: Option<f64>,
    disk_gb: Option<f64>,
    preemptible: Option<bool>,
    zones: Option<Vec<String>>,
    backend_parameters: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "decoding it is the check")]
struct Executor {
    image: String,
    command: Vec<String>,
    workdir: Option<String>,
    stdout: Option<String>,
    stderr: Option<String>,
    stdin: Option<String>,
    env: Option<BTreeMap<String, String>>,
}

/// What is logged of an attempt.
#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "decoding it is the check")]
pub struct TaskLog {
    /// When it began.
    pub start_time: Option<String>,
    /// When it ended.
    pub end_time: Option<String>,
    /// The price is looked for in it.
    pub metadata: Option<BTreeMap<String, String>>,
    logs: Option<Vec<ExecutorLog>>,
    outputs: Option<Vec<OutputFileLog>>,
    /// Why it failed.
    pub system_logs: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "decoding it is the check")]
struct ExecutorLog {
    start_time: Option<String>,
    end_time: Option<String>,
    stdout: Option<String>,
    stderr: Option<String>,
    exit_code: Option<i32>,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "decoding it is the check")]
struct OutputFileLog {
    url: String,
    path: String,
    #[serde(default, deserialize_with = "size_of_32_bits")]
    size_bytes: i32,
}

/// A text that holds a 32-bit number; a number, null or more than that is fatal.
fn size_of_32_bits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

impl Task {
    /// Whether it says what Cromwell wants to know about cost, after which it asks for less.
    pub fn has_cost(&self) -> bool {
        let first = self.logs.iter().flatten().next();
        first.is_some_and(|log| {
            let price = log.metadata.as_ref().and_then(|metadata| metadata.get("vm_price_per_hour_usd"));
            log.start_time.is_some() && price.is_some()
        })
    }

    /// What the last attempt says about its failure.
    pub fn reason(&self) -> String {
        let last = self.logs.iter().flatten().last();
        last.and_then(|log| log.system_logs.as_ref()).map(|lines| lines.join("; ")).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Task;

    fn decodes(size_bytes: serde_json::Value) -> bool {
        let output = json!({"url": "/a", "path": "/b", "size_bytes": size_bytes});
        let task = json!({"executors": [], "logs": [{"outputs": [output], "metadata": null}], "more": 1});
        serde_json::from_value::<Task>(task).is_ok()
    }

    #[test]
    fn it_is_as_strict_as_the_real_one() {
        assert!(decodes(json!("2147483647")));
        assert!(!decodes(json!("2147483648")) && !decodes(json!(5)) && !decodes(json!(null)));
        let nested = json!({"executors": [], "logs": [{"metadata": {"a": {"b": "c"}}}]});
        assert!(serde_json::from_value::<Task>(nested).is_err());
        assert!(serde_json::from_value::<Task>(json!({"id": "x", "state": "RUNNING"})).is_err());
    }
}
