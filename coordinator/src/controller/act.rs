//! What is done once a batch is on disk: commands go out, the board is published, callers are answered.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use teamster_values::TaskId;
use tokio::sync::oneshot;

use super::decide::Decided;
use super::event::{SessionId, SessionRefused, ToAgent};
use super::{CancelAnswer, Controller, KeyReused};
use crate::board::{Amount, NodeState, NodeView};
use crate::cluster::{Command, NodeKey, Resources, Seq};
use crate::spec::TaskSpec;
use crate::store::StoreError;

/// An answer that waits for the disk. A caller that has gone away is no concern of ours.
pub(super) enum Reply {
    Submitted(oneshot::Sender<Result<TaskId, KeyReused>>, Result<TaskId, KeyReused>),
    Canceled(oneshot::Sender<CancelAnswer>, CancelAnswer),
    Session(oneshot::Sender<Result<SessionId, SessionRefused>>, Result<SessionId, SessionRefused>),
}

impl Reply {
    fn give(self) {
        match self {
            Self::Submitted(reply, answer) => drop(reply.send(answer)),
            Self::Canceled(reply, answer) => drop(reply.send(answer)),
            Self::Session(reply, answer) => drop(reply.send(answer)),
        }
    }
}

impl Controller {
    pub(super) fn act(&mut self, mut decided: Decided) -> Result<(), StoreError> {
        // Before anybody hears of it: who has an answer finds it counted.
        self.metrics.live(self.cluster.counts());
        self.metrics.swept(decided.swept.len());
        for state in decided.effects.changed.values() {
            self.metrics.ended(state);
        }
        for reply in std::mem::take(&mut decided.replies) {
            reply.give();
        }
        let fresh: HashMap<Seq, Arc<TaskSpec>> =
            decided.accepted.drain(..).map(|accepted| (accepted.seq, accepted.spec)).collect();
        let mut outgoing = Vec::with_capacity(decided.effects.commands.len());
        for (key, command) in std::mem::take(&mut decided.effects.commands) {
            outgoing.extend(self.to_agent(command, &fresh)?.map(|message| (key, message)));
        }
        outgoing.append(&mut decided.strangers);
        for (key, message) in outgoing {
            self.send(key, message, &mut decided);
        }
        let mut changed = std::mem::take(&mut decided.progressed);
        for (seq, state) in std::mem::take(&mut decided.effects.changed) {
            changed.push(seq);
            self.announce(seq, &state);
            if state.is_terminal() {
                self.forget(seq);
            } else if state.placement().is_none() {
                self.progress.remove(&seq);
            }
            decided.nodes_changed.extend(state.placement().map(|placement| placement.node));
        }
        decided.nodes_changed.extend(decided.effects.ended.iter().map(|end| end.placement.node));
        self.note_brake();
        self.publish_nodes(&decided.nodes_changed);
        self.board.show_progress(changed.iter().map(|seq| (*seq, self.progress.get(seq).cloned())));
        self.board.announce(&changed);
        Ok(())
    }

    fn announce(&self, seq: Seq, state: &crate::cluster::TaskState) {
        let Some(task) = self.live.get(&seq) else { return };
        let attempt = state.placement().map(|placement| placement.attempt);
        let node = state.placement().map(|placement| self.cluster.node(placement.node).id.as_str());
        if state.is_terminal() {
            tracing::info!(task = %task.id, state = state.name(), "ended");
        } else {
            tracing::debug!(task = %task.id, state = state.name(), attempt, node, "went on");
        }
    }

    /// The message for a command; none when the task has ended meanwhile and left nothing to say.
    fn to_agent(
        &self,
        command: Command,
        fresh: &HashMap<Seq, Arc<TaskSpec>>,
    ) -> Result<Option<ToAgent>, StoreError> {
        let (Command::Start(seq, attempt) | Command::Stop(seq, attempt) | Command::Forget(seq, attempt)) =
            command;
        let Some(live) = self.live.get(&seq) else { return Ok(None) };
        let task = live.id;
        Ok(match command {
            Command::Stop(..) => Some(ToAgent::Stop { task, attempt }),
            Command::Forget(..) => Some(ToAgent::Forget { task, attempt }),
            Command::Start(..) => {
                let spec = match fresh.get(&seq) {
                    Some(spec) => Some(spec.clone()),
                    None => self.reader.spec(seq)?.map(|(_, spec)| spec),
                };
                let request = super::rows::request_of(&live.asks, &self.storages);
                let lease = Duration::from_millis(self.cluster.lease_millis(&request));
                spec.map(|spec| ToAgent::Start { task, attempt, spec, lease })
            }
        })
    }

    /// Hands a message to a session. One that cannot take it is given up: the agent dials again, and the
    /// inventory that it then brings says what is missing.
    fn send(&mut self, key: NodeKey, message: ToAgent, decided: &mut Decided) {
        let Some(session) = self.sessions.get(&key) else { return };
        if session.outbox.try_send(message).is_err() {
            tracing::warn!(
                node = self.cluster.node(key).id,
                "an agent does not take its commands; dropping it"
            );
            let now = self.now();
            self.drop_session(now, key, decided);
        }
    }

    fn note_brake(&mut self) {
        let on = self.cluster.brake_is_on();
        if on != std::mem::replace(&mut self.brake_was_on, on) {
            if on {
                tracing::error!(
                    "more than half of the nodes vanished at once: nothing is declared dead until they return"
                );
            } else {
                tracing::info!("enough nodes are back: leases count again");
            }
        }
    }

    /// Puts the present state of these nodes on the board, as far as they were heard since this process
    /// started.
    fn publish_nodes(&self, changed: &BTreeSet<NodeKey>) {
        if changed.is_empty() {
            return;
        }
        self.metrics.sessions(self.sessions.len());
        let mut shown: Vec<_> = changed.iter().filter_map(|key| self.node_view(*key)).collect();
        // A new one goes behind those that are there.
        shown.sort_by_key(|(place, _)| *place);
        self.board.show_nodes(shown);
    }

    /// A node with its place on the board.
    fn node_view(&self, key: NodeKey) -> Option<(usize, NodeView)> {
        let (hello, node) = (self.hellos.get(&key)?, self.cluster.node(key));
        let view = NodeView {
            id: node.id.clone(),
            state: if node.is_connected() { NodeState::Ready } else { NodeState::Disconnected },
            since: hello.since,
            closed: hello.agent.closed.clone(),
            capacity: hello.agent.capacity,
            free: amount(&node.free()),
            tasks: node.tasks.len(),
            storage: hello.agent.storages.clone(),
            networks: hello.agent.networks.clone(),
            versions: hello.agent.versions.clone(),
            lacks: hello.agent.lacks.clone(),
        };
        Some((hello.place, view))
    }
}

fn amount(resources: &Resources) -> Amount {
    Amount {
        cpu_milli: resources.cpu_milli,
        memory_bytes: resources.memory_bytes,
        disk_bytes: resources.disk_bytes,
    }
}
