//! One watcher of one task. A watcher costs nothing between changes, and reads the task only when its reader
//! has taken what came before: whoever is slow finds the latest state, and the last one always.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::unfold;
use teamster_proto::tes::v1 as wire;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::super::error::ApiError;
use super::super::response::View;
use super::super::{Api, tasks};
use super::answer;
use crate::board::Watch;
use crate::store::Want;

/// What a watcher is told.
pub(super) type Watching = Pin<Box<dyn Stream<Item = Result<wire::WatchTaskResponse, Status>> + Send>>;

struct Watcher {
    api: Arc<Api>,
    id: String,
    seq: u64,
    view: View,
    shutdown: CancellationToken,
    watch: Watch,
    last: Option<wire::WatchTaskResponse>,
}

/// Watches the caller's task `id`.
pub(super) fn begin(
    api: Arc<Api>,
    id: String,
    view: View,
    shutdown: CancellationToken,
) -> Result<Watching, ApiError> {
    let seq = tasks::find(&api, &id, Want::Status)?.seq;
    // Before the first look at what is told, so that no change falls between the two.
    let watch = api.state.board.watch(seq);
    let watcher = Watcher { api, id, seq, view, shutdown, watch, last: None };
    Ok(Box::pin(unfold(Some(watcher), async |watcher| {
        let mut watcher = watcher?;
        match watcher.next().await {
            Ok(news) if is_last(&news) => Some((Ok(news), None)),
            Ok(news) => Some((Ok(news), Some(watcher))),
            Err(status) => Some((Err(status), None)),
        }
    })))
}

impl Watcher {
    /// The task when it looks otherwise than last time. Cancel safe: what is not returned is not noted.
    async fn next(&mut self) -> Result<wire::WatchTaskResponse, Status> {
        loop {
            if self.last.is_some() {
                tokio::select! {
                    // An end that is known is told before the stop.
                    biased;
                    () = self.watch.changed() => {}
                    () = self.shutdown.cancelled() => return Err(ApiError::Passing.into()),
                }
            }
            let news = self.look()?;
            if self.last.as_ref() != Some(&news) {
                self.last = Some(news.clone());
                return Ok(news);
            }
        }
    }

    fn look(&self) -> Result<wire::WatchTaskResponse, ApiError> {
        let task = answer::task(tasks::read(&self.api, &self.id, self.view, false)?);
        let runs = task.state() == wire::State::Running;
        let progress = self.api.state.board.progress(self.seq).filter(|_| runs).and_then(answer::progress);
        Ok(wire::WatchTaskResponse { task: Some(task), progress })
    }
}

/// Whether nothing can follow: the task is in a terminal state.
fn is_last(news: &wire::WatchTaskResponse) -> bool {
    use wire::State::{Canceled, Complete, ExecutorError, SystemError};
    let state = news.task.as_ref().map(wire::Task::state);
    matches!(state, Some(Complete | ExecutorError | SystemError | Canceled))
}
