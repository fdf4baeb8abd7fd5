//! Speaks HTTP to the coordinator: one method per question. It knows paths, deadlines and how errors look,
//! and leaves it to the verbs what to make of an answer.

use std::time::Duration;

use reqwest::{Client as Http, Method, Response, StatusCode, Url};
use serde_json::Value;

use crate::args::ServerArgs;

/// The longest that one answer may take. A coordinator holds a request while it is busy, so this is ample.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// The most tasks that are looked through for a shortened id.
const SEARCHED_TASKS: usize = 10_000;
const PAGE_SIZE: usize = 1000;
/// Characters of a whole task id.
const ID_LENGTH: usize = 26;

/// A coordinator to talk to.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: Http,
    base: Url,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The server's address makes no sense.
    #[error("--server '{url}' is not a URL such as http://127.0.0.1:8000: {reason}")]
    Address { url: String, reason: String },
    /// Nobody answers there.
    #[error(
        "cannot reach the coordinator at {base} ({reason}); is it running? `teamster up` starts one, --server or TEAMSTER_SERVER names another"
    )]
    Unreachable { base: Url, reason: String },
    /// The coordinator says no.
    #[error("the coordinator refused: {message} (HTTP {})", status.as_u16())]
    Refused { status: StatusCode, message: String },
    /// Somebody answers, but it is no TES server.
    #[error("the answer of {base} is not that of a coordinator: {reason}")]
    Garbled { base: Url, reason: String },
    /// A shortened id names no task, or several.
    #[error("'{id}' {problem}")]
    Id { id: String, problem: String },
}

/// How much of a task is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum View {
    /// Only id and state
    Minimal,
    /// All but file contents and log text
    Basic,
    /// Everything
    Full,
}

impl View {
    fn name(self) -> &'static str {
        match self {
            Self::Minimal => "MINIMAL",
            Self::Basic => "BASIC",
            Self::Full => "FULL",
        }
    }
}

/// One of a task's three logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Stream {
    /// What its commands wrote to standard output
    Stdout,
    /// What its commands wrote to standard error
    Stderr,
    /// What Teamster has to say about it
    System,
}

/// How much of a task's logs is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LogsWanted {
    /// Only this one.
    pub(crate) stream: Option<Stream>,
    /// Only so many bytes of the end.
    pub(crate) tail: Option<u64>,
}

impl LogsWanted {
    fn add_to(&self, url: &mut Url) {
        let mut query = url.query_pairs_mut();
        if let Some(stream) = self.stream {
            query.append_pair("stream", stream.name());
        }
        if let Some(tail) = self.tail {
            query.append_pair("tail", &tail.to_string());
        }
    }
}

impl From<Stream> for LogsWanted {
    fn from(stream: Stream) -> Self {
        Self { stream: Some(stream), tail: None }
    }
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::System => "system",
        }
    }
}

/// Which tasks a list shall hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) state: Option<String>,
    pub(crate) name_prefix: Option<String>,
}

impl Client {
    /// A client for the server that the user means.
    pub(crate) fn new(args: &ServerArgs) -> Result<Self, ClientError> {
        let refuse = |reason: &str| ClientError::Address { url: args.server.clone(), reason: reason.into() };
        let base = Url::parse(&args.server).map_err(|error| refuse(&error.to_string()))?;
        let Some(host) = base.host_str() else { return Err(refuse("it names no host")) };
        if base.scheme() != "http" {
            return Err(refuse("only http is spoken"));
        }
        let mut http = Http::builder().timeout(ANSWER_DEADLINE).connect_timeout(CONNECT_DEADLINE);
        if ["localhost", "127.0.0.1", "[::1]"].contains(&host) {
            // A proxy for the world outside cannot reach this machine's own loopback.
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| refuse(&innermost(&error)))?;
        Ok(Self { http, base })
    }

    /// Host of the server, as it stands in URLs.
    pub(crate) fn host(&self) -> &str {
        self.base.host_str().expect("a URL without a host is refused")
    }

    /// Submits a task and returns its id.
    pub(crate) async fn create(&self, task: &Value) -> Result<String, ClientError> {
        let answer = self.ask(Method::POST, self.url(&["v1", "tasks"]), Some(task)).await?;
        let id = answer.get("id").and_then(Value::as_str);
        id.map(str::to_owned).ok_or_else(|| self.garbled("a create without an id"))
    }

    /// One task.
    pub(crate) async fn get(&self, id: &str, view: View) -> Result<Value, ClientError> {
        let mut url = self.url(&["v1", "tasks", id]);
        url.query_pairs_mut().append_pair("view", view.name());
        self.ask(Method::GET, url, None).await
    }

    /// Asks for a task to end.
    pub(crate) async fn cancel(&self, id: &str) -> Result<(), ClientError> {
        self.ask(Method::POST, self.url(&["v1", "tasks", &format!("{id}:cancel")]), None).await?;
        Ok(())
    }

    /// The newest tasks that `filter` lets through, newest first, at most `limit`.
    pub(crate) async fn list(
        &self,
        filter: &Filter,
        view: View,
        limit: usize,
    ) -> Result<Vec<Value>, ClientError> {
        let mut tasks = Vec::new();
        let mut page_token: Option<String> = None;
        while tasks.len() < limit {
            let mut url = self.url(&["v1", "tasks"]);
            {
                let mut query = url.query_pairs_mut();
                query.append_pair("view", view.name());
                query.append_pair("page_size", &(limit - tasks.len()).min(PAGE_SIZE).to_string());
                let optional = [
                    ("state", &filter.state),
                    ("name_prefix", &filter.name_prefix),
                    ("page_token", &page_token),
                ];
                for (name, value) in optional {
                    if let Some(value) = value {
                        query.append_pair(name, value);
                    }
                }
            }
            let mut answer = self.ask(Method::GET, url, None).await?;
            let Some(Value::Array(page)) = answer.get_mut("tasks").map(Value::take) else {
                return Err(self.garbled("a list without tasks"));
            };
            tasks.extend(page);
            page_token = answer.get("next_page_token").and_then(Value::as_str).map(str::to_owned);
            if page_token.as_deref().unwrap_or_default().is_empty() {
                break;
            }
        }
        tasks.truncate(limit);
        Ok(tasks)
    }

    /// What the last attempt at a task wrote, or the end of it.
    pub(crate) async fn log(&self, id: &str, wanted: &LogsWanted) -> Result<Response, ClientError> {
        let mut url = self.url(&["v1", "tasks", id, "logs"]);
        wanted.add_to(&mut url);
        self.answered(self.http.get(url).timeout(Duration::MAX)).await
    }

    /// The same as it grows, as server-sent events; from after `last_id` where there is one.
    pub(crate) async fn follow(
        &self,
        id: &str,
        wanted: &LogsWanted,
        last_id: Option<&str>,
    ) -> Result<Response, ClientError> {
        let mut url = self.url(&["v1", "tasks", id, "logs"]);
        url.query_pairs_mut().append_pair("follow", "true");
        wanted.add_to(&mut url);
        // The deadline is for each piece, not for a task that may run for days.
        let mut request = self.http.get(url).timeout(Duration::MAX);
        if let Some(last_id) = last_id {
            request = request.header("last-event-id", last_id);
        }
        self.answered(request).await
    }

    /// Every node that the coordinator knows.
    pub(crate) async fn nodes(&self) -> Result<Vec<Value>, ClientError> {
        let mut answer = self.ask(Method::GET, self.url(&["v1", "nodes"]), None).await?;
        match answer.get_mut("nodes").map(Value::take) {
            Some(Value::Array(nodes)) => Ok(nodes),
            _ => Err(self.garbled("a list without nodes")),
        }
    }

    /// Whether the coordinator says that it is well.
    pub(crate) async fn is_healthy(&self) -> bool {
        let answer = self.http.get(self.url(&["healthz"])).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// The whole id that `id` stands for: itself when it is whole, else the one recent task whose id begins
    /// so. Tables show such beginnings.
    pub(crate) async fn resolve(&self, id: &str) -> Result<String, ClientError> {
        let refuse = |problem: &str| Err(ClientError::Id { id: id.into(), problem: problem.into() });
        if !id.bytes().all(|b| b.is_ascii_alphanumeric()) || id.is_empty() {
            return refuse("is not a task id: one has 26 letters and digits, or the first few of them");
        }
        if id.len() >= ID_LENGTH {
            return Ok(id.to_owned());
        }
        let recent = self.list(&Filter::default(), View::Minimal, SEARCHED_TASKS).await?;
        let mut matching =
            recent.iter().filter_map(|task| task.get("id")?.as_str()).filter(|known| known.starts_with(id));
        match (matching.next(), matching.next()) {
            (Some(known), None) => Ok(known.to_owned()),
            (None, _) => refuse("is not the beginning of any recent task's id"),
            (Some(_), Some(_)) => refuse("is the beginning of several tasks' ids; write more of it"),
        }
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("an http URL has a path").pop_if_empty().extend(path);
        url
    }

    async fn ask(&self, method: Method, url: Url, body: Option<&Value>) -> Result<Value, ClientError> {
        let text = self.text(method, url, body).await?;
        serde_json::from_str(&text).map_err(|error| self.garbled(&error.to_string()))
    }

    async fn text(&self, method: Method, url: Url, body: Option<&Value>) -> Result<String, ClientError> {
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = self.answered(request).await?;
        answer.text().await.map_err(|error| self.unreachable(&error))
    }

    async fn answered(&self, request: reqwest::RequestBuilder) -> Result<Response, ClientError> {
        let sent = tokio::time::timeout(ANSWER_DEADLINE, request.send()).await;
        let sent = sent.map_err(|_| self.silent())?;
        let answer = sent.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(ClientError::Refused { status, message: reason_in(answer).await });
        }
        Ok(answer)
    }

    /// The next piece of a long answer; none at its end.
    pub(crate) async fn piece(&self, answer: &mut Response) -> Result<Option<Vec<u8>>, ClientError> {
        let piece = tokio::time::timeout(ANSWER_DEADLINE, answer.chunk()).await;
        let piece = piece.map_err(|_| self.silent())?.map_err(|error| self.unreachable(&error))?;
        Ok(piece.map(Vec::from))
    }

    fn silent(&self) -> ClientError {
        ClientError::Unreachable { base: self.base.clone(), reason: "it does not answer".to_owned() }
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        ClientError::Unreachable { base: self.base.clone(), reason: innermost(error) }
    }

    fn garbled(&self, reason: &str) -> ClientError {
        ClientError::Garbled { base: self.base.clone(), reason: reason.into() }
    }
}

/// The `msg` of an error document, or the bare text where it is none.
async fn reason_in(answer: Response) -> String {
    let text = answer.text().await.unwrap_or_default();
    let document: Option<Value> = serde_json::from_str(&text).ok();
    let message = document.as_ref().and_then(|d| d.get("msg")).and_then(Value::as_str);
    message.unwrap_or(text.trim()).to_owned()
}

/// The innermost cause: the outer ones only repeat the URL, or say that there is one.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(server: &str) -> Result<Client, ClientError> {
        Client::new(&ServerArgs { server: server.into() })
    }

    #[test]
    fn builds_urls_below_any_base() {
        let plain = client("http://127.0.0.1:8000").unwrap();
        assert_eq!(plain.url(&["v1", "tasks"]).as_str(), "http://127.0.0.1:8000/v1/tasks");
        let nested = client("http://gate/tes/").unwrap();
        assert_eq!(nested.url(&["v1", "tasks", "a:cancel"]).as_str(), "http://gate/tes/v1/tasks/a:cancel");
        assert_eq!(plain.url(&["v1", "tasks", "../x"]).path(), "/v1/tasks/..%2Fx");
    }

    #[test]
    fn refuses_what_is_no_server() {
        for server in ["127.0.0.1:8000", "https://host", "", "mailto:a@b"] {
            assert!(matches!(client(server), Err(ClientError::Address { .. })), "{server}");
        }
    }
}
