//! Bodies of the shapes that each known engine sends, and what comes back for them. The texts are ours, the
//! shapes theirs.

use serde_json::{Value, json};

use super::stand::Stand;

/// Submits `sent` and checks that the FULL view holds exactly `echoed`, and besides only what is ours.
async fn is_echoed(sent: Value, echoed: Value) {
    let stand = Stand::new();
    let id = stand.create(&sent).await;
    let mut shown = stand.get(&format!("/v1/tasks/{id}?view=FULL")).await.json();
    let shown = shown.as_object_mut().unwrap();
    assert_eq!(shown.remove("id"), Some(json!(id)));
    assert_eq!(shown.remove("state"), Some(json!("QUEUED")));
    let created = shown.remove("creation_time").unwrap();
    created.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    shown.remove("logs");
    assert_eq!(Value::Object(shown.clone()), echoed);
    assert!(!Value::Object(shown.clone()).to_string().contains("null"));
    let minimal = stand.get(&format!("/ga4gh/tes/v1/tasks/{id}")).await.json();
    assert_eq!(minimal, json!({ "id": id, "state": "QUEUED" }));
}

#[tokio::test]
async fn cromwell() {
    let call = "/mnt/shared/cromwell/hello/0c2d/call-say";
    let file = |name: &str, path: &str| {
        json!({ "name": name, "description": format!("hello.say.{name}"), "type": "FILE",
                "url": format!("/mnt/shared/{path}"), "path": format!("/cromwell-executions/{path}") })
    };
    let mut task = json!({
        "name": "hello.say",
        "description": "0c2d:BackendJobDescriptorKey_CommandCallNode_hello.say:-1:1",
        "inputs": [file("who.0", "in/who.txt"), file("commandScript", "execution/script")],
        "outputs": [file("rc", "execution/rc"), file("stdout", "execution/stdout"),
                    file("commandScript", "execution/script")],
        "resources": { "cpu_cores": 1, "ram_gb": 2.0, "disk_gb": 10.0, "preemptible": false,
                       "backend_parameters": { "internal_path_prefix": call, "queue": null } },
        "executors": [{ "image": "debian@sha256:0123456789abcdef",
                        "command": ["/bin/bash", "/cromwell-executions/execution/script"],
                        "stdout": "/cromwell-executions/execution/stdout",
                        "stderr": "/cromwell-executions/execution/stderr" }],
        "tags": { "workflow_id": "0c2d", "root_workflow_id": "0c2d", "parent_workflow_id": null }
    });
    let sent = task.clone();
    task["resources"].as_object_mut().unwrap().remove("backend_parameters");
    task["tags"].as_object_mut().unwrap().remove("parent_workflow_id");
    is_echoed(sent, task).await;
}

#[tokio::test]
async fn nextflow() {
    let task = json!({
        "name": "trim (2)",
        "inputs": [{ "url": "/mnt/shared/work/aa/.command.sh", "path": "/work/.command.sh", "type": "FILE" }],
        "outputs": [{ "url": "/mnt/shared/work/aa/.exitcode", "path": "/work/.exitcode" },
                    { "url": "/mnt/shared/work/aa", "path": "/work/*.bam", "path_prefix": "/work", "type": "FILE" },
                    { "url": "/mnt/shared/work/aa/qc", "path": "/work/qc", "type": "DIRECTORY" }],
        "resources": { "cpu_cores": 2, "ram_gb": 4.0, "disk_gb": 20.0, "backend_parameters_strict": false },
        "executors": [{ "image": "quay.io/nextflow/bash", "workdir": "/work",
                        "command": ["bash", "-c", "bash /work/.command.run 2>&1 | tee /work/.command.log"] }],
        "tags": { "sample": "s1" }
    });
    is_echoed(task.clone(), task).await;
}

#[tokio::test]
async fn pulsar_with_nulls_everywhere() {
    let executor = |command: &str| {
        json!({ "image": "i", "command": ["sh", "-c", command], "workdir": "/", "stdin": null, "stdout": null,
                "stderr": null, "env": null })
    };
    let sent = json!({
        "id": null, "state": null, "name": "p", "description": null, "inputs": null, "outputs": null,
        "resources": { "cpu_cores": 1, "preemptible": null, "ram_gb": null, "disk_gb": null, "zones": null,
                       "backend_parameters": null, "backend_parameters_strict": false },
        "executors": [executor("echo 1 > /pulsar_staging/x"), executor("cat /pulsar_staging/x")],
        "volumes": ["/pulsar_staging"], "tags": null, "logs": null, "creation_time": null
    });
    let shown = |command: &str| json!({ "image": "i", "command": ["sh", "-c", command], "workdir": "/" });
    let echoed = json!({
        "name": "p",
        "resources": { "cpu_cores": 1, "backend_parameters_strict": false },
        "executors": [shown("echo 1 > /pulsar_staging/x"), shown("cat /pulsar_staging/x")],
        "volumes": ["/pulsar_staging"]
    });
    is_echoed(sent, echoed).await;
}

#[tokio::test]
async fn snakemake() {
    let mut task = json!({
        "name": "snakejob.all.1.sh", "description": "",
        "inputs": [{ "path": "/tmp/run_snakemake.sh", "type": "FILE", "content": "#!/bin/sh\nmkdir /tmp/conda\n" }],
        "outputs": [],
        "resources": { "cpu_cores": 1, "ram_gb": 1, "disk_gb": 1 },
        "executors": [{ "image": "snakemake/snakemake:latest", "workdir": "/tmp",
                        "command": ["/bin/bash", "/tmp/run_snakemake.sh"] }]
    });
    let sent = task.clone();
    task.as_object_mut().unwrap().remove("outputs");
    for size in ["ram_gb", "disk_gb"] {
        task["resources"][size] = json!(1.0);
    }
    is_echoed(sent, task).await;
}

#[tokio::test]
async fn cwl_tes_toil_and_py_tes() {
    let cwl = json!({
        "name": "t.cwl", "description": "",
        "inputs": [{ "url": "file:///tmp/clients/cwl/in%20put.txt", "path": "/var/lib/cwl/stg/in put.txt", "type": "FILE",
                     "name": "f", "description": "cwl_input:f" }],
        "outputs": [{ "url": "file:///tmp/clients/cwl/out/", "path": "/lHQXys", "type": "DIRECTORY", "name": "workdir" }],
        "resources": { "cpu_cores": 1, "ram_gb": 1.073_742_180_241_885_6, "disk_gb": 2.147_484_360_483_771_2 },
        "executors": [{ "image": "debian:12", "command": ["sh", "-c", "cat $1"], "workdir": "/lHQXys",
                        "stdout": "/lHQXys/out.txt", "env": { "HOME": "/lHQXys", "TMPDIR": "/tmp" } }],
        "tags": { "CWLDocumentId": "file:///tmp/clients/cwl/t.cwl" }
    });
    is_echoed(cwl.clone(), cwl).await;
    let toil = json!({
        "name": "'hello' kind-hello/instance-1 v1",
        "inputs": [{ "url": "file:///tmp/clients/js", "path": "/tmp/clients/js", "type": "DIRECTORY" }],
        "resources": { "cpu_cores": 1, "ram_gb": 2.0, "disk_gb": 2.0, "preemptible": false },
        "executors": [{ "image": "localhost:5000/toil:7.0.0", "command": ["_toil_contained_executor", "x".repeat(100_000)],
                        "env": { "TOIL_WORKDIR": "/tmp" } }]
    });
    is_echoed(toil.clone(), toil).await;
    let py_tes = json!({
        "name": "x",
        "outputs": [{ "url": "file:///tmp/clients/out.txt", "path": "/data/out.txt", "type": "FILE" }],
        "executors": [{ "image": "alpine", "command": ["sh", "-c", "echo hi > /data/out.txt"], "workdir": "/data" }]
    });
    is_echoed(py_tes.clone(), py_tes).await;
}

#[tokio::test]
async fn crankshaft_finds_its_tasks_by_tag() {
    let stand = Stand::new();
    let task = |group: &str| {
        json!({ "executors": [{ "image": "alpine", "command": ["sh", "-c", "exit 3"], "ignore_error": true }],
                "tags": { "crankshaft-task-group": group } })
    };
    let first = stand.create(&task("a-1-0")).await;
    stand.create(&task("b-1-0")).await;
    let second = stand.create(&task("a-1-0")).await;
    let list = "/v1/tasks?tag_key=crankshaft-task-group&tag_value=a-1-0&page_size=2047&view=MINIMAL";
    let listed = stand.get(list).await.json();
    let task = |id| json!({ "id": id, "state": "QUEUED" });
    assert_eq!(listed, json!({ "tasks": [task(second), task(first)] }));
}

#[tokio::test]
async fn camel_case_and_small_print() {
    let sent = json!({
        "resources": { "cpuCores": 0.5, "ramGb": 1.5, "diskGb": 3, "colour": "red" },
        "executors": [{ "image": "i", "command": ["c", ""], "ignoreError": true, "workdir": "", "stdin": "",
                        "env": { "A": "1", "B": null, "C": "" } }],
        "state": "COMPLETE", "id": "mine", "logs": [{ "logs": "no" }], "creation_time": "never", "extra": { "x": [1] }
    });
    let echoed = json!({
        "resources": { "cpu_cores": 0.5, "ram_gb": 1.5, "disk_gb": 3.0 },
        "executors": [{ "image": "i", "command": ["c", ""], "ignore_error": true, "env": { "A": "1", "C": "" } }]
    });
    is_echoed(sent, echoed).await;
}
