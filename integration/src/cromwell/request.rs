//! What Cromwell posts for a call: bare absolute paths for URLs, a null among the tags, the script both as
//! an input and as an output, each glob as a directory and a list.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::script::glob_name;

/// One call of a workflow: what a shard and an attempt of it need.
#[derive(Debug, Clone)]
pub struct Call {
    /// The workflow's name.
    pub workflow_name: String,
    /// The workflow's id.
    pub workflow: String,
    /// The call's name.
    pub name: String,
    /// Which one of a scatter.
    pub shard: Option<u32>,
    /// Counted from 1.
    pub attempt: u32,
    /// The user's command; `@INPUT0@` and so on stand for where inputs lie in the container.
    pub command: String,
    /// Files on the shared storage.
    pub inputs: Vec<PathBuf>,
    /// Lines that are written into the execution directory and are an input from there (`write_lines`).
    pub lines: Option<String>,
    /// What is expected, relative to the execution directory.
    pub outputs: Vec<Output>,
}

/// One declared output.
#[derive(Debug, Clone)]
pub enum Output {
    /// A file that must be there.
    File(&'static str),
    /// A file that may be there.
    Optional(&'static str),
    /// A file that must be there and is too large to be read.
    Large(&'static str),
    /// What matches.
    Glob(&'static str),
}

impl Call {
    /// A call without inputs.
    pub fn new(workflow: &str, name: &str, command: &str, outputs: &[Output]) -> Self {
        Self {
            workflow_name: "wf".to_owned(),
            workflow: workflow.to_owned(),
            name: name.to_owned(),
            shard: None,
            attempt: 1,
            command: command.to_owned(),
            inputs: Vec::new(),
            lines: None,
            outputs: outputs.to_vec(),
        }
    }

    /// Where the call lies below the root.
    pub fn below_root(&self) -> PathBuf {
        let mut path =
            Path::new(&self.workflow_name).join(&self.workflow).join(format!("call-{}", self.name));
        if let Some(shard) = self.shard {
            path.push(format!("shard-{shard}"));
        }
        if self.attempt > 1 {
            path.push(format!("attempt-{}", self.attempt));
        }
        path
    }

    /// The patterns of its globs.
    pub fn globs(&self) -> Vec<String> {
        let patterns = self.outputs.iter().filter_map(|output| match output {
            Output::Glob(pattern) => Some((*pattern).to_owned()),
            Output::File(_) | Output::Optional(_) | Output::Large(_) => None,
        });
        patterns.collect()
    }
}

/// Both sides of the one tree, as the engine and as containers see it.
#[derive(Debug, Clone)]
pub struct Roots {
    /// For the engine.
    pub root: PathBuf,
    /// In containers.
    pub docker_root: PathBuf,
}

impl Roots {
    /// Where an input lies in the container.
    pub fn input_path(&self, call: &Call, input: &Path) -> PathBuf {
        if let Ok(below) = input.strip_prefix(&self.root) {
            return self.docker_root.join(below);
        }
        let full = input.strip_prefix("/").expect("inputs have absolute paths");
        self.docker_root.join(call.below_root()).join("inputs").join(full)
    }

    /// The whole request.
    pub fn request(&self, call: &Call, inputs: &[PathBuf], image: &str, shell: &str) -> Value {
        let full_name = format!("{}.{}", call.workflow_name, call.name);
        let execution = call.below_root().join("execution");
        let inside = |name: &str| self.docker_root.join(&execution).join(name);
        let entry = |name: &str, url: PathBuf, path: PathBuf, kind: &str| json!({"name": name, "description": format!("{full_name}.{name}"), "url": url, "path": path, "type": kind});
        let below = |name: &str, file: &str, kind: &str| {
            entry(name, self.root.join(&execution).join(file), inside(file), kind)
        };
        let mut wanted: Vec<Value> = Vec::new();
        for (number, input) in inputs.iter().enumerate() {
            let path = self.input_path(call, input);
            wanted.push(entry(&format!("{full_name}.infile.{number}"), input.clone(), path, "FILE"));
        }
        wanted.push(below("commandScript", "script", "FILE"));
        let mut outputs = vec![
            below("rc", "rc", "FILE"),
            below("stdout", "stdout", "FILE"),
            below("stderr", "stderr", "FILE"),
            below("commandScript", "script", "FILE"),
        ];
        for (number, output) in call.outputs.iter().enumerate() {
            match output {
                Output::File(file) | Output::Optional(file) | Output::Large(file) => {
                    outputs.push(below(&format!("{full_name}.output.{number}"), file, "FILE"));
                }
                Output::Glob(pattern) => {
                    let name = glob_name(pattern);
                    outputs.push(below(&name, &name, "DIRECTORY"));
                    let list = format!("{name}.list");
                    outputs.push(below(&list, &list, "FILE"));
                }
            }
        }
        let shard = call.shard.map_or(-1, i64::from);
        json!({
            "name": full_name,
            "description": format!("{}:BackendJobDescriptorKey_CommandCallNode_{full_name}:{shard}:{}",
                                   call.workflow, call.attempt),
            "inputs": wanted,
            "outputs": outputs,
            "resources": {"cpu_cores": 1, "ram_gb": 0.25, "disk_gb": 1.0, "preemptible": false,
                "backend_parameters": {"internal_path_prefix": self.root.join(call.below_root()).join("tes_task")}},
            "executors": [{"image": image, "command": [shell, inside("script")],
                           "stdout": inside("stdout"), "stderr": inside("stderr")}],
            "tags": {"workflow_id": call.workflow, "root_workflow_id": call.workflow, "parent_workflow_id": null},
        })
    }
}
