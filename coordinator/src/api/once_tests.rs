//! Requests that come more than once, the short form, and what the system log says of what was left out.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::future::join_all;
use serde_json::{Value, json};
use teamster_values::TaskId;
use tokio::task::JoinSet;

use super::stand::{self, Answer, Stand};
use super::{ApiState, router};
use crate::config::Config;

fn task(name: &str) -> String {
    json!({ "name": name, "executors": [{ "image": "i", "command": ["c"] }] }).to_string()
}

async fn post(stand: &Stand, key: &str, body: &str) -> Answer {
    let request = Request::post("/v1/tasks").header("Idempotency-Key", key);
    stand.send(request.body(Body::from(body.to_owned())).unwrap()).await
}

fn id(answer: &Answer) -> TaskId {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().parse().unwrap()
}

async fn count(stand: &Stand) -> usize {
    stand.get("/v1/tasks").await.json()["tasks"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_make_one_task() {
    let directory = tempfile::tempdir().unwrap();
    let state = stand::state(directory.path(), &[]);
    let mut asking = JoinSet::new();
    for number in 0..100 {
        let router = router(state.clone());
        asking.spawn(async move {
            let prefix = if number % 2 == 0 { "/v1" } else { "/ga4gh/tes/v1" };
            let request = Request::post(format!("{prefix}/tasks")).header("idempotency-key", "k");
            let answer = stand::send(router, request.body(Body::from(task("t"))).unwrap()).await;
            id(&answer)
        });
    }
    let ids = asking.join_all().await;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let stand = Stand::of(state, directory);
    assert_eq!(count(&stand).await, 1);

    let rewritten = r#" {"executors":[{"command":["c"],"image":"i","env":null,"x":1}],"tags":{},"name":"t","id":"mine"} "#;
    assert_eq!(id(&post(&stand, "k", rewritten).await), ids[0], "the task is compared, not its text");
    let other = post(&stand, "k", &task("u")).await;
    assert_eq!((other.status, other.json()["status_code"].clone()), (StatusCode::CONFLICT, json!(409)));
    assert_eq!(other.json()["msg"], "this Idempotency-Key was used before, for another task");
    assert_ne!(id(&post(&stand, "K", &task("t")).await), ids[0], "a key is taken as it is");
    assert_eq!(count(&stand).await, 2);
}

#[tokio::test]
async fn twins_that_are_decided_on_together_are_one() {
    let stand = Stand::new();
    // While the first is put on disk the others come, so twins among them find nothing of each other there.
    let body = task("t");
    let keys: Vec<_> = (0..100).map(|number| format!("k{}", number / 2)).collect();
    let answers = join_all(keys.iter().map(|key| post(&stand, key, &body))).await;
    let ids: Vec<_> = answers.iter().map(id).collect();
    assert!(ids.chunks(2).all(|twins| twins[0] == twins[1]), "{ids:?}");
    assert_eq!(count(&stand).await, 50);
}

#[tokio::test]
async fn a_refused_request_uses_up_no_key() {
    let stand = Stand::new();
    assert_eq!(post(&stand, "k", "{}").await.status, StatusCode::BAD_REQUEST);
    let first = id(&post(&stand, "k", &task("t")).await);
    assert_eq!(id(&post(&stand, "k", &task("t")).await), first);
    for key in ["", "two words", "é", &"k".repeat(256)] {
        let answer = post(&stand, key, &task("t")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{key:?}");
        assert!(answer.json()["msg"].as_str().unwrap().starts_with("Idempotency-Key: must be"));
    }
    let twice = Request::post("/v1/tasks").header("idempotency-key", "a").header("idempotency-key", "b");
    let answer = stand.send(twice.body(Body::from(task("t"))).unwrap()).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(count(&stand).await, 1);
    // Without a key each request is one of its own.
    assert_ne!(id(&stand.post("/v1/tasks", task("t")).await), id(&stand.post("/v1/tasks", task("t")).await));
}

#[tokio::test]
async fn keys_are_remembered_over_a_restart_for_as_long_as_they_count() {
    let directory = tempfile::tempdir().unwrap();
    let first = {
        let stand = Stand::of(stand::state(directory.path(), &[]), tempfile::tempdir().unwrap());
        id(&post(&stand, "k", &task("t")).await)
    };
    let old = crate::store::RememberedRequest {
        id: TaskId::from_bytes([9; 16]),
        digest: "task:other".into(),
        until: jiff::Timestamp::UNIX_EPOCH,
    };
    let old =
        crate::store::Change::Remembered { owner: "anonymous".into(), key: "key:old".into(), request: old };
    let stand = Stand::of(stand::state(directory.path(), &[old]), tempfile::tempdir().unwrap());
    assert_eq!(id(&post(&stand, "k", &task("t")).await), first);
    assert_eq!(post(&stand, "k", &task("u")).await.status, StatusCode::CONFLICT);
    let again = id(&post(&stand, "old", &task("t")).await);
    assert_eq!(id(&post(&stand, "old", &task("t")).await), again, "the old one no longer counts");
}

fn configured(config: Config) -> Stand {
    let directory = tempfile::tempdir().unwrap();
    let state = stand::state(directory.path(), &[]);
    let config = Config { storage: state.config.storage.clone(), ..config };
    Stand::of(ApiState { config: config.into(), ..state }, directory)
}

#[tokio::test]
async fn a_call_of_cromwell_is_taken_once_where_the_operator_says_so() {
    let call = |workflow: Value, description: &str| {
        json!({ "description": description, "tags": { "workflow_id": workflow },
                "executors": [{ "image": "i", "command": ["c"] }] })
        .to_string()
    };
    let first = call(json!("w"), "w:call:-1:1");
    for (deduplicate_cromwell, expected) in [(true, 1), (false, 2)] {
        let stand = configured(Config { deduplicate_cromwell, ..Config::default() });
        for _ in 0..2 {
            id(&stand.post("/v1/tasks", first.clone()).await);
        }
        assert_eq!(count(&stand).await, expected);
        // Another attempt, another workflow, and what no call of Cromwell is.
        let others =
            [call(json!("w"), "w:call:-1:2"), call(json!("v"), "w:call:-1:1"), call(json!(null), "d")];
        for other in others.iter().chain([&others[2], &call(json!("w"), ""), &call(json!("w"), "")]) {
            id(&stand.post("/v1/tasks", other.clone()).await);
        }
        assert_eq!(count(&stand).await, expected + 6);
    }
}

#[tokio::test]
async fn the_short_form_needs_the_operators_image() {
    let short = json!({ "name": "s", "commandLine": ["echo", "hi"] });
    assert_eq!(
        Stand::new().refused(short.to_string()).await,
        "commandLine: needs an image, and `default_image` is not set in the coordinator's configuration; \
         give `executors` instead"
    );
    let stand = configured(Config { default_image: Some("busybox".into()), ..Config::default() });
    let id = stand.create(&short).await;
    let shown = stand.get(&format!("/v1/tasks/{id}?view=BASIC")).await.json();
    assert_eq!(shown["executors"], json!([{ "image": "busybox", "command": ["echo", "hi"] }]));
    assert!(shown.get("commandLine").is_none(), "answers are TES");
    for (sent, message) in [
        (json!({ "commandLine": [] }), "commandLine: must have at least one element"),
        (json!({ "commandLine": "echo" }), "commandLine: must be a list, not a string"),
        (json!({ "commandLine": [""] }), "commandLine[0]: must not be empty"),
        (json!({ "commandLine": null }), "executors: is required"),
        (json!({ "commandLine": ["c"], "executors": [] }), "executors: must have at least one element"),
    ] {
        assert_eq!(stand.refused(sent.to_string()).await, message);
    }
}

#[tokio::test]
async fn unsupported_backend_parameters_are_told_and_stay_told() {
    let stand = Stand::new();
    let task = |parameters: Value| {
        json!({ "resources": { "cpu_cores": 1, "backend_parameters": parameters },
                "executors": [{ "image": "i", "command": ["c"] }] })
    };
    let logs = async |id: TaskId| stand.get(&format!("/v1/tasks/{id}?view=FULL")).await.json();
    let id = stand.create(&task(json!({ "VmSize": "x", "internal_path_prefix": "/x", "b": null }))).await;
    let warning = "warning: unsupported backend_parameters were ignored: \"VmSize\"";
    let shown = logs(id).await;
    assert_eq!(shown["logs"][0]["system_logs"][0], warning);
    assert_eq!(shown["resources"], json!({ "cpu_cores": 1 }));
    stand.post(&format!("/v1/tasks/{id}:cancel"), "").await;
    let ended = logs(id).await;
    assert_eq!(ended["state"], "CANCELED");
    let canceled = "CANCELED: canceled by somebody over REST";
    assert_eq!(ended["logs"][0]["system_logs"], json!([warning, canceled]));
    let quiet = task(json!({ "Internal_Path_Prefix": "/x", "workflow_execution_identity": "me" }));
    let id = stand.create(&quiet).await;
    assert!(!logs(id).await["logs"].to_string().contains("backend_parameters"));
    let supported = stand.get("/v1/service-info").await.json();
    assert_eq!(supported["tesResources_backend_parameters"], json!(["entrypoint", "network", "timeout"]));
}

#[tokio::test]
async fn the_operator_names_the_organization() {
    let stand = configured(Config {
        organization_name: "Institute".into(),
        organization_url: "https://example.org/".into(),
        ..Config::default()
    });
    let shown = stand.get("/ga4gh/tes/v1/service-info").await.json();
    assert_eq!(shown["organization"], json!({ "name": "Institute", "url": "https://example.org/" }));
}
