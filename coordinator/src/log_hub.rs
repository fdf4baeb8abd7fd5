//! Parts of live logs, from the agents that have them to the readers who ask. Pulled, never pushed: with no
//! reader no bytes travel, a slow reader asks less often, and what waits here is bounded by what was asked
//! for. It keeps no log, knows no task's state, and never goes through controller or model.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use teamster_values::TaskId;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// The most bytes of one part.
pub const PART_BYTES_MAX: usize = 64 << 10;

/// Requests that one node may have open. Each answer is one part, so this bounds what a node's readers can
/// make us hold; more readers than this wait for each other.
const OPEN_REQUESTS_MAX: usize = 512;

/// How long a node may take to answer, beyond the wait that it was asked for.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// One of the two streams of an executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What is asked of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadLog {
    /// The task.
    pub task: TaskId,
    /// Which attempt at it.
    pub attempt: u32,
    /// Index of the executor.
    pub executor: u32,
    /// Which of its streams.
    pub stream: LogStream,
    /// From this byte on.
    pub offset: u64,
    /// At most so many bytes; none asks for the size alone.
    pub bytes_max: usize,
    /// How long the node may wait for something to be there.
    pub wait: Duration,
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// The bytes from the offset on; empty at the end, and when the wait was in vain.
    pub data: Vec<u8>,
    /// How much has been written so far.
    pub size_bytes: u64,
    /// Whether the executor has ended, so that nothing follows after `size_bytes`.
    pub has_ended: bool,
}

/// Why a node gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// Its agent is not connected, or went away before it answered.
    #[error("the node is not connected")]
    NoNode,
    /// It has no such log, or none any more.
    #[error("the node has no such log")]
    NotHere,
    /// It has too much to answer, or does not answer.
    #[error("the node does not answer")]
    Busy,
}

/// A request on its way to an agent.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Goes with the answer.
    pub(crate) number: u64,
    /// What is asked.
    pub(crate) read: ReadLog,
}

type Answer = Result<LogPart, Unread>;

/// Where readers and agents meet.
#[derive(Debug, Default)]
pub struct LogHub {
    nodes: Mutex<HashMap<String, Link>>,
    stop: CancellationToken,
}

/// The way to one agent.
#[derive(Debug)]
struct Link {
    /// Tells a link from the one that took its place.
    generation: u64,
    requests: mpsc::Sender<Asked>,
    open: HashMap<u64, oneshot::Sender<Answer>>,
    next_number: u64,
}

impl LogHub {
    /// A hub that serves until `stop`.
    pub fn new(stop: CancellationToken) -> Self {
        Self { nodes: Mutex::default(), stop }
    }

    /// Whether the coordinator is stopping, so that whoever follows a log has to come back later.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits, unless the coordinator is stopping.
    pub async fn pause(&self, time: Duration) {
        // Dropping a sleep loses nothing.
        self.stop.run_until_cancelled(tokio::time::sleep(time)).await;
    }

    /// Asks `node` for a part of a log.
    pub async fn read(&self, node: &str, read: ReadLog) -> Answer {
        let deadline = read.wait + ANSWER_DEADLINE;
        let (number, answer) = self.ask(node, read)?;
        // A reader that goes away in the middle takes its place in the table along.
        let _open = Open { hub: self, node, number };
        // Dropping a wait for an answer is what a reader that goes away does, too.
        match self.stop.run_until_cancelled(tokio::time::timeout(deadline, answer)).await {
            Some(Ok(answer)) => answer.unwrap_or(Err(Unread::NoNode)),
            Some(Err(_)) => Err(Unread::Busy),
            None => Err(Unread::NoNode),
        }
    }

    fn ask(&self, node: &str, read: ReadLog) -> Result<(u64, oneshot::Receiver<Answer>), Unread> {
        let mut nodes = self.lock();
        let link = nodes.get_mut(node).ok_or(Unread::NoNode)?;
        if link.open.len() >= OPEN_REQUESTS_MAX {
            return Err(Unread::Busy);
        }
        let number = link.next_number;
        let asked = Asked { number, read };
        link.requests.try_send(asked).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unread::Busy,
            mpsc::error::TrySendError::Closed(_) => Unread::NoNode,
        })?;
        link.next_number += 1;
        let (reply, answer) = oneshot::channel();
        link.open.insert(number, reply);
        Ok((number, answer))
    }

    /// An agent offers the logs of `node`. It takes the place of the one before, whose readers are told.
    pub(crate) fn attach(self: &Arc<Self>, node: &str) -> (Attached, mpsc::Receiver<Asked>) {
        let (requests, asked) = mpsc::channel(OPEN_REQUESTS_MAX);
        let mut nodes = self.lock();
        // Numbers go on, so that a late answer of the link before is nobody's.
        let before = nodes.remove(node).map_or((0, 0), |link| (link.generation, link.next_number));
        let generation = before.0 + 1;
        nodes.insert(
            node.to_owned(),
            Link { generation, requests, open: HashMap::new(), next_number: before.1 + 1 },
        );
        (Attached { hub: self.clone(), node: node.to_owned(), generation }, asked)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Link>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the table of open requests.
struct Open<'h> {
    hub: &'h LogHub,
    node: &'h str,
    number: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(link) = self.hub.lock().get_mut(self.node) {
            link.open.remove(&self.number);
        }
    }
}

/// An agent that offers its logs. Dropping it ends the offer and tells whoever waits.
#[derive(Debug)]
pub(crate) struct Attached {
    hub: Arc<LogHub>,
    node: String,
    generation: u64,
}

impl Attached {
    /// The answer to request `number`. Whoever asked may be gone by now.
    pub(crate) fn answered(&self, number: u64, answer: Answer) {
        let mut nodes = self.hub.lock();
        let link = nodes.get_mut(&self.node).filter(|link| link.generation == self.generation);
        if let Some(reply) = link.and_then(|link| link.open.remove(&number)) {
            let _ = reply.send(answer);
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut nodes = self.hub.lock();
        if nodes.get(&self.node).is_some_and(|link| link.generation == self.generation) {
            nodes.remove(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(offset: u64) -> ReadLog {
        let task = TaskId::from_bytes([1; 16]);
        let stream = LogStream::Stdout;
        ReadLog { task, attempt: 1, executor: 0, stream, offset, bytes_max: 10, wait: Duration::ZERO }
    }

    fn part(data: &[u8]) -> LogPart {
        LogPart { data: data.to_vec(), size_bytes: data.len() as u64, has_ended: false }
    }

    #[tokio::test]
    async fn readers_get_their_own_answers_in_any_order() {
        let hub = Arc::new(LogHub::default());
        let (attached, mut asked) = hub.attach("n");
        let answering = async {
            let mut requests = Vec::new();
            for _ in 0..100 {
                requests.push(asked.recv().await.unwrap());
            }
            for request in requests.into_iter().rev() {
                attached.answered(request.number, Ok(part(request.read.offset.to_string().as_bytes())));
                // Twice, and for nobody: neither may disturb anything.
                attached.answered(request.number, Err(Unread::NotHere));
                attached.answered(9999, Err(Unread::NotHere));
            }
        };
        let reading = futures_util::future::join_all((0..100).map(|offset| hub.read("n", read(offset))));
        let (answers, ()) = tokio::join!(reading, answering);
        for (offset, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.unwrap(), part(offset.to_string().as_bytes()));
        }
        assert!(hub.lock()["n"].open.is_empty());
    }

    #[tokio::test]
    async fn an_agent_that_goes_or_is_replaced_tells_its_readers() {
        let hub = Arc::new(LogHub::default());
        assert_eq!(hub.read("n", read(0)).await, Err(Unread::NoNode));
        let (first, mut asked) = hub.attach("n");
        let replacing = async {
            asked.recv().await.unwrap();
            hub.attach("n")
        };
        let (answer, (second, mut asked_again)) = tokio::join!(hub.read("n", read(0)), replacing);
        assert_eq!(answer, Err(Unread::NoNode));
        // The end of the first, which comes late, takes nothing from the second.
        drop(first);
        let answering = async {
            let request = asked_again.recv().await.unwrap();
            second.answered(request.number, Ok(part(b"x")));
        };
        assert_eq!(tokio::join!(hub.read("n", read(0)), answering).0, Ok(part(b"x")));
        drop(second);
        assert_eq!(hub.read("n", read(0)).await, Err(Unread::NoNode));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_agent_is_given_up_and_its_table_is_bounded() {
        let hub = Arc::new(LogHub::default());
        let (_attached, mut asked) = hub.attach("n");
        assert_eq!(hub.read("n", read(0)).await, Err(Unread::Busy));
        assert!(hub.lock()["n"].open.is_empty(), "who gives up leaves nothing behind");
        asked.recv().await.unwrap();
        let mut waiting: Vec<_> =
            (0..OPEN_REQUESTS_MAX as u64).map(|n| Box::pin(hub.read("n", read(n)))).collect();
        for reading in &mut waiting {
            assert!(futures_util::poll!(reading).is_pending());
        }
        assert_eq!(hub.read("n", read(0)).await, Err(Unread::Busy));
        waiting.clear();
        assert!(hub.lock()["n"].open.is_empty());
    }
}
