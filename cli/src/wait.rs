//! Waits for tasks to end: by being told where the coordinator's gRPC API can be reached, else by asking,
//! gently. A coordinator that is away for a while, as during an upgrade, does not end the wait.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::client::{Client, ClientError, View};
use crate::table;
use crate::watch::{Watch, WatchError};

/// The state of a task that did what it should.
pub(crate) const COMPLETE: &str = "COMPLETE";
/// The states that a task never leaves.
const TERMINAL: [&str; 5] = [COMPLETE, "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED", "PREEMPTED"];
/// Short tasks are the ones that somebody sits and waits for.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a coordinator may be away before the wait is given up.
const LONGEST_OUTAGE: Duration = Duration::from_secs(120);

/// A task is in another state than before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct News<'a> {
    pub(crate) id: &'a str,
    pub(crate) state: &'a str,
}

/// Whether a task in this state has ended.
pub(crate) fn is_terminal(state: &str) -> bool {
    TERMINAL.contains(&state)
}

/// Waits until every task has ended, and tells `on_news` of the states on the way.
pub(crate) async fn until_ended(
    client: &Client,
    watch: &Watch,
    ids: &[String],
    mut on_news: impl FnMut(News<'_>),
) -> Result<(), ClientError> {
    // The state of each that was last told; none while nothing is known.
    let mut states: BTreeMap<&str, String> = ids.iter().map(|id| (id.as_str(), String::new())).collect();
    let mut pause = FIRST_PAUSE;
    let mut last_heard: Option<Instant> = None;
    let reason = loop {
        let waiting = still_waiting(&states);
        let followed = watch.follow(&waiting, |id, state| {
            last_heard = Some(Instant::now());
            pause = FIRST_PAUSE;
            tell(&mut states, id, state, &mut on_news);
        });
        match followed.await {
            Ok(()) if still_waiting(&states).is_empty() => return Ok(()),
            // It was there, so it comes back, as after an upgrade.
            Ok(()) | Err(WatchError::Gone(_))
                if last_heard.is_some_and(|heard| heard.elapsed() < LONGEST_OUTAGE) =>
            {
                sleep(pause).await;
                pause = longer(pause);
            }
            Ok(()) => break "it tells nothing".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    let address = watch.address();
    table::write_error(&format!(
        "teamster: cannot watch at {address} ({reason}); asking again and again instead\n"
    ));
    ask_until_ended(client, &mut states, last_heard.unwrap_or_else(Instant::now), on_news).await
}

async fn ask_until_ended(
    client: &Client,
    states: &mut BTreeMap<&str, String>,
    mut last_heard: Instant,
    mut on_news: impl FnMut(News<'_>),
) -> Result<(), ClientError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let waiting: Vec<String> = still_waiting(states).into_iter().map(str::to_owned).collect();
        for id in &waiting {
            match client.get(id, View::Minimal).await {
                Ok(task) => {
                    last_heard = Instant::now();
                    let state = task.get("state").and_then(Value::as_str).unwrap_or_default();
                    tell(states, id, state, &mut on_news);
                }
                Err(ClientError::Unreachable { .. }) if last_heard.elapsed() < LONGEST_OUTAGE => {}
                Err(error) => return Err(error),
            }
        }
        let left = still_waiting(states).len();
        if left == 0 {
            return Ok(());
        }
        // Something moved, so more may move soon.
        pause = if left < waiting.len() { FIRST_PAUSE } else { longer(pause) };
        sleep(pause).await;
    }
}

fn still_waiting<'a>(states: &BTreeMap<&'a str, String>) -> Vec<&'a str> {
    states.iter().filter(|(_, state)| !is_terminal(state)).map(|(id, _)| *id).collect()
}

fn tell(states: &mut BTreeMap<&str, String>, id: &str, state: &str, on_news: &mut impl FnMut(News<'_>)) {
    if let Some(known) = states.get_mut(id)
        && known != state
    {
        state.clone_into(known);
        on_news(News { id, state });
    }
}

/// How many are in each state: `2 COMPLETE, 1 RUNNING`.
pub(crate) fn counts<'a>(states: impl IntoIterator<Item = &'a String>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for state in states {
        *counts.entry(state).or_default() += 1;
    }
    let counts: Vec<_> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    counts.join(", ")
}

fn longer(pause: Duration) -> Duration {
    (pause * 3 / 2).min(LONGEST_PAUSE)
}

/// A bar over `count` tasks on standard error; invisible where that is not a terminal.
pub(crate) fn bar(count: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} ended ({msg}), {elapsed}")
        .expect("the template is a constant that a test draws");
    let bar = ProgressBar::new(count as u64).with_style(style).with_message("…");
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
    fn states_are_counted_and_told_once() {
        let mut states = BTreeMap::from([("a", String::new()), ("b", String::new())]);
        let mut told = Vec::new();
        let all = [("a", "RUNNING"), ("a", "RUNNING"), ("x", "RUNNING"), ("a", COMPLETE), ("b", "QUEUED")];
        for (id, state) in all {
            tell(&mut states, id, state, &mut |news: News<'_>| {
                told.push(format!("{} {}", news.id, news.state))
            });
        }
        assert_eq!(told, ["a RUNNING", "a COMPLETE", "b QUEUED"]);
        assert_eq!(counts(states.values()), "1 COMPLETE, 1 QUEUED");
        assert_eq!(still_waiting(&states), ["b"]);
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
