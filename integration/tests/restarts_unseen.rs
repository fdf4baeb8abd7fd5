//! Engines give a task up at the first 5xx, and at the first 404 of an id that they were given. Clients that
//! ask every few milliseconds while the coordinator is killed, stopped and started again see answers or
//! connections that fail, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use teamster_integration::cluster::{eventually, teamster};
use teamster_integration::loopback::free_address;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a client waits between two questions.
const INTERVAL: Duration = Duration::from_millis(5);

/// A coordinator without agents, as a process.
struct Coordinator {
    dir: PathBuf,
    http: SocketAddr,
    agents: SocketAddr,
    child: Option<Child>,
}

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    /// Every id that was given out.
    ids: Mutex<Vec<String>>,
    answered: AtomicUsize,
    failed: AtomicUsize,
}

impl Coordinator {
    fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), http: free_address(), agents: free_address(), child: None }
    }

    fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let child = Command::new(teamster())
            .arg("coordinator")
            .env("TEAMSTER_DATA_DIR", self.dir.join("data"))
            .env("TEAMSTER_HTTP", self.http.to_string())
            .env("TEAMSTER_AGENTS", self.agents.to_string())
            .env("TEAMSTER_GRPC", "127.0.0.1:0")
            .env("TEAMSTER_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        assert!(self.child.replace(child.unwrap()).is_none(), "it ran already");
    }

    /// Ends it by a signal, and returns when it has gone.
    fn end(&mut self, signal: Signal) {
        let mut child = self.child.take().expect("it runs");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.success(), signal == Signal::SIGTERM, "{status}");
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Seen {
    /// Notes one exchange and returns the answer, if there was one. Whatever is answered must be a success.
    async fn note(&self, what: &str, sent: reqwest::Result<reqwest::Response>) -> Option<Value> {
        let answer = match sent {
            Ok(response) => {
                let status = response.status();
                // An answer may break off in the middle; its status counts all the same.
                let body = response.text().await;
                assert_eq!(status, 200, "{what}: {body:?}");
                body
            }
            Err(error) => Err(error),
        };
        match answer {
            Ok(body) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                Some(serde_json::from_str(&body).unwrap())
            }
            Err(error) => {
                assert!(!error.is_timeout(), "{what}: {error}");
                self.failed.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    fn last_id(&self) -> Option<String> {
        self.ids.lock().unwrap().last().cloned()
    }
}

async fn submit(base: String, seen: Arc<Seen>, stop: CancellationToken) {
    let client = reqwest::Client::new();
    let task = json!({ "executors": [{ "image": "i", "command": ["c"] }] });
    while !stop.is_cancelled() {
        let sent = client.post(format!("{base}/v1/tasks")).json(&task).send().await;
        if let Some(answer) = seen.note("POST", sent).await {
            seen.ids.lock().unwrap().push(answer["id"].as_str().unwrap().to_owned());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Asks for the task that was accepted last, and for the first one.
async fn poll(base: String, seen: Arc<Seen>, stop: CancellationToken) {
    let client = reqwest::Client::new();
    while !stop.is_cancelled() {
        let first = seen.ids.lock().unwrap().first().cloned();
        for id in seen.last_id().into_iter().chain(first) {
            let sent = client.get(format!("{base}/ga4gh/tes/v1/tasks/{id}")).send().await;
            if let Some(answer) = seen.note("GET", sent).await {
                assert_eq!(answer, json!({ "id": id, "state": "QUEUED" }));
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_see_answers_or_failed_connections() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    let mut coordinator = Coordinator::new(dir.path());
    coordinator.start();
    let (seen, stop) = (Arc::new(Seen::default()), CancellationToken::new());
    let base = format!("http://{}", coordinator.http);
    let mut clients = JoinSet::new();
    for _ in 0..2 {
        clients.spawn(submit(base.clone(), seen.clone(), stop.clone()));
        clients.spawn(poll(base.clone(), seen.clone(), stop.clone()));
    }
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL, Signal::SIGTERM] {
        go_on(&seen.answered).await;
        coordinator.end(signal);
        go_on(&seen.failed).await;
        coordinator.start();
    }
    go_on(&seen.answered).await;
    stop.cancel();
    while let Some(client) = clients.join_next().await {
        client.expect("no client saw what it must not see");
    }
    let client = reqwest::Client::new();
    let ids = seen.ids.lock().unwrap().clone();
    for id in &ids {
        let sent = client.get(format!("{base}/v1/tasks/{id}")).send().await;
        seen.note("GET", sent).await.expect("what was accepted is there");
    }
}

/// Waits until clients have seen some more of one kind.
async fn go_on(count: &AtomicUsize) {
    let enough = count.load(Ordering::Relaxed) + 20;
    eventually("the clients to go on", async || (count.load(Ordering::Relaxed) >= enough).then_some(()))
        .await;
}
