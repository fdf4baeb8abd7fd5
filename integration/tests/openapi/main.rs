//! `/openapi.json` against a coordinator that runs, with a node that has run something: every route is in the
//! document and every answer there can be had, and whatever is answered has the form that it says.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

mod schema;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};
use teamster_coordinator::api::{self, Route};
use teamster_integration::client::Client;
use teamster_integration::coordinator::Coordinator;
use teamster_integration::fake_node::{FakeNode, fake_task};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use schema::{faults, resolve};

/// Answers that this test does not bring about: a body that takes a minute, a store that cannot be read.
const UNSEEN: [&str; 2] = ["408", "503"];

/// The document, and what was seen of it.
struct Checker {
    base: String,
    http: reqwest::Client,
    document: Value,
    /// Method, path, status and media type.
    seen: BTreeSet<[String; 4]>,
}

/// What came back.
struct Answer {
    status: String,
    form: String,
    text: String,
}

/// Every documented operation under every one of its servers, with what the document says of it.
fn documented(document: &Value) -> Vec<(String, String, &Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let servers = item.get("servers").unwrap_or(&document["servers"]).as_array().unwrap();
        for server in servers {
            let base = server["url"].as_str().unwrap().trim_end_matches('/');
            for method in ["get", "post", "put", "patch", "delete"] {
                let operation =
                    item.get(method).map(|operation| (method.into(), format!("{base}{path}"), operation));
                found.extend(operation);
            }
        }
    }
    found
}

impl Checker {
    async fn new(address: SocketAddr) -> Self {
        let (base, http) = (format!("http://{address}"), reqwest::Client::new());
        let document = http.get(format!("{base}/openapi.json")).send().await.unwrap().json().await.unwrap();
        Self { base, http, document, seen: BTreeSet::new() }
    }

    /// Holds an answer to what the document says of `method` and `path`.
    fn check(&mut self, method: &str, path: &str, answer: &Answer) {
        let Answer { status, form, text } = answer;
        let all = documented(&self.document);
        let operation = all.iter().find(|(known, at, _)| known == method && at == path);
        let (_, _, operation) = operation.unwrap_or_else(|| panic!("{method} {path} is not documented"));
        let mut response = &operation["responses"][status];
        assert!(response.is_object(), "{method} {path}: {status} is not documented: {text}");
        if let Some(reference) = response["$ref"].as_str() {
            response = resolve(&self.document, reference);
        }
        let schema = &response["content"][form]["schema"];
        assert!(schema.is_object(), "{method} {path}: {form} is not documented");
        let value = match form.as_str() {
            "application/json" => serde_json::from_str(text).unwrap(),
            _ => Value::String(text.clone()),
        };
        assert_eq!(faults(&self.document, schema, &value, path), Vec::<String>::new(), "{value:#}");
        self.seen.insert([method, path, status, form].map(str::to_owned));
    }

    /// Sends a request to a path of the document, and checks its answer.
    async fn ask(&mut self, method: &str, path: &str, change: impl FnOnce(Asking) -> Asking) -> Answer {
        let asking = change(Asking { path: path.to_owned(), query: "", headers: Vec::new(), body: None });
        let url = format!("{}{}{}", self.base, asking.path, asking.query);
        let mut request = self.http.request(method.to_uppercase().parse().unwrap(), url);
        for (name, value) in asking.headers {
            request = request.header(name, value);
        }
        if let Some(body) = asking.body {
            request = request.body(body);
        }
        let answer = request.send().await.unwrap();
        let form = answer.headers()["content-type"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let status = answer.status().as_str().to_owned();
        let answer = Answer { status, form, text: answer.text().await.unwrap() };
        self.check(method, path, &answer);
        answer
    }

    /// Announces a body that is too large, and checks the answer.
    async fn announce_too_much(&mut self, path: &str) {
        let mut stream = TcpStream::connect(self.base.strip_prefix("http://").unwrap()).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", (32 << 20) + 1);
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-type: application/json"), "{head}");
        let status = head.split(' ').nth(1).unwrap().to_owned();
        self.check("post", path, &Answer { status, form: "application/json".into(), text: text.into() });
    }
}

/// A request that is being made.
struct Asking {
    path: String,
    query: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: Option<String>,
}

impl Asking {
    fn of(mut self, id: &str) -> Self {
        self.path = self.path.replace("{id}", id);
        self
    }

    fn query(self, query: &'static str) -> Self {
        Self { query, ..self }
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    fn body(self, body: &Value) -> Self {
        Self { body: Some(body.to_string()), ..self }
    }
}

/// A task with every field that there is, and a key that nobody knows. It waits for ever.
fn whole() -> Value {
    json!({
        "name": "n", "description": "d", "tags": { "k": "v" }, "volumes": ["/v"], "unheard_of": {},
        "resources": { "cpu_cores": 1e5, "ram_gb": 0.5, "disk_gb": 1, "preemptible": true, "zones": ["z"],
                       "backend_parameters": { "Timeout": "2h", "entrypoint": "image", "queue": "long" },
                       "backend_parameters_strict": false },
        "inputs": [{ "path": "/i", "url": "/mnt/shared/i", "name": "i", "type": "DIRECTORY", "streamable": true },
                   { "path": "/c", "content": "c", "description": "d" }],
        "outputs": [{ "path": "/o", "url": "file:///mnt/shared/o", "description": "o", "type": "FILE" },
                    { "path": "/w/*", "path_prefix": "/w", "url": "/mnt/shared/w", "name": "w" }],
        "executors": [{ "image": "i", "command": ["c"], "workdir": "/w", "stdin": "/s", "stdout": "/out",
                        "stderr": "/err", "env": { "A": "b" }, "ignore_error": true }],
    })
}

/// Asks for everything that is under `prefix`.
async fn ask_everything(checker: &mut Checker, client: &Client, prefix: &str) {
    let at = |path: &str| format!("{prefix}{path}");
    let (tasks, one, logs) = (at("/tasks"), at("/tasks/{id}"), at("/tasks/{id}/logs"));
    for path in ["/service-info", "/tasks/service-info"] {
        checker.ask("get", &at(path), |asking| asking).await;
    }
    let schema = json!({ "$ref": "#/components/schemas/NewTask" });
    assert_eq!(faults(&checker.document, &schema, &whole(), "NewTask"), Vec::<String>::new());
    let named = |asking: Asking| asking.header("idempotency-key", "once");
    let created = async |checker: &mut Checker, task: &Value| {
        let answer = checker.ask("post", &tasks, |asking| asking.body(task)).await;
        assert_eq!(answer.status, "200");
        serde_json::from_str::<Value>(&answer.text).unwrap()["id"].as_str().unwrap().to_owned()
    };
    let waiting = created(checker, &whole()).await;
    let ended = created(checker, &fake_task(&["print", "hello"])).await;
    let failed = created(checker, &fake_task(&["exit", "3"])).await;
    let running = created(checker, &fake_task(&["ignore-term"])).await;
    client.wait(&ended).await;
    client.wait(&failed).await;
    client.wait_state(&running, "RUNNING").await;
    for (task, status) in
        [(&fake_task(&["exit", "0"]), "200"), (&fake_task(&["exit", "1"]), "409"), (&json!({}), "400")]
    {
        let answer = checker.ask("post", &tasks, |asking| named(asking).body(task)).await;
        assert_eq!(answer.status, status);
    }
    let foreign = |asking: Asking| asking.header("origin", "http://evil.example");
    assert_eq!(checker.ask("post", &tasks, |asking| foreign(asking).body(&whole())).await.status, "403");
    checker.announce_too_much(&tasks).await;
    for query in ["", "?view=BASIC&page_size=2", "?view=FULL", "?state=COMPLETE&tag_key=k", "?page_size=0"] {
        checker.ask("get", &tasks, |asking| asking.query(query)).await;
    }
    for id in [&waiting, &ended, &failed, &running, "unknown"] {
        for query in ["", "?view=BASIC", "?view=FULL", "?view=ALL"] {
            checker.ask("get", &one, |asking| asking.of(id).query(query)).await;
        }
        for query in ["", "?stream=stdout&executor=0&tail=3", "?stream=x"] {
            checker.ask("get", &logs, |asking| asking.of(id).query(query)).await;
        }
        checker.ask("get", &logs, |asking| asking.of(id).header("accept", "text/plain")).await;
    }
    checker.ask("get", &logs, |asking| asking.of(&ended).query("?follow=true")).await;
    let cancel = at("/tasks/{id}:cancel");
    for id in [&waiting, &ended, &running, "unknown"] {
        checker.ask("post", &cancel, |asking| asking.of(id)).await;
    }
    checker.ask("post", &cancel, |asking| foreign(asking).of(&ended)).await;
    client.wait(&running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_and_what_is_served_are_one() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path(), "storage = ['/mnt/shared']\nheartbeat = '200ms'").await;
    let node = FakeNode::start(dir.path(), coordinator.agents);
    let mut checker = Checker::new(coordinator.http).await;
    for prefix in ["/v1", "/ga4gh/tes/v1"] {
        ask_everything(&mut checker, &coordinator.client(), prefix).await;
    }
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/nodes"] {
        checker.ask("get", path, |asking| asking).await;
    }
    for (method, path, operation) in documented(&checker.document) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let reference = response["$ref"].as_str();
            let response = reference.map_or(response, |reference| resolve(&checker.document, reference));
            for form in response["content"].as_object().unwrap().keys() {
                let key = [&method, &path, status, form].map(String::clone);
                let is_seen = checker.seen.contains(&key);
                assert_ne!(is_seen, UNSEEN.contains(&status.as_str()), "{key:?} is answered");
            }
        }
    }
    node.stop().await;
}

#[test]
fn the_check_is_not_blind() {
    let served: BTreeSet<_> = api::served().into_iter().collect();
    assert_eq!(served.len(), api::served().len(), "no route is declared twice");
    assert!(
        served.contains(&Route { method: "POST".parse().unwrap(), path: "/v1/tasks/{id}:cancel".into() })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_in_the_document_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path(), "").await;
    let checker = Checker::new(coordinator.http).await;
    let documented: BTreeSet<_> = documented(&checker.document)
        .into_iter()
        .map(|(method, path, _)| Route { method: method.to_uppercase().parse().unwrap(), path })
        .collect();
    let served: BTreeSet<_> = api::served().into_iter().collect();
    assert_eq!(documented, served);
}
