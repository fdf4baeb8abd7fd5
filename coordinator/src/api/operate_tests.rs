//! What operators rely on: figures, readiness, the sweep of what ended long ago, and a disk that fills up.

use std::fs;
use std::time::Duration;

use serde_json::json;
use teamster_values::{Period, TaskId};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::stand::{self, Stand};
use super::tests::{exchange, post, rows, task_id};
use crate::config::Config;
use crate::controller::{CancelAnswer, Event};
use crate::disk::{Guard, HOLD};
use crate::metrics::Metrics;
use crate::store::small_disk::SmallDisk;
use crate::store::{self, ListQuery, Want};

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn figures_follow_what_happens() {
    let stand = Stand::with(&rows());
    let has = async |lines: &[&str]| {
        let text = stand.get("/metrics").await.text();
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    };
    has(&[
        "teamster_tasks{state=\"QUEUED\"} 2",
        "teamster_tasks{state=\"RUNNING\"} 1",
        "teamster_tasks_ended_total{state=\"CANCELED\"} 0",
        "teamster_nodes{state=\"READY\"} 0",
        "teamster_commit_duration_seconds_count 0",
    ])
    .await;
    let id = task_id(3);
    assert_eq!(stand.post(&format!("/v1/tasks/{id}:cancel"), "").await.status, 200);
    assert_eq!(stand.post("/v1/tasks", "{}").await.status, 400);
    assert_eq!(stand.get("/some/made/up/path").await.status, 404);
    has(&[
        "teamster_tasks{state=\"QUEUED\"} 1",
        "teamster_tasks_ended_total{state=\"CANCELED\"} 1",
        "teamster_commit_duration_seconds_count 1",
        "teamster_batch_events_count 1",
        "teamster_http_requests_total{method=\"POST\",route=\"/v1/tasks/{id}\",status=\"2xx\"} 1",
        "teamster_http_requests_total{method=\"POST\",route=\"/v1/tasks\",status=\"4xx\"} 1",
        "teamster_http_requests_total{method=\"GET\",route=\"other\",status=\"4xx\"} 1",
        "teamster_http_requests_total{method=\"GET\",route=\"/metrics\",status=\"2xx\"} 1",
    ])
    .await;
}

#[tokio::test]
async fn ended_tasks_are_swept_when_they_were_kept_long_enough() {
    for (retention, is_swept) in [(Duration::ZERO, true), (Duration::from_secs(3600), false)] {
        let directory = tempfile::tempdir().unwrap();
        let config = Config { task_retention: Period(retention), ..Config::default() };
        let (_, room) = Guard::new(directory.path(), 0, HOLD, Metrics::new(Default::default()));
        let state = stand::state_with(directory.path(), &rows(), room, config);
        let (reader, controller) = (state.reader.clone(), state.controller.clone());
        // The clock of the index counts milliseconds.
        tokio::time::sleep(Duration::from_millis(5)).await;
        controller.post(Event::Tick).await.unwrap();
        // Its answer comes after the commit of the tick.
        assert_eq!(
            controller.cancel(TaskId::from_bytes([99; 16]), String::new()).await.unwrap(),
            CancelAnswer::Unknown
        );
        let ended = reader.task(&task_id(1), Want::Everything).unwrap();
        assert_eq!(ended.is_none(), is_swept);
        let left = reader.list(&ListQuery::newest(9)).unwrap().tasks.len();
        assert_eq!(left, if is_swept { 3 } else { 4 }, "live tasks are never swept");
        let answer = if is_swept { CancelAnswer::Unknown } else { CancelAnswer::Accepted };
        assert_eq!(controller.cancel(task_id(1), String::new()).await.unwrap(), answer);
        let figure = format!("teamster_tasks_swept_total {}", u8::from(is_swept));
        assert!(state.metrics.text().contains(&figure));
    }
}

#[tokio::test]
async fn a_low_disk_holds_new_tasks_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(directory.path().join("disk"), "size=24m") else { return };
    let metrics = Metrics::new(Default::default());
    // A floor of 8 MiB, so a ballast of half a MiB.
    let (mut guard, room) = Guard::new(&disk.0, 8 << 20, Duration::from_millis(400), metrics);
    let state = stand::state_with(&disk.0, &rows(), room, Config::default());
    let (ballast, filler) = (disk.0.join("ballast"), disk.0.join("filler"));
    guard.check();
    assert_eq!(fs::metadata(&ballast).unwrap().len(), 512 << 10);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serving = super::serve(listener, state, shutdown.clone());
    let asking = async {
        let task = json!({ "executors": [{ "image": "i", "command": ["c"] }] }).to_string();
        let is_taken = |answer: &str| answer.starts_with("HTTP/1.1 200 OK\r\n");
        assert!(is_taken(&exchange(address, &post("/v1/tasks", &task)).await));

        fs::write(&filler, vec![1; 16 << 20]).unwrap();
        guard.check();
        assert!(ballast.exists(), "half of the floor is far from nothing");
        assert_eq!(exchange(address, &post("/v1/tasks", &task)).await, "", "held, then dropped");
        for path in ["/v1/tasks", "/readyz", &format!("/v1/tasks/{}", task_id(2))] {
            assert!(is_taken(&exchange(address, &get(path)).await), "{path}");
        }

        // Until nothing is left at all: what it takes to end a task lies in the ballast.
        let mut full = fs::OpenOptions::new().append(true).open(&filler).unwrap();
        while std::io::Write::write_all(&mut full, &[1; 4096]).is_ok() {}
        drop(full);
        guard.check();
        assert!(!ballast.exists());
        let cancel = post(&format!("/v1/tasks/{}:cancel", task_id(3)), "");
        assert!(is_taken(&exchange(address, &cancel).await));
        let canceled = exchange(address, &get(&format!("/v1/tasks/{}", task_id(3)))).await;
        assert!(canceled.contains("CANCELED"), "{canceled}");

        fs::remove_file(&filler).unwrap();
        let create = post("/v1/tasks", &task);
        let held = exchange(address, &create);
        let later = async {
            tokio::task::yield_now().await;
            guard.check();
        };
        let (held, ()) = tokio::join!(held, later);
        assert!(is_taken(&held), "held until there was room: {held}");
        assert!(ballast.exists(), "put back");
        shutdown.cancel();
    };
    let (served, ()) = tokio::join!(serving, asking);
    served.unwrap();
    // Waits until the controller's thread has let go of the disk.
    drop(store::open(&disk.0).unwrap());
}
