//! Every answer about every task, in each state and each view, can be decoded by each client; and bodies of
//! all clients are taken and shown again exactly.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

mod bodies;
mod exact;
mod types;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use teamster_integration::cluster::{Cluster, Marks, Options, shell_task};
use teamster_integration::cromwell::answer;
use teamster_integration::stand::Stand;
use types::{nextflow, pulsar, tes_crate};

/// Decodes, or says what could not be.
fn decode<T: DeserializeOwned>(client: &str, answer: &Value) -> T {
    serde_json::from_value(answer.clone())
        .unwrap_or_else(|error| panic!("{client} cannot decode this: {error}: {answer:#}"))
}

/// All views of one task, by all clients.
async fn all_can_read(cluster: &Cluster, id: &str) -> Value {
    let get = async |query: &str| cluster.client.get(&format!("/v1/tasks/{id}{query}")).await;
    for minimal in [get("").await, get("?view=MINIMAL").await] {
        decode::<exact::Minimal>("py-tes", &minimal);
        decode::<tes_crate::Minimal>("Sprocket", &minimal);
        decode::<answer::Minimal>("Cromwell", &minimal);
        decode::<nextflow::Task>("Nextflow", &minimal);
    }
    let full = get("?view=FULL").await;
    for whole in [&get("?view=BASIC").await, &full] {
        decode::<exact::Task>("py-tes", whole);
        decode::<tes_crate::Task>("Sprocket", whole);
        decode::<answer::Task>("Cromwell", whole);
        decode::<nextflow::Task>("Nextflow", whole);
        decode::<pulsar::Task>("Pulsar", whole);
    }
    full
}

async fn all_can_list(cluster: &Cluster) {
    let get = async |query: &str| cluster.client.get(&format!("/ga4gh/tes/v1/tasks?{query}")).await;
    for query in ["", "view=MINIMAL&page_size=2047", "page_size=1"] {
        let page = get(query).await;
        decode::<exact::Page<exact::Minimal>>("py-tes", &page);
        decode::<tes_crate::Page<tes_crate::Minimal>>("Sprocket", &page);
    }
    for query in ["view=BASIC", "view=FULL"] {
        let page = get(query).await;
        decode::<exact::Page<exact::Task>>("py-tes", &page);
        decode::<tes_crate::Page<tes_crate::Task>>("Sprocket", &page);
    }
}

/// A task with everything in it that can be shown.
fn rich(shared: &str, script: String) -> Value {
    let mut task = shell_task("rich", &[script]);
    task["description"] = json!("with everything");
    task["inputs"] =
        json!([{"name": "n", "description": "d", "path": "/in/text", "content": "text\n", "type": "FILE"}]);
    task["outputs"] = json!([
        {"name": "o", "path": "/out/file", "url": format!("file://{shared}/out/file"), "type": "FILE"},
        {"path": "/out/none", "url": format!("{shared}/out/none"), "type": "FILE"}
    ]);
    task["volumes"] = json!(["/scratch"]);
    task["tags"] = json!({"a": "b", "empty": "", "null": null});
    task["executors"][0]["env"] = json!({"A": "1"});
    task["executors"][0]["workdir"] = json!("/scratch");
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_in_every_state() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options { cpus: 2, ..Options::default() }).await;
    let shared = cluster.shared().display().to_string();
    fs::create_dir(cluster.shared().join("out")).unwrap();
    fs::set_permissions(cluster.shared().join("out"), fs::Permissions::from_mode(0o777)).unwrap();
    let marks = Marks::new(&cluster.shared());
    let submit = async |task: &Value| cluster.client.submit(task).await;

    let gated = format!("cat /in/text > /out/file; echo shown; {}", marks.shell_gate("gate"));
    let running = submit(&rich(&shared, gated.clone())).await;
    cluster.client.wait_state(&running, "RUNNING").await;
    let mut large = rich(&shared, gated);
    large["resources"]["cpu_cores"] = json!(2);
    let queued = submit(&large).await;
    large["resources"]["cpu_cores"] = json!(1000);
    let never = submit(&large).await;
    for (id, state) in [(&running, "RUNNING"), (&queued, "QUEUED"), (&never, "QUEUED")] {
        assert_eq!(all_can_read(&cluster, id).await["state"], state);
    }
    all_can_list(&cluster).await;
    cluster.client.cancel(&never).await;
    marks.open_gate("gate");

    let failed = submit(&rich(&shared, "echo wrong >&2; exit 5".to_owned())).await;
    let killed = submit(&rich(&shared, "exit 137".to_owned())).await;
    let mut lacking = rich(&shared, "true".to_owned());
    lacking["inputs"] = json!([{"path": "/in/x", "url": format!("{shared}/not-there"), "type": "FILE"}]);
    let lacking = submit(&lacking).await;
    let expected = [
        (&running, "COMPLETE", Some(0)),
        (&queued, "COMPLETE", Some(0)),
        (&never, "CANCELED", None),
        (&failed, "EXECUTOR_ERROR", Some(5)),
        (&killed, "EXECUTOR_ERROR", Some(137)),
        (&lacking, "SYSTEM_ERROR", None),
    ];
    for (id, state, exit_code) in expected {
        cluster.client.wait(id).await;
        let task = all_can_read(&cluster, id).await;
        assert_eq!(task["state"], state, "{task:#}");
        assert_eq!(decode::<nextflow::Task>("Nextflow", &task).exit_code(), exit_code, "{task:#}");
    }
    all_can_list(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bodies_of_all_clients() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    for (client, sent) in bodies::bodies(&cluster.shared().display().to_string()) {
        let (status, answer) = cluster.client.post("/v1/tasks", sent.to_string()).await;
        assert_eq!(status, 200, "{client}: {answer}");
        let id = answer["id"].as_str().unwrap();
        assert_eq!(answer, json!({ "id": id }), "{client}");
        all_can_read(&cluster, id).await;
        cluster.client.cancel(id).await;
        cluster.client.wait(id).await;
        let mut shown = all_can_read(&cluster, id).await;
        let ours = ["id", "state", "logs", "creation_time"];
        ours.iter().for_each(|key| drop(shown.as_object_mut().unwrap().remove(*key)));
        assert_eq!(bodies::as_shown(&shown), bodies::as_shown(&sent), "{client}");
    }
    all_can_list(&cluster).await;
}
