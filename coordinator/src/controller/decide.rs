//! Events in, decisions out. Everything that needs an id, a session or a text is here; what follows for
//! tasks and nodes is the model's word.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use teamster_values::{TaskId, parse_storage_url};
use tokio::sync::{mpsc, oneshot};

use super::act::Reply;
use super::event::{AgentHello, AgentOffer, HeldAttempt, SessionId, SessionRefused, Stage, ToAgent};
use super::known::{Found, LiveTask};
use super::once::Remembered;
use super::{CancelAnswer, Controller, Event, KeyReused, NodeHello, Session, Submission, rows, words};
use crate::attempt_log::AttemptLog;
use crate::board::Progress;
use crate::cluster::{
    self, Effects, Held, HeldStage, Millis, NodeKey, Offer, Placement, Resources, Seq, StorageSet,
};
use crate::spec::TaskSpec;
use crate::store::{Asks, Ended, ForgottenRequest, StoreError};

/// Ended tasks that one tick removes at most: a commit of some milliseconds, and more than a thousand a
/// second at two ticks.
const SWEPT_AT_ONCE_MAX: usize = 512;

/// What a batch came to.
#[derive(Default)]
pub(super) struct Decided {
    /// What the model says.
    pub(super) effects: Effects,
    /// Tasks that were accepted, in order.
    pub(super) accepted: Vec<Accepted>,
    /// Requests that are to be taken once.
    pub(super) remembered: Remembered,
    /// Such requests that no longer count.
    pub(super) forgotten: Vec<ForgottenRequest>,
    /// Words for the system logs of tasks that have not ended, or end with this batch.
    pub(super) notes: Vec<(Seq, String)>,
    /// What agents said of attempts that ended.
    pub(super) logs: HashMap<(Seq, u32), AttemptLog>,
    /// Commands about attempts that are none of this cluster's live tasks'.
    pub(super) strangers: Vec<(NodeKey, ToAgent)>,
    /// Tasks that were kept long enough.
    pub(super) swept: Vec<Ended>,
    /// Answers that may be given once the batch is on disk.
    pub(super) replies: Vec<Reply>,
    /// Tasks of which another executor runs now.
    pub(super) progressed: Vec<Seq>,
    /// Nodes that the board shows otherwise now.
    pub(super) nodes_changed: BTreeSet<NodeKey>,
}

/// A task that was accepted.
pub(super) struct Accepted {
    pub(super) seq: Seq,
    pub(super) id: TaskId,
    pub(super) owner: String,
    pub(super) spec: Arc<TaskSpec>,
    pub(super) asks: Arc<Asks>,
    pub(super) notes: Vec<String>,
}

impl Controller {
    pub(super) fn decide(
        &mut self,
        now: Millis,
        event: Event,
        decided: &mut Decided,
    ) -> Result<(), StoreError> {
        match event {
            Event::Submitted { submission, reply } => self.submitted(now, *submission, reply, decided)?,
            Event::CancelRequested { task, by, reply } => {
                self.cancel_requested(now, task, &by, reply, decided)?;
            }
            Event::AgentConnected { agent, held, outbox, reply } => {
                self.agent_connected(now, *agent, held, outbox, reply, decided)?;
            }
            Event::AgentOffer { session, offer } => self.agent_offer(now, session, offer, decided),
            Event::AgentReported { session, reports } => {
                let Some(key) = self.node_of(session) else { return Ok(()) };
                for report in reports {
                    if let Some(held) = self.known(key, report, decided)? {
                        self.cluster.handle(now, cluster::Event::Reported(key, held), &mut decided.effects);
                    }
                }
            }
            Event::AgentDisconnected { session } => {
                if let Some(key) = self.node_of(session) {
                    self.drop_session(now, key, decided);
                }
            }
            Event::Tick => {
                self.cluster.handle(now, cluster::Event::Tick, &mut decided.effects);
                self.sweep_requests(decided)?;
                // Ticks that came together are one.
                if decided.swept.is_empty() {
                    let kept_from = Timestamp::now().saturating_sub(self.task_retention);
                    decided.swept =
                        self.reader.ended_before(kept_from.unwrap_or(Timestamp::MIN), SWEPT_AT_ONCE_MAX)?;
                }
                decided.strangers.extend(self.strangers.old(Timestamp::now()));
                let age_millis = self.cluster.waiting_since().map_or(0, |since| now.since(since));
                self.metrics.queue_age(Duration::from_millis(age_millis));
            }
        }
        Ok(())
    }

    fn submitted(
        &mut self,
        now: Millis,
        submission: Submission,
        reply: oneshot::Sender<Result<TaskId, KeyReused>>,
        decided: &mut Decided,
    ) -> Result<(), StoreError> {
        let Submission { owner, spec, notes, once } = submission;
        if let Some(once) = &once
            && let Some(answer) = self.earlier(&owner, once, decided)?
        {
            decided.replies.push(Reply::Submitted(reply, answer));
            return Ok(());
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        let id = TaskId::from_bytes(uuid::Uuid::now_v7().into_bytes());
        let asks = self.share(&asks_of(&spec, &self.storages));
        let request = rows::request_of(&asks, &self.storages);
        self.cluster.handle(now, cluster::Event::Submitted(seq, request), &mut decided.effects);
        self.remember(seq, LiveTask { id, asks: asks.clone(), since: None });
        tracing::info!(task = %id, name = spec.name.as_deref(), "accepted");
        if let Some(once) = once {
            self.note(&owner, once, id, decided);
        }
        decided.accepted.push(Accepted { seq, id, owner, spec, asks, notes });
        decided.replies.push(Reply::Submitted(reply, Ok(id)));
        Ok(())
    }

    fn cancel_requested(
        &mut self,
        now: Millis,
        task: TaskId,
        by: &str,
        reply: oneshot::Sender<CancelAnswer>,
        decided: &mut Decided,
    ) -> Result<(), StoreError> {
        let answer = match self.find(&task)? {
            Some(Found::Live(seq)) => {
                let event = cluster::Event::CancelRequested(seq);
                if self.cluster.handle(now, event, &mut decided.effects) {
                    tracing::info!(%task, by, "cancel requested");
                    decided.notes.push((seq, words::canceled(by)));
                }
                CancelAnswer::Accepted
            }
            Some(Found::Ended) => CancelAnswer::Accepted,
            None => CancelAnswer::Unknown,
        };
        decided.replies.push(Reply::Canceled(reply, answer));
        Ok(())
    }

    fn agent_connected(
        &mut self,
        now: Millis,
        agent: AgentHello,
        held: Vec<HeldAttempt>,
        outbox: mpsc::Sender<ToAgent>,
        reply: oneshot::Sender<Result<SessionId, SessionRefused>>,
        decided: &mut Decided,
    ) -> Result<(), StoreError> {
        let key = self.cluster.node_key(now, &agent.node_id);
        if self.sessions.contains_key(&key) {
            tracing::warn!(node = agent.node_id, "refused a second session for one node");
            let refused = SessionRefused::SecondSession(agent.node_id);
            decided.replies.push(Reply::Session(reply, Err(refused)));
            return Ok(());
        }
        let session = SessionId(self.next_session);
        self.next_session += 1;
        tracing::info!(node = agent.node_id, session = session.0, held = held.len(), "agent connected");
        let mut known = Vec::with_capacity(held.len());
        for line in held {
            known.extend(self.known(key, line, decided)?);
        }
        let id = agent.node_id.clone();
        let offer = self.offer_of(&agent);
        self.sessions.insert(key, Session { id: session, outbox });
        let place = self.hellos.get(&key).map_or(self.hellos.len(), |hello| hello.place);
        self.hellos.insert(key, NodeHello { agent, since: Timestamp::now(), place });
        let event = cluster::Event::NodeConnected { id, offer, held: known };
        self.cluster.handle(now, event, &mut decided.effects);
        decided.replies.push(Reply::Session(reply, Ok(session)));
        decided.nodes_changed.insert(key);
        Ok(())
    }

    fn agent_offer(&mut self, now: Millis, session: SessionId, offer: AgentOffer, decided: &mut Decided) {
        let AgentOffer { storages, closed, programs } = offer;
        let Some(key) = self.node_of(session) else { return };
        let Some(hello) = self.hellos.get_mut(&key) else { return };
        if let Some((versions, lacks)) = programs {
            tracing::info!(node = hello.agent.node_id, ?versions, ?lacks, "runs containers with");
            (hello.agent.versions, hello.agent.lacks) = (versions, lacks);
            decided.nodes_changed.insert(key);
        }
        if hello.agent.storages == storages && hello.agent.closed == closed {
            return;
        }
        for storage in storages.iter().filter(|storage| !hello.agent.storages.contains(storage)) {
            let (node, name) = (&hello.agent.node_id, &storage.name);
            if storage.ok {
                tracing::info!(node, storage = name, "storage is usable");
            } else {
                tracing::warn!(node, storage = name, "storage is not usable; tasks that need it wait");
            }
        }
        if hello.agent.closed.is_some() != closed.is_some() {
            let node = &hello.agent.node_id;
            match &closed {
                Some(reason) => tracing::warn!(node, reason, "takes no new tasks"),
                None => tracing::info!(node, "takes new tasks again"),
            }
        }
        hello.agent.storages = storages;
        hello.agent.closed = closed;
        let agent = hello.agent.clone();
        let offer = self.offer_of(&agent);
        self.cluster.handle(now, cluster::Event::OfferChanged(key, offer), &mut decided.effects);
        decided.nodes_changed.insert(key);
    }

    /// Ends a session on our side; its agent will come back and say everything again.
    pub(super) fn drop_session(&mut self, now: Millis, key: NodeKey, decided: &mut Decided) {
        if self.sessions.remove(&key).is_none() {
            return;
        }
        self.strangers.gone(key);
        self.cluster.handle(now, cluster::Event::NodeDisconnected(key), &mut decided.effects);
        if let Some(hello) = self.hellos.get_mut(&key) {
            hello.since = Timestamp::now();
            tracing::warn!(node = hello.agent.node_id, "agent disconnected; its tasks are left as they are");
        }
        decided.nodes_changed.insert(key);
    }

    fn node_of(&self, session: SessionId) -> Option<NodeKey> {
        self.sessions.iter().find(|(_, entry)| entry.id == session).map(|(key, _)| *key)
    }

    /// The model's word for what an agent says, if it is about a live task of this cluster. What an ended
    /// task left is dropped; what nobody here has ever heard of is stopped, and kept where it is: it may
    /// be all that is left after somebody put back an old database.
    fn known(
        &mut self,
        key: NodeKey,
        said: HeldAttempt,
        decided: &mut Decided,
    ) -> Result<Option<Held>, StoreError> {
        let HeldAttempt { task, attempt, stage } = said;
        let seq = match self.find(&task)? {
            Some(Found::Live(seq)) => seq,
            Some(Found::Ended) => {
                decided.strangers.push((key, ToAgent::Forget { task, attempt }));
                return Ok(None);
            }
            None => {
                self.stranger(key, task, attempt, &stage, decided);
                return Ok(None);
            }
        };
        let stage = match stage {
            Stage::Preparing { note } => {
                let progress = note.map(|note| Progress::Preparing { note: note.into() });
                self.show(key, seq, attempt, progress, decided);
                HeldStage::Preparing
            }
            Stage::Running { executor, since } => {
                self.show(key, seq, attempt, Some(Progress::Running { executor, since }), decided);
                HeldStage::Running
            }
            Stage::Finalizing => HeldStage::Finalizing,
            Stage::Ended { ending, log } => {
                decided.logs.insert((seq, attempt), *log);
                HeldStage::Ended(ending)
            }
        };
        Ok(Some(Held { seq, attempt, stage }))
    }

    /// Deals with an attempt at a task that this cluster does not know.
    fn stranger(&mut self, key: NodeKey, task: TaskId, attempt: u32, stage: &Stage, decided: &mut Decided) {
        if let Stage::Ended { log, .. } = stage {
            self.strangers.ended(key, task, attempt, log.end_time);
        } else {
            tracing::error!(%task, attempt, "an agent runs a task that this cluster does not know; stopping it");
            decided.strangers.push((key, ToAgent::Stop { task, attempt }));
        }
    }

    /// Notes what is done now for a task; what an older attempt says of itself is not about that.
    fn show(
        &mut self,
        node: NodeKey,
        seq: Seq,
        attempt: u32,
        progress: Option<Progress>,
        decided: &mut Decided,
    ) {
        let placement = self.cluster.task(seq).and_then(|task| task.state.placement());
        if placement != Some(Placement { attempt, node }) {
            return;
        }
        let before = match progress.clone() {
            Some(progress) => self.progress.insert(seq, progress),
            None => self.progress.remove(&seq),
        };
        if before != progress {
            decided.progressed.push(seq);
        }
    }

    fn offer_of(&self, agent: &AgentHello) -> Offer {
        let mut storages = StorageSet::default();
        for storage in agent.storages.iter().filter(|storage| storage.ok) {
            if let Some(index) = self.storages.iter().position(|path| *path == storage.path) {
                storages.insert(index);
            }
        }
        for place in agent.networks.iter().filter_map(|network| rows::place_of_network(network)) {
            storages.insert(place);
        }
        let capacity = Resources {
            cpu_milli: agent.capacity.cpu_milli,
            memory_bytes: agent.capacity.memory_bytes,
            disk_bytes: agent.capacity.disk_bytes,
        };
        // What a closed node has is not there for new tasks; those that it runs are not asked.
        let capacity = if agent.closed.is_none() { capacity } else { Resources::default() };
        Offer { capacity, storages }
    }
}

/// What the scheduler must know of a task: what it needs, and the storages that its URLs lie on.
fn asks_of(spec: &TaskSpec, storages: &[String]) -> Asks {
    let (cpu_milli, memory_bytes, disk_bytes) = spec.need();
    let inputs = spec.inputs.iter().filter(|input| input.content.as_deref().unwrap_or("").is_empty());
    let urls = inputs
        .filter_map(|input| input.url.as_deref())
        .chain(spec.outputs.iter().map(|output| output.url.as_str()));
    let mut used: Vec<String> = urls
        .filter_map(|url| parse_storage_url(url).ok())
        .filter_map(|path| storages.iter().find(|storage| path.as_path().starts_with(storage)))
        .cloned()
        .collect();
    used.sort();
    used.dedup();
    // Every node can do without a network; any other is something that a node has to offer.
    let network = spec.network().filter(|network| *network != "none").map(str::to_owned);
    Asks { cpu_milli, memory_bytes, disk_bytes, storages: used, network, preemptible: spec.preemptible() }
}
