//! The REST API as a user sees it.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::eventually;

/// Speaks to one coordinator.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    http: reqwest::Client,
}

impl Client {
    /// A client of the API at `address`.
    pub fn new(address: SocketAddr) -> Self {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
        Self { base: format!("http://{address}"), http }
    }

    /// The URL of the API.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The answer to a GET; none while nobody answers.
    pub async fn try_get(&self, path: &str) -> Option<Value> {
        let response = self.http.get(format!("{}{path}", self.base)).send().await.ok()?;
        assert!(response.status().is_success(), "GET {path}: {}", response.status());
        response.json().await.ok()
    }

    /// The answer to a GET.
    pub async fn get(&self, path: &str) -> Value {
        eventually(&format!("an answer to GET {path}"), async || self.try_get(path).await).await
    }

    /// Submits a task once; none when nobody answered, so that it may or may not have been accepted.
    pub async fn try_submit(&self, task: &Value) -> Option<String> {
        let response = self.http.post(format!("{}/v1/tasks", self.base)).json(task).send().await.ok()?;
        let status = response.status();
        let body = response.text().await.ok()?;
        assert!(status.is_success(), "submit: {status}: {body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        Some(answer["id"].as_str().expect("an id").to_owned())
    }

    /// Submits a task to a coordinator that runs.
    pub async fn submit(&self, task: &Value) -> String {
        self.try_submit(task).await.expect("the coordinator answers")
    }

    /// Posts anything; status and body.
    pub async fn post(&self, path: &str, body: String) -> (u16, Value) {
        let request = self.http.post(format!("{}{path}", self.base));
        let request = request.header("content-type", "application/json").body(body);
        let response = request.send().await.expect("the coordinator answers");
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or(Value::Null))
    }

    /// Cancels a task.
    pub async fn cancel(&self, id: &str) {
        let (status, _) = self.post(&format!("/v1/tasks/{id}:cancel"), String::new()).await;
        assert_eq!(status, 200, "cancel");
    }

    /// A task with all that there is of it.
    pub async fn task(&self, id: &str) -> Value {
        self.get(&format!("/v1/tasks/{id}?view=FULL")).await
    }

    /// The state of a task.
    pub async fn state(&self, id: &str) -> String {
        let task = self.get(&format!("/v1/tasks/{id}")).await;
        task["state"].as_str().expect("a state").to_owned()
    }

    /// Waits until a task is in this state.
    pub async fn wait_state(&self, id: &str, state: &str) {
        let mut last = String::new();
        eventually(&format!("task {id} to be {state}"), async || {
            last = self.state(id).await;
            assert!(last == state || !is_terminal(&last), "task {id} ended as {last}, not as {state}");
            (last == state).then_some(())
        })
        .await;
    }

    /// Waits for the end of a task and says all that there is of it.
    pub async fn wait(&self, id: &str) -> Value {
        eventually(&format!("the end of task {id}"), async || {
            is_terminal(&self.state(id).await).then_some(())
        })
        .await;
        self.task(id).await
    }

    /// How many tasks are in each state, by listing them all.
    pub async fn count(&self, state: &str) -> usize {
        let page = self.get(&format!("/v1/tasks?page_size=2047&state={state}")).await;
        assert!(page["next_page_token"].is_null(), "one page holds all tasks of a test");
        page["tasks"].as_array().expect("tasks").len()
    }
}

/// Whether a state is a last one.
pub fn is_terminal(state: &str) -> bool {
    matches!(state, "COMPLETE" | "EXECUTOR_ERROR" | "SYSTEM_ERROR" | "CANCELED")
}
