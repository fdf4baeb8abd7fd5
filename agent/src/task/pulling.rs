//! What the coordinator hears while an image comes: how far its pull is, now and then. It changes nothing
//! about the pull, and nothing that is said here is ever needed.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, interval_at};

use super::run::Run;
use crate::assignment::{Report, Stage};

/// A pull that is over by then is not worth a word before its result.
const FIRST_NOTE: Duration = Duration::from_secs(1);

/// Between two words about one pull: often enough for people, and seldom enough for a coordinator whose nodes
/// all pull at once.
const NOTE_INTERVAL: Duration = Duration::from_secs(3);

/// The longest line. A reference may be long, and its figures must still be read.
const NOTE_CHARACTERS_MAX: usize = 500;

impl Run {
    /// Does `work`, which gets the image `reference`, and tells meanwhile how far its pull is.
    pub(super) async fn telling_of<T>(&self, reference: &str, work: impl Future<Output = T>) -> T {
        let has_told = AtomicBool::new(false);
        let tell = async {
            let mut tick = interval_at(Instant::now() + FIRST_NOTE, NOTE_INTERVAL);
            loop {
                tick.tick().await;
                // The images of a task that has begun to run are on the node; if not, it is too late for this.
                let is_prepared_now = matches!(self.attempt.stage(), Stage::Preparing);
                if let Some(line) = self.node.runtime.pulling(reference).filter(|_| is_prepared_now) {
                    let line = line.chars().take(NOTE_CHARACTERS_MAX).collect();
                    has_told.store(true, Ordering::Relaxed);
                    self.report(Report::Note(self.id(), line)).await;
                }
            }
        };
        // What is left of telling may be dropped anywhere.
        let done = tokio::select! {
            biased;
            done = work => done,
            never = tell => never,
        };
        if has_told.load(Ordering::Relaxed) {
            // Its inputs may still be on their way: nobody shall read then that the image is.
            self.report(Report::Progress(self.id(), self.attempt.stage())).await;
        }
        done
    }
}
