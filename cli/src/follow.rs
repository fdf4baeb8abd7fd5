//! Follows what a task writes, event by event, to the end of the task. A connection that breaks is made again
//! where it broke off: nothing is shown twice and nothing is left out.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::client::{Client, ClientError, LogsWanted};

/// Between two tries to reach the coordinator.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a coordinator may be away before it is given up.
const LONGEST_OUTAGE: Duration = Duration::from_secs(120);

/// Something was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Event {
    /// `stdout`, `stderr`, `system`, `waiting` or `end`; a newer coordinator may know others.
    pub(crate) name: String,
    /// What was written; of `waiting`, what for; of `end`, the state of the task.
    pub(crate) text: String,
    id: String,
}

/// Tells `on_event` of everything but the end; returns the state that the task ended in.
pub(crate) async fn until_ended(
    client: &Client,
    id: &str,
    wanted: &LogsWanted,
    mut on_event: impl FnMut(Event),
) -> Result<String, ClientError> {
    let mut last_id = None;
    let mut last_heard = Instant::now();
    loop {
        let mut lines = Lines::default();
        let mut step = client.follow(id, wanted, last_id.as_deref()).await;
        while let Ok(answer) = &mut step {
            match client.piece(answer).await {
                Ok(Some(piece)) => {
                    last_heard = Instant::now();
                    for event in lines.take(&piece) {
                        // One without a place moves nobody on.
                        if !event.id.is_empty() {
                            last_id = Some(event.id.clone());
                        }
                        if event.name == "end" {
                            return Ok(event.text);
                        }
                        on_event(event);
                    }
                }
                Ok(None) => break,
                Err(error) => step = Err(error),
            }
        }
        match step {
            Err(error @ ClientError::Unreachable { .. }) if last_heard.elapsed() > LONGEST_OUTAGE => {
                return Err(error);
            }
            // The coordinator, or the way to it, went away in the middle.
            Ok(_) | Err(ClientError::Unreachable { .. }) => sleep(PAUSE).await,
            Err(error) => return Err(error),
        }
    }
}

/// Events out of the pieces in which they come.
#[derive(Default)]
struct Lines {
    unfinished: Vec<u8>,
    event: Event,
}

impl Lines {
    fn take(&mut self, piece: &[u8]) -> Vec<Event> {
        self.unfinished.extend_from_slice(piece);
        let mut events = Vec::new();
        let Some(end) = self.unfinished.iter().rposition(|byte| *byte == b'\n') else { return events };
        let rest = self.unfinished.split_off(end + 1);
        let whole = std::mem::replace(&mut self.unfinished, rest);
        for line in String::from_utf8_lossy(&whole).lines() {
            match line.split_once(": ") {
                Some(("id", id)) => self.event.id = id.to_owned(),
                Some(("event", name)) => self.event.name = name.to_owned(),
                Some(("data", data)) => {
                    let text: Option<Value> = serde_json::from_str(data).ok();
                    self.event.text = text.as_ref().and_then(Value::as_str).unwrap_or(data).to_owned();
                }
                // The empty line behind an event; one behind a comment ends nothing.
                _ if line.is_empty() && !self.event.name.is_empty() => {
                    events.push(std::mem::take(&mut self.event));
                }
                _ => {}
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_make_the_same_events() {
        let text = "id: 1-0-3-0\nevent: stdout\ndata: \"a\\nü\"\n\n: nothing new\n\nid: 2\nevent: end\ndata: \"X\"\n\n";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let events: Vec<_> = text.as_bytes().chunks(size).flat_map(|piece| lines.take(piece)).collect();
            let event = |name: &str, text: &str, id: &str| Event {
                name: name.into(),
                text: text.into(),
                id: id.into(),
            };
            assert_eq!(events, [event("stdout", "a\nü", "1-0-3-0"), event("end", "X", "2")], "{size}");
        }
    }
}
