//! A stand for tests: the real router over a real store and the real controller, without a listener.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::Value;
use teamster_values::{AbsolutePath, TaskId};
use tempfile::TempDir;
use tower::ServiceExt;

use super::{ApiState, router};
use crate::board::Board;
use crate::cluster::Policy;
use crate::config::Config;
use crate::controller::{self, Parts};
use crate::disk::{Guard, HOLD, Room};
use crate::metrics::Metrics;
use crate::store::{self, Change, Opened};

/// Paths of the shared storage of the stand.
pub(super) const STORAGE: [&str; 2] = ["/mnt/shared", "/tmp/clients"];

pub(super) struct Stand {
    router: Router,
    _directory: TempDir,
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// The state over a database in `data_dir` that holds `rows` before the controller starts.
pub(super) fn state(data_dir: &Path, rows: &[Change]) -> ApiState {
    // Nobody looks at the disk, so it always has room.
    let metrics = Metrics::new(Arc::new(Board::default()));
    let room = Guard::new(data_dir, 0, HOLD, metrics).1;
    state_with(data_dir, rows, room, Config::default())
}

/// The same with its disk under somebody's eyes, and with what an operator may decide.
pub(super) fn state_with(data_dir: &Path, rows: &[Change], room: Room, config: Config) -> ApiState {
    let Opened { mut writer, reader, cluster_id, secret, .. } = store::open(data_dir).unwrap();
    writer.commit(rows).unwrap();
    let board = Arc::new(Board::default());
    let policy = Policy {
        retry_started_always: false,
        attempts_max: 4,
        lease_millis: 3_600_000,
        preemptible_lease_millis: 120_000,
        lease_margin_millis: 120_000,
    };
    let storages = STORAGE.map(str::to_owned).to_vec();
    let metrics = Metrics::new(board.clone());
    let parts = Parts {
        writer,
        reader: reader.clone(),
        board: board.clone(),
        policy,
        storages,
        task_retention: config.task_retention.0,
        stranger_retention: config.stranger_retention.0,
        room,
        metrics: metrics.clone(),
    };
    let (controller, _) = controller::start(parts).unwrap();
    let storage = STORAGE.map(|path| AbsolutePath::parse(path).unwrap()).to_vec();
    let config = Arc::new(Config { storage, ..config });
    let (log_hub, admission) = Default::default();
    ApiState { controller, reader, board, metrics, log_hub, config, cluster_id, secret, admission }
}

pub(super) async fn send(router: Router, request: Request<Body>) -> Answer {
    let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    Answer { status: parts.status, headers: parts.headers, body }
}

impl Stand {
    pub(super) fn new() -> Self {
        Self::with(&[])
    }

    /// A stand whose database holds `rows` already.
    pub(super) fn with(rows: &[Change]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = state(directory.path(), rows);
        Self::of(state, directory)
    }

    /// A stand over `state`.
    pub(super) fn of(state: ApiState, directory: TempDir) -> Self {
        Self { router: router(state), _directory: directory }
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        send(self.router.clone(), request).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(super) async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(Request::post(path).body(body.into()).unwrap()).await
    }

    /// Submits a task that must be taken, and returns its id.
    pub(super) async fn create(&self, task: &Value) -> TaskId {
        let answer = self.post("/v1/tasks", task.to_string()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let json = answer.json();
        assert_eq!(json.as_object().unwrap().len(), 1, "an id and nothing else: {json}");
        json["id"].as_str().unwrap().parse().unwrap()
    }

    /// Submits what must be refused, and returns the message.
    pub(super) async fn refused(&self, body: impl Into<Body>) -> String {
        let answer = self.post("/v1/tasks", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text());
        let json = answer.json();
        assert_eq!(json["status_code"], 400);
        json["msg"].as_str().unwrap().to_owned()
    }
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json", "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }
}
