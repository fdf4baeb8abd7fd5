//! A stand-in for the TES backend of Cromwell, which itself is too large to be run in a test. It does on the
//! wire and on the shared storage what the real one does, and is as easily put off: any answer but 2xx, and
//! any that cannot be decoded, fails the call at once; only a connection that fails is tried again.

pub mod answer;
pub mod request;
pub mod script;
pub mod user;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::redirect::Policy;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::request::{Call, Output, Roots};
use self::user::User;
use crate::cluster::PATIENCE;
use crate::stand::IMAGE;

/// How often a connection that fails is tried again.
const CONNECT_ATTEMPTS: u32 = 10;

/// Between two of these.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Between two looks at a task.
const POLL_PAUSE: Duration = Duration::from_millis(100);

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has its outputs: for each name what it holds, or of a large one its length; nothing for an
    /// optional one that is missing.
    Done(BTreeMap<String, Option<String>>),
    /// It failed, for this reason.
    Failed(String),
    /// It was aborted.
    Aborted,
}

/// A call that was submitted.
#[derive(Debug)]
pub struct Job {
    /// What was called.
    pub call: Call,
    /// The task's id.
    pub id: String,
    /// How often the FULL view was asked for, and the MINIMAL one.
    pub polls: (u32, u32),
}

/// The engine.
#[derive(Debug, Clone)]
pub struct Cromwell {
    http: reqwest::Client,
    endpoint: String,
    /// The shared tree.
    pub roots: Roots,
    /// Whom the engine runs as.
    pub user: User,
}

impl Cromwell {
    /// An engine of `user` that uses the API at `base`.
    pub fn new(base: &str, roots: Roots, user: User) -> Self {
        let http = reqwest::Client::builder()
            .user_agent("akka-http/10.1.15")
            .redirect(Policy::none())
            .http1_only()
            .pool_max_idle_per_host(4)
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        Self { http, endpoint: format!("{base}/v1/tasks"), roots, user }
    }

    /// A call from its beginning to its end.
    pub async fn run(&self, call: Call) -> Outcome {
        match self.submit(call).await {
            Ok(mut job) => self.wait(&mut job).await,
            Err(reason) => Outcome::Failed(reason),
        }
    }

    /// The engine's side of the call's execution directory.
    pub fn execution(&self, call: &Call) -> PathBuf {
        self.roots.root.join(call.below_root()).join("execution")
    }

    /// Lays out the call's directory and posts it.
    pub async fn submit(&self, call: Call) -> Result<Job, String> {
        let inputs = self.lay_out(&call)?;
        let body = self.roots.request(&call, &inputs, IMAGE, "/bin/sh");
        let created: answer::Created = self
            .exchange(|http| {
                let request = http.post(&self.endpoint).header("content-type", "application/json");
                request.body(body.to_string())
            })
            .await?;
        Ok(Job { call, id: created.id, polls: (0, 0) })
    }

    /// The inputs of the call, after everything was written that belongs to it.
    fn lay_out(&self, call: &Call) -> Result<Vec<PathBuf>, String> {
        let execution = self.execution(call);
        self.user.make_directories(&execution)?;
        let mut inputs = call.inputs.clone();
        if let Some(lines) = &call.lines {
            let path = execution.join("write_lines_0a1b2c.tmp");
            self.user.write(&path, lines)?;
            inputs.push(path);
        }
        let mut command = call.command.clone();
        for (number, input) in inputs.iter().enumerate() {
            let at = self.roots.input_path(call, input);
            command = command.replace(&format!("@INPUT{number}@"), at.to_str().unwrap());
        }
        let at = self.roots.docker_root.join(call.below_root()).join("execution");
        let script = script::script(at.to_str().unwrap(), &command, &call.globs());
        self.user.write(&execution.join("script"), &script)?;
        Ok(inputs)
    }

    /// Polls until the end and judges it.
    pub async fn wait(&self, job: &mut Job) -> Outcome {
        match tokio::time::timeout(PATIENCE, self.poll(job)).await {
            Ok(Ok(state)) => self.judge(job, &state).await,
            Ok(Err(reason)) => Outcome::Failed(reason),
            Err(_) => Outcome::Failed(format!("task {} does not end", job.id)),
        }
    }

    /// The last state. Any state that it does not know means that the task goes on.
    async fn poll(&self, job: &mut Job) -> Result<String, String> {
        let mut has_cost = false;
        loop {
            let state = if has_cost {
                job.polls.1 += 1;
                let task: answer::Minimal = self.get(&job.id, "MINIMAL").await?;
                if task.id != job.id {
                    return Err(format!("asked for {} and got {}", job.id, task.id));
                }
                task.state
            } else {
                job.polls.0 += 1;
                let task: answer::Task = self.get(&job.id, "FULL").await?;
                has_cost = task.has_cost();
                task.state.unwrap_or_default()
            };
            if ["COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED"].contains(&state.as_str()) {
                return Ok(state);
            }
            // It would wait for ever behind others, such as PREEMPTED and CANCELING.
            if !["QUEUED", "INITIALIZING", "RUNNING"].contains(&state.as_str()) {
                return Err(format!("the state {state} is none that old clients know"));
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }

    /// The verdict is the number in `rc`, unless the task itself failed.
    async fn judge(&self, job: &Job, state: &str) -> Outcome {
        let last: answer::Task = match self.get(&job.id, "FULL").await {
            Ok(task) => task,
            Err(reason) => return Outcome::Failed(reason),
        };
        match state {
            "CANCELED" => return Outcome::Aborted,
            "COMPLETE" => {}
            _ => return Outcome::Failed(format!("{state}: {}", last.reason())),
        }
        let execution = self.execution(&job.call);
        match self.user.read(&execution.join("rc")).as_deref().map(str::trim) {
            Ok("0") => self.outputs(&job.call, &execution),
            Ok("130" | "137" | "143") => Outcome::Aborted,
            Ok(code) => Outcome::Failed(format!("the command's exit code is {code}")),
            Err(reason) => Outcome::Failed(format!("there is no exit code: {reason}")),
        }
    }

    fn outputs(&self, call: &Call, execution: &Path) -> Outcome {
        let mut found = BTreeMap::new();
        for output in &call.outputs {
            let Output::Large(name) = output else { continue };
            match self.user.length_bytes(&execution.join(name)) {
                Ok(length) => found.insert((*name).to_owned(), Some(length)),
                Err(reason) => return Outcome::Failed(reason),
            };
        }
        let mut read = |name: String, is_optional: bool| match self.user.read(&execution.join(&name)) {
            Err(reason) if !is_optional => Err(Outcome::Failed(reason)),
            content => {
                let content = content.ok();
                found.insert(name, content.clone());
                Ok(content.unwrap_or_default())
            }
        };
        for output in &call.outputs {
            let result = match output {
                Output::File(name) => read((*name).to_owned(), false).map(drop),
                Output::Optional(name) => read((*name).to_owned(), true).map(drop),
                Output::Large(_) => Ok(()),
                Output::Glob(pattern) => {
                    let directory = script::glob_name(pattern);
                    read(format!("{directory}.list"), false).and_then(|list| {
                        list.lines().try_for_each(|name| read(format!("{directory}/{name}"), false).map(drop))
                    })
                }
            };
            if let Err(failed) = result {
                return failed;
            }
        }
        let streams = ["stdout", "stderr"].map(|name| read(name.to_owned(), false));
        match streams.into_iter().find_map(Result::err) {
            Some(failed) => failed,
            None => Outcome::Done(found),
        }
    }

    /// What an aborted workflow does to each of its calls. An error is only a warning to the real one; here
    /// it is returned.
    pub async fn abort(&self, job: &Job) -> Result<(), String> {
        self.user.write(&self.execution(&job.call).join("rc"), "143\n")?;
        let url = format!("{}/{}:cancel", self.endpoint, job.id);
        let answer: Value = self.exchange(|http| http.post(&url)).await?;
        if answer == serde_json::json!({}) { Ok(()) } else { Err(format!("cancel: {answer}")) }
    }

    /// All that this engine is told of a task.
    pub async fn told(&self, job: &Job) -> Result<Value, String> {
        self.get(&job.id, "FULL").await
    }

    async fn get<T: DeserializeOwned>(&self, id: &str, view: &str) -> Result<T, String> {
        let url = format!("{}/{id}?view={view}", self.endpoint);
        self.exchange(|http| http.get(&url)).await
    }

    /// One request and its answer.
    async fn exchange<T: DeserializeOwned>(
        &self,
        request: impl Fn(&reqwest::Client) -> reqwest::RequestBuilder,
    ) -> Result<T, String> {
        let mut attempt = 1;
        let response = loop {
            match request(&self.http).send().await {
                Ok(response) => break response,
                Err(error) if attempt == CONNECT_ATTEMPTS => return Err(error.to_string()),
                Err(_) => attempt += 1,
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        };
        let status = response.status();
        let kind = response.headers().get("content-type").cloned();
        let body = response.text().await.map_err(|error| error.to_string())?;
        if !status.is_success() || kind.as_ref().is_none_or(|kind| kind != "application/json") {
            return Err(format!("{status}, {kind:?}: {body}"));
        }
        serde_json::from_str(&body).map_err(|error| format!("{error} in {body}"))
    }
}
