//! One body of the shape that each known client sends. The texts are ours, the shapes theirs. Their images
//! are not on the node.

use serde_json::{Value, json};

/// All of them, by client; `shared` is a directory of shared storage.
pub(crate) fn bodies(shared: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("cromwell", cromwell(shared)),
        ("nextflow", nextflow(shared)),
        ("snakemake", snakemake()),
        ("toil", toil(shared)),
        ("cwl-tes", cwl_tes(shared)),
        ("py-tes", py_tes(shared)),
        ("pulsar", pulsar()),
        ("crankshaft", crankshaft()),
    ]
}

fn cromwell(shared: &str) -> Value {
    let file = |name: &str, below: &str| {
        json!({"name": name, "description": format!("wf.sort.{name}"), "type": "FILE",
               "url": format!("{shared}/cromwell/{below}"), "path": format!("/cromwell-executions/{below}")})
    };
    json!({
        "name": "wf.sort",
        "description": "77aa:BackendJobDescriptorKey_CommandCallNode_wf.sort:3:1",
        "inputs": [file("wf.sort.words.0", "inputs/words"), file("commandScript", "execution/script")],
        "outputs": [file("rc", "execution/rc"), file("stdout", "execution/stdout"),
                    file("stderr", "execution/stderr"), file("commandScript", "execution/script")],
        "resources": {"cpu_cores": 1, "ram_gb": 2.0, "disk_gb": 10.0, "preemptible": false,
                      "backend_parameters": {"internal_path_prefix": "/x/tes_task", "queue": null}},
        "executors": [{"image": "debian@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                       "command": ["/bin/bash", "/cromwell-executions/execution/script"],
                       "stdout": "/cromwell-executions/execution/stdout",
                       "stderr": "/cromwell-executions/execution/stderr"}],
        "tags": {"workflow_id": "77aa", "root_workflow_id": "77aa", "parent_workflow_id": null}
    })
}

fn nextflow(shared: &str) -> Value {
    json!({
        "name": "count (1) [x]",
        "inputs": [{"url": format!("{shared}/nf/.command.sh"), "path": "/work/.command.sh", "type": "FILE"}],
        "outputs": [{"url": format!("{shared}/nf/.exitcode"), "path": "/work/.exitcode", "type": "FILE"},
                    {"url": format!("{shared}/nf"), "path": "/work/*.bam", "path_prefix": "/work", "type": "FILE"},
                    {"url": format!("{shared}/nf/qc"), "path": "/work/qc", "type": "DIRECTORY"}],
        "resources": {"cpu_cores": 2, "ram_gb": 4.0, "disk_gb": 20.0, "backend_parameters_strict": false},
        "executors": [{"image": "quay.io/some/where", "workdir": "/work",
                       "command": ["bash", "-o", "pipefail", "-c", "bash .command.run 2>&1 | tee .command.log"]}],
        "tags": {"kind": "count"}
    })
}

fn snakemake() -> Value {
    json!({
        "name": "snakejob.count.4.sh", "description": "", "outputs": [],
        "inputs": [{"path": "/tmp/run_snakemake.sh", "type": "FILE", "content": "#!/bin/sh\ncd /tmp && true\n"}],
        "resources": {"cpu_cores": 1, "ram_gb": 1, "disk_gb": 1},
        "executors": [{"image": "some/snakemake:latest", "workdir": "/tmp",
                       "command": ["/bin/bash", "/tmp/run_snakemake.sh"]}]
    })
}

fn toil(shared: &str) -> Value {
    json!({
        "name": "'count' kind-count/instance-7 v1",
        "inputs": [{"url": format!("file://{shared}/store"), "path": format!("{shared}/store"), "type": "DIRECTORY"}],
        "resources": {"cpu_cores": 1, "ram_gb": 2.0, "disk_gb": 2.0, "preemptible": false},
        "executors": [{"image": "localhost:5000/toil:7.0.0", "command": ["_toil_contained_executor", "gAR9"],
                       "env": {"OMP_NUM_THREADS": "1", "TOIL_WORKDIR": "/tmp"}}]
    })
}

fn cwl_tes(shared: &str) -> Value {
    json!({
        "name": "count.cwl", "description": "",
        "inputs": [{"url": format!("file://{shared}/in%20put"), "path": "/var/lib/cwl/stg1/in put", "type": "FILE",
                    "name": "words", "description": "cwl_input:words"}],
        "outputs": [{"url": format!("file://{shared}/out/count"), "path": "/qWxYz/count", "type": "FILE", "name": "stdout"},
                    {"url": format!("file://{shared}/out/"), "path": "/qWxYz", "type": "DIRECTORY", "name": "workdir"}],
        "resources": {"cpu_cores": 1, "ram_gb": 1.073_742, "disk_gb": 2.147_484},
        "executors": [{"image": "debian:12", "command": ["wc", "-w", "/var/lib/cwl/stg1/in put"], "workdir": "/qWxYz",
                       "stdout": "/qWxYz/count", "env": {"HOME": "/qWxYz", "TMPDIR": "/tmp"}}],
        "tags": {"CWLDocumentId": "file:///home/me/count.cwl"}
    })
}

fn py_tes(shared: &str) -> Value {
    json!({
        "name": "y",
        "outputs": [{"url": format!("file://{shared}/y"), "path": "/data/y", "type": "FILE"}],
        "executors": [{"image": "alpine", "command": ["sh", "-c", "echo y > y"], "workdir": "/data"}]
    })
}

fn pulsar() -> Value {
    let executor = |command: &str| {
        json!({"image": "i", "command": ["sh", "-c", command], "workdir": "/", "stdin": null, "stdout": null,
               "stderr": null, "env": null})
    };
    json!({
        "id": null, "state": null, "name": "q", "description": null, "inputs": null, "outputs": null,
        "resources": {"cpu_cores": 1, "preemptible": null, "ram_gb": null, "disk_gb": null, "zones": null,
                      "backend_parameters": null, "backend_parameters_strict": false},
        "executors": [executor("echo 1 > /pulsar_staging/x"), executor("cat /pulsar_staging/x")],
        "volumes": ["/pulsar_staging"], "tags": null, "logs": null, "creation_time": null
    })
}

fn crankshaft() -> Value {
    json!({"executors": [{"image": "alpine", "command": ["sh", "-c", "exit 3"], "ignore_error": true}],
           "tags": {"crankshaft-task-group": "count-7-0"}})
}

/// `sent` as it is to be shown: without nulls and empty lists, and without parameters that are not supported.
pub(crate) fn as_shown(sent: &Value) -> Value {
    match sent {
        Value::Object(entries) => {
            let is_shown = |key: &str, value: &Value| {
                !value.is_null() && *value != json!([]) && key != "backend_parameters"
            };
            let shown = entries.iter().filter(|(key, value)| is_shown(key, value));
            shown.map(|(key, value)| (key.clone(), as_shown(value))).collect()
        }
        Value::Array(items) => items.iter().map(as_shown).collect(),
        Value::Number(number) => json!(number.as_f64()),
        other => other.clone(),
    }
}
