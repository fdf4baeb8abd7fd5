//! Waits for tasks to end by asking after them, gently. A coordinator that is away for a while, as during
//! an upgrade, does not end the wait.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::client::{Client, ClientError, View};

/// The state of a task that did what it should.
pub(crate) const COMPLETE: &str = "COMPLETE";
/// The states that a task never leaves.
const TERMINAL: [&str; 5] = [COMPLETE, "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED", "PREEMPTED"];
/// Short tasks are the ones that somebody sits and waits for.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a coordinator may be away before the wait is given up.
const LONGEST_OUTAGE: Duration = Duration::from_secs(120);

/// A task has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended<'a> {
    pub(crate) id: &'a str,
    pub(crate) state: &'a str,
}

/// Asks until every task has ended, and tells `on_end` of each as it does.
pub(crate) async fn until_ended(
    client: &Client,
    ids: &[String],
    mut on_end: impl FnMut(Ended<'_>),
) -> Result<(), ClientError> {
    let mut waiting: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut pause = FIRST_PAUSE;
    let mut last_heard = Instant::now();
    loop {
        let mut still_waiting = Vec::new();
        for id in &waiting {
            match client.get(id, View::Minimal).await {
                Ok(task) => {
                    last_heard = Instant::now();
                    let state = task.get("state").and_then(Value::as_str).unwrap_or_default();
                    if TERMINAL.contains(&state) {
                        on_end(Ended { id, state });
                    } else {
                        still_waiting.push(*id);
                    }
                }
                Err(ClientError::Unreachable { .. }) if last_heard.elapsed() < LONGEST_OUTAGE => {
                    still_waiting.push(*id);
                }
                Err(error) => return Err(error),
            }
        }
        if still_waiting.is_empty() {
            return Ok(());
        }
        // Something moved, so more may move soon.
        pause = if still_waiting.len() < waiting.len() { FIRST_PAUSE } else { longer(pause) };
        waiting = still_waiting;
        sleep(pause).await;
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 3 / 2).min(LONGEST_PAUSE)
}

/// A bar over `count` tasks on standard error; invisible where that is not a terminal.
pub(crate) fn bar(count: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} ended, {elapsed}")
        .expect("the template is a constant that a test draws");
    let bar = ProgressBar::new(count as u64).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// A spinner with words on standard error; invisible where that is not a terminal.
pub(crate) fn spinner(words: String) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(words);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_can_be_drawn() {
        bar(3).inc(1);
        spinner("x".into()).finish_and_clear();
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut pause = FIRST_PAUSE;
        for _ in 0..20 {
            pause = longer(pause);
        }
        assert_eq!(pause, LONGEST_PAUSE);
    }
}
