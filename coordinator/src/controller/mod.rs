//! The single writer. One thread: drain what arrived while the last batch went to disk, decide by the
//! model, commit everything in one transaction, and only then act: tell agents, publish the board, answer
//! callers. A failed commit ends the process; nothing that was not committed has been said to anybody.

mod act;
mod decide;
mod event;
mod handle;
mod known;
mod once;
mod rows;
mod strangers;
mod words;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use teamster_values::TaskId;
use tokio::sync::mpsc;

pub use event::Submission;
pub use event::{AgentHello, AgentOffer, Event, HeldAttempt, SessionId, SessionRefused, Stage, ToAgent};
pub use handle::{CancelAnswer, Handle, Stopped, SubmitError};
pub use once::{Digest, KeyReused, Once};

use crate::board::{Board, Progress};
use crate::cluster::{Cluster, Millis, NodeKey, Policy, Seq, Task};
use crate::disk::Room;
use crate::metrics::Metrics;
use crate::store::{Asks, LiveRow, Reader, StoreError, Writer};
use known::LiveTask;
use strangers::Strangers;

/// Events that may wait. Callers wait when it is full: a burst is felt at the door, not in memory.
const INBOX_EVENTS_MAX: usize = 4096;

/// What a controller is made of.
#[derive(Debug)]
pub struct Parts {
    /// The one writer.
    pub writer: Writer,
    /// For specs and for tasks that have ended.
    pub reader: Reader,
    /// Where the state is published.
    pub board: Arc<Board>,
    /// What the operator decided.
    pub policy: Policy,
    /// Paths of the storages that tasks may use; their order is their index in the model.
    pub storages: Vec<String>,
    /// How long tasks that have ended are kept.
    pub task_retention: Duration,
    /// How long what an attempt left that this cluster does not know is kept on its node.
    pub stranger_retention: Duration,
    /// Whether there is room for new tasks.
    pub room: Room,
    /// Where it is counted what happens.
    pub metrics: Metrics,
}

/// Restores the live tasks and starts the controller's thread. It ends when the last [`Handle`] is dropped,
/// or with the error of a failed commit.
pub fn start(parts: Parts) -> Result<(Handle, thread::JoinHandle<Result<(), StoreError>>), StoreError> {
    let (inbox, events) = mpsc::channel(INBOX_EVENTS_MAX);
    let handle = Handle::new(inbox, parts.room.clone());
    let mut controller = Controller::new(parts)?;
    controller.restore()?;
    controller.metrics.live(controller.cluster.counts());
    let thread = thread::Builder::new()
        .name("controller".to_owned())
        .spawn(move || controller.run(events))
        .expect("the process can start a thread while it starts up");
    Ok((handle, thread))
}

struct Controller {
    cluster: Cluster,
    writer: Writer,
    reader: Reader,
    board: Arc<Board>,
    storages: Vec<String>,
    task_retention: Duration,
    metrics: Metrics,
    /// See [`known`], this and the next two. Trees and not hash tables: they never stop to grow all at once, and tasks
    /// that are spoken of together lie together.
    live: BTreeMap<Seq, LiveTask>,
    seqs: BTreeMap<TaskId, Seq>,
    /// One copy of each different wish, shared by the tasks that have it.
    asks: HashSet<Arc<Asks>>,
    sessions: BTreeMap<NodeKey, Session>,
    hellos: BTreeMap<NodeKey, NodeHello>,
    progress: HashMap<Seq, Progress>,
    strangers: Strangers,
    next_seq: Seq,
    next_session: u64,
    started: Instant,
    brake_was_on: bool,
}

struct Session {
    id: SessionId,
    outbox: mpsc::Sender<ToAgent>,
}

/// What a node last said of itself, and when it came or went.
struct NodeHello {
    agent: AgentHello,
    since: Timestamp,
    /// Where the board shows it.
    place: usize,
}

impl Controller {
    fn new(parts: Parts) -> Result<Self, StoreError> {
        let next_seq = parts.reader.next_seq()?;
        Ok(Self {
            cluster: Cluster::new(parts.policy),
            writer: parts.writer,
            reader: parts.reader,
            board: parts.board,
            storages: parts.storages,
            task_retention: parts.task_retention,
            metrics: parts.metrics,
            live: BTreeMap::new(),
            seqs: BTreeMap::new(),
            asks: HashSet::new(),
            sessions: BTreeMap::new(),
            hellos: BTreeMap::new(),
            progress: HashMap::new(),
            strangers: Strangers::new(parts.stranger_retention),
            next_seq,
            next_session: 1,
            started: Instant::now(),
            brake_was_on: false,
        })
    }

    fn restore(&mut self) -> Result<(), StoreError> {
        let now = self.now();
        let live = self.reader.live()?;
        let count = live.tasks().len();
        // What is said of many tasks alike is made once.
        let kinds: Vec<_> = live.rows().iter().map(|row| self.kind(now, row)).collect();
        self.cluster.restore(now, &kinds, live.tasks().iter().map(|task| (task.seq, task.row as usize)));
        // Agents will speak of these at once.
        for (seq, id, row) in live.placed() {
            self.remember_row(seq, id, row);
        }
        tracing::info!(tasks = count, "restored the tasks that had not ended");
        Ok(())
    }

    fn kind(&mut self, now: Millis, row: &LiveRow) -> Task {
        let state = rows::state_of(row, |node| self.cluster.node_key(now, node));
        Task { request: rows::request_of(&row.asks, &self.storages), state }
    }

    fn run(mut self, mut events: mpsc::Receiver<Event>) -> Result<(), StoreError> {
        let mut batch = Vec::new();
        while let Some(first) = events.blocking_recv() {
            batch.push(first);
            while batch.len() < INBOX_EVENTS_MAX
                && let Ok(event) = events.try_recv()
            {
                batch.push(event);
            }
            self.turn(&mut batch)?;
        }
        tracing::info!("the controller has stopped");
        Ok(())
    }

    /// One batch: decide, commit, act.
    fn turn(&mut self, batch: &mut Vec<Event>) -> Result<(), StoreError> {
        let (now, began, events) = (self.now(), Instant::now(), batch.len());
        let mut decided = decide::Decided::default();
        for event in batch.drain(..) {
            self.decide(now, event, &mut decided)?;
        }
        self.cluster.schedule(now, &mut decided.effects);
        let changes = self.changes(&mut decided)?;
        let ready = Instant::now();
        self.writer.commit(&changes)?;
        let commit = (!changes.is_empty()).then(|| ready.elapsed());
        self.metrics.batch(events, ready - began, commit);
        self.act(decided)
    }

    fn now(&self) -> Millis {
        Millis(self.started.elapsed().as_millis() as u64)
    }
}
