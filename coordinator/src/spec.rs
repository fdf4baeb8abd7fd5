//! The validated task as it was submitted. One serde type serves API, store and session; the model never
//! sees it. Field names are those of TES 1.1.0's `tesTask`, so a view is this type written out again:
//! what was not submitted is absent, never null, never a default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

use crate::parameters::NETWORK;

/// A task that can be run. Only `api::request` makes one from user input.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The user's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The user's words about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Files that must be there first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// Files that must be in place at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Output>,
    /// What it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Commands, run in order; never empty.
    pub executors: Vec<Executor>,
    /// Empty directories that the executors share.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// The user's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

/// `tesExecutor`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Executor {
    /// Image reference.
    pub image: String,
    /// The exact argv.
    pub command: Vec<String>,
    /// Where it runs; the image's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Container path that feeds standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Container path that gets standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// Container path that gets standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// Environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Whether the next executor runs even when this one fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore_error: Option<bool>,
}

/// `tesFileType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum FileType {
    /// A single file; what is meant when nothing is said.
    File,
    /// A directory with all that is in it.
    Directory,
}

/// `tesInput`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Input {
    /// The user's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The user's words about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where it comes from, unless `content` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where the container sees it.
    pub path: String,
    /// What it is.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub file_type: Option<FileType>,
    /// The content itself; `url` is ignored when it is not empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// A hint that has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streamable: Option<bool>,
}

/// `tesOutput`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Output {
    /// The user's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The user's words about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where it goes.
    pub url: String,
    /// Where the container writes it.
    pub path: String,
    /// Stripped from what wildcards in `path` match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<String>,
    /// What it is.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub file_type: Option<FileType>,
}

/// `tesResources`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// CPUs; fractions are taken, and whole numbers are written as integers because clients insist.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "integer_where_whole")]
    pub cpu_cores: Option<f64>,
    /// Whether it may be run again after it was lost in the middle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemptible: Option<bool>,
    /// Memory in GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram_gb: Option<f64>,
    /// Scratch space in GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_gb: Option<f64>,
    /// A hint that has no effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// Supported keys only; keys are lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub backend_parameters: BTreeMap<String, String>,
    /// Whether an unsupported key is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_parameters_strict: Option<bool>,
}

fn integer_where_whole<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(number) if number.fract() == 0.0 && number.abs() < 2f64.powi(53) => {
            serializer.serialize_i64(*number as i64)
        }
        Some(number) => serializer.serialize_f64(*number),
        None => serializer.serialize_none(),
    }
}

const GIB: f64 = (1u64 << 30) as f64;

impl TaskSpec {
    /// Whether it may be run again after it was lost in the middle.
    pub fn preemptible(&self) -> bool {
        self.resources.as_ref().and_then(|r| r.preemptible).unwrap_or(false)
    }

    /// What it may reach, where it says so: a value of `backend_parameters.network`.
    pub fn network(&self) -> Option<&str> {
        let parameters = &self.resources.as_ref()?.backend_parameters;
        parameters.get(NETWORK).map(String::as_str)
    }

    /// What is set aside for it, in thousandths of a CPU, bytes of memory and bytes of disk; 1 CPU, 2 GiB
    /// and 10 GiB where it names none (zero counts as none: engines send it for "whatever").
    pub fn need(&self) -> (u64, u64, u64) {
        let resources = self.resources.as_ref();
        let named = |value: Option<f64>, default: f64| value.filter(|v| *v > 0.0).unwrap_or(default);
        let cpus = named(resources.and_then(|r| r.cpu_cores), 1.0);
        let memory = named(resources.and_then(|r| r.ram_gb), 2.0);
        let disk = named(resources.and_then(|r| r.disk_gb), 10.0);
        ((cpus * 1000.0).ceil() as u64, (memory * GIB).ceil() as u64, (disk * GIB).ceil() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_only_what_was_submitted() {
        let submitted =
            r#"{"resources":{"cpu_cores":2,"ram_gb":2.0},"executors":[{"image":"a","command":["b"]}]}"#;
        let spec: TaskSpec = serde_json::from_str(submitted).unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), submitted);
        assert_eq!(spec.need(), (2000, 2 << 30, 10 << 30));
        assert!(!spec.preemptible());
    }

    #[test]
    fn zero_counts_as_unnamed() {
        let resources = Resources { cpu_cores: Some(0.0), disk_gb: Some(0.0), ..Resources::default() };
        let spec = TaskSpec { resources: Some(resources), ..TaskSpec::default() };
        assert_eq!(spec.need(), (1000, 2 << 30, 10 << 30));
    }
}
