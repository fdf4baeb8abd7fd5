//! Guided random histories: events about live tasks, their true attempts and real nodes, with agents that
//! behave as agents do, and `check_invariants` after every step.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy {
    retry_started_always: false,
    attempts_max: 3,
    lease_millis: 60_000,
    preemptible_lease_millis: 10_000,
    lease_margin_millis: 5_000,
};
const NODES: usize = 3;

/// What a step of a history does; numbers pick among what is there.
#[derive(Debug, Clone)]
enum Move {
    Submit {
        cpu: u64,
        preemptible: bool,
    },
    Cancel(usize),
    /// An agent goes on with an attempt that it holds: preparing → running → finalizing → ended.
    Advance(usize, u8),
    Connect(usize),
    Disconnect(usize),
    /// The machine restarts: all that its agent holds is lost.
    Reboot(usize),
    /// The coordinator begins anew with the tasks that it has on disk.
    Restart,
    /// An agent says again what it said before, or what it should have said long ago.
    Echo(usize),
    Wait(u64),
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        4 => (1..5u64, any::<bool>()).prop_map(|(cpu, preemptible)| Move::Submit { cpu, preemptible }),
        2 => any::<usize>().prop_map(Move::Cancel),
        10 => (any::<usize>(), any::<u8>()).prop_map(|(pick, how)| Move::Advance(pick, how)),
        4 => any::<usize>().prop_map(Move::Connect),
        2 => any::<usize>().prop_map(Move::Disconnect),
        1 => any::<usize>().prop_map(Move::Reboot),
        1 => Just(Move::Restart),
        2 => any::<usize>().prop_map(Move::Echo),
        3 => (0..70_000u64).prop_map(Move::Wait),
    ]
}

/// A node's agent: what it holds, by task and attempt.
#[derive(Default)]
struct Agent {
    connected: bool,
    silent_since: Millis,
    held: BTreeMap<(Seq, u32), HeldStage>,
}

/// The model and the world around it.
struct World {
    cluster: Cluster,
    now: Millis,
    next_seq: Seq,
    agents: Vec<Agent>,
    terminal: BTreeMap<Seq, TaskState>,
    said: Vec<(usize, Held)>,
    /// Attempts whose end was accepted, to see that each ends once.
    ended: BTreeSet<(Seq, u32)>,
}

impl World {
    fn new() -> Self {
        Self {
            cluster: Cluster::new(POLICY),
            now: Millis(0),
            next_seq: 1,
            agents: (0..NODES).map(|_| Agent::default()).collect(),
            terminal: BTreeMap::new(),
            said: Vec::new(),
            ended: BTreeSet::new(),
        }
    }

    fn key(&mut self, agent: usize) -> NodeKey {
        self.cluster.node_key(self.now, &format!("node-{agent}"))
    }

    fn event(&mut self, event: Event) {
        let mut effects = Effects::default();
        self.cluster.handle(self.now, event, &mut effects);
        self.cluster.schedule(self.now, &mut effects);
        self.cluster.check_invariants().unwrap();
        self.observe(effects);
        self.no_two_attempts_live();
    }

    fn observe(&mut self, effects: Effects) {
        for (seq, state) in effects.changed {
            assert!(!self.terminal.contains_key(&seq), "task {seq} changed after its end: {state:?}");
            if state.is_terminal() {
                self.terminal.insert(seq, state);
            }
        }
        for end in effects.ended {
            assert!(self.ended.insert((end.seq, end.placement.attempt)), "ended twice: {end:?}");
        }
        for (key, command) in effects.commands {
            let agent: usize = self.cluster.node(key).id.strip_prefix("node-").unwrap().parse().unwrap();
            assert!(self.agents[agent].connected, "a command to nobody: {command:?}");
            self.obey(agent, command);
        }
    }

    fn obey(&mut self, agent: usize, command: Command) {
        let held = &mut self.agents[agent].held;
        match command {
            Command::Start(seq, attempt) => {
                held.entry((seq, attempt)).or_insert(HeldStage::Preparing);
            }
            Command::Stop(seq, attempt) => {
                if let Some(stage) = held.get_mut(&(seq, attempt))
                    && !matches!(stage, HeldStage::Ended(_))
                {
                    *stage = HeldStage::Ended(Ending::Canceled);
                }
            }
            Command::Forget(seq, attempt) => {
                held.remove(&(seq, attempt));
            }
        }
    }

    /// Promise 3: at most one attempt of a task is alive anywhere.
    fn no_two_attempts_live(&self) {
        let mut live = BTreeMap::new();
        for agent in &self.agents {
            for ((seq, attempt), stage) in &agent.held {
                if matches!(stage, HeldStage::Ended(_)) {
                    continue;
                }
                let before = live.insert(*seq, *attempt);
                assert_eq!(before, None, "task {seq}: attempts {before:?} and {attempt} are both alive");
            }
        }
    }

    fn step(&mut self, step: Move) {
        match step {
            Move::Submit { cpu, preemptible } => {
                let need = Resources { cpu_milli: cpu * 1000, memory_bytes: 1, disk_bytes: 1 };
                let class = Class { need, ..Class::default() };
                let seq = self.next_seq;
                self.next_seq += 1;
                self.event(Event::Submitted(seq, Request { class, preemptible }));
            }
            Move::Cancel(pick) if self.next_seq > 1 => {
                self.event(Event::CancelRequested(1 + pick as u64 % (self.next_seq - 1)));
            }
            Move::Advance(pick, how) => self.advance(pick, how),
            Move::Connect(pick) => self.connect(pick % NODES),
            Move::Disconnect(pick) => self.disconnect(pick % NODES),
            Move::Reboot(pick) => self.reboot(pick % NODES),
            Move::Restart => self.restart(),
            Move::Echo(pick) if !self.said.is_empty() => {
                let (agent, held) = self.said[pick % self.said.len()];
                if self.agents[agent].connected {
                    let key = self.key(agent);
                    self.event(Event::Reported(key, held));
                }
            }
            Move::Wait(millis) => self.wait(millis),
            Move::Cancel(_) | Move::Echo(_) => {}
        }
    }

    fn advance(&mut self, pick: usize, how: u8) {
        let all: Vec<_> = self
            .agents
            .iter()
            .enumerate()
            .flat_map(|(agent, state)| state.held.iter().map(move |(id, stage)| (agent, *id, *stage)))
            .collect();
        if all.is_empty() {
            return;
        }
        let (agent, (seq, attempt), stage) = all[pick % all.len()];
        let next = match (stage, how % 8) {
            (HeldStage::Ended(_), _) => return,
            (_, 0) => {
                let started = stage != HeldStage::Preparing;
                HeldStage::Ended(Ending::Lost { loss: Loss::NodeFault, started })
            }
            (HeldStage::Preparing, 1) => HeldStage::Ended(Ending::SystemError),
            (HeldStage::Preparing, _) => HeldStage::Running,
            (HeldStage::Running, 1) => HeldStage::Ended(Ending::ExecutorError),
            (HeldStage::Running, _) => HeldStage::Finalizing,
            (HeldStage::Finalizing, _) => HeldStage::Ended(Ending::Complete),
        };
        self.agents[agent].held.insert((seq, attempt), next);
        let held = Held { seq, attempt, stage: next };
        self.said.push((agent, held));
        if self.agents[agent].connected {
            let key = self.key(agent);
            self.event(Event::Reported(key, held));
        }
    }

    fn connect(&mut self, agent: usize) {
        if self.agents[agent].connected {
            return;
        }
        self.agents[agent].connected = true;
        let held = self.agents[agent].held.iter();
        let held = held.map(|((seq, attempt), stage)| Held { seq: *seq, attempt: *attempt, stage: *stage });
        let held = held.collect();
        let capacity = Resources { cpu_milli: 4_000, memory_bytes: 1 << 30, disk_bytes: 1 << 30 };
        let offer = Offer { capacity, storages: StorageSet::default() };
        self.event(Event::NodeConnected { id: format!("node-{agent}"), offer, held });
    }

    fn disconnect(&mut self, agent: usize) {
        if !self.agents[agent].connected {
            return;
        }
        self.agents[agent].connected = false;
        self.agents[agent].silent_since = self.now;
        let key = self.key(agent);
        self.event(Event::NodeDisconnected(key));
    }

    fn reboot(&mut self, agent: usize) {
        self.disconnect(agent);
        for stage in self.agents[agent].held.values_mut() {
            let started = *stage != HeldStage::Preparing;
            if !matches!(stage, HeldStage::Ended(_)) {
                *stage = HeldStage::Ended(Ending::Lost { loss: Loss::Reboot, started });
            }
        }
        self.connect(agent);
    }

    fn restart(&mut self) {
        for agent in self.agents.iter_mut().filter(|agent| agent.connected) {
            agent.connected = false;
            agent.silent_since = self.now;
        }
        let old = std::mem::replace(&mut self.cluster, Cluster::new(POLICY));
        for node in old.nodes() {
            self.cluster.node_key(self.now, &node.id);
        }
        // Some kinds are told of once, and some again and again.
        let kinds: Vec<_> = old.tasks.values().copied().collect();
        let first_of = |task: &Task| kinds.iter().position(|kind| kind == task).unwrap();
        let places: Vec<_> = old
            .tasks
            .iter()
            .enumerate()
            .map(|(index, (seq, task))| (*seq, if index % 2 == 0 { first_of(task) } else { index }))
            .collect();
        self.cluster.restore(self.now, &kinds, places.into_iter());
        self.cluster.check_invariants().unwrap();
    }

    fn wait(&mut self, millis: u64) {
        self.now = self.now.after_millis(millis);
        for agent in self.agents.iter_mut().filter(|agent| !agent.connected) {
            let silent_millis = self.now.since(agent.silent_since);
            for ((seq, _), stage) in &mut agent.held {
                // The agent kills at the end of the lease, before the coordinator's margin is over.
                let Some(task) = self.cluster.task(*seq) else { continue };
                let started = *stage != HeldStage::Preparing;
                if silent_millis >= self.cluster.lease_millis(&task.request)
                    && !matches!(stage, HeldStage::Ended(_))
                {
                    *stage = HeldStage::Ended(Ending::Lost { loss: Loss::LeaseEnded, started });
                }
            }
        }
        self.event(Event::Tick);
    }

    /// All agents come back and every attempt goes well: each task must reach one terminal state.
    fn settle(&mut self) {
        for agent in 0..NODES {
            self.connect(agent);
        }
        for _ in 0..10_000 {
            if self.terminal.len() as u64 == self.next_seq - 1 {
                return;
            }
            self.wait(1_000);
            for pick in 0..8 {
                self.advance(pick, 7);
            }
            // An attempt that ended unheard is told in the next inventory.
            for agent in 0..NODES {
                self.disconnect(agent);
                self.connect(agent);
            }
        }
        panic!("tasks never ended: {:?}", self.cluster);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_promises(history in prop::collection::vec(moves(), 1..120)) {
        let mut world = World::new();
        for step in history {
            world.step(step);
        }
        world.settle();
    }
}

fn connected(world: &mut World, nodes: usize) {
    for agent in 0..nodes {
        world.connect(agent);
    }
}

#[test]
fn only_the_node_of_an_attempt_and_only_of_the_last_one_is_believed() {
    let mut cluster = Cluster::new(POLICY);
    let capacity = Resources { cpu_milli: 1000, memory_bytes: 1, disk_bytes: 1 };
    let offer = Offer { capacity, ..Offer::default() };
    let mut effects = Effects::default();
    for id in ["a", "b"] {
        let event = Event::NodeConnected { id: id.to_owned(), offer, held: Vec::new() };
        cluster.handle(Millis(0), event, &mut effects);
    }
    let class = Class { need: capacity, ..Class::default() };
    cluster.handle(Millis(0), Event::Submitted(1, Request { class, preemptible: false }), &mut effects);
    cluster.schedule(Millis(0), &mut effects);
    let placement = cluster.task(1).unwrap().state.placement().unwrap();
    let other = NodeKey(1 - placement.node.0);
    // The attempt is another node's; this one does not exist, or no longer.
    for (node, attempt) in [(other, 1), (placement.node, 2), (placement.node, 0)] {
        for stage in [HeldStage::Running, HeldStage::Ended(Ending::Complete)] {
            let mut effects = Effects::default();
            let said = Event::Reported(node, Held { seq: 1, attempt, stage });
            assert!(!cluster.handle(Millis(1), said, &mut effects));
            assert_eq!(effects.commands, [(node, Command::Forget(1, attempt))]);
            assert!(effects.changed.is_empty() && effects.ended.is_empty());
            assert_eq!(cluster.task(1).unwrap().state, TaskState::Initializing(placement));
        }
    }
}

#[test]
fn the_brake_holds_when_most_nodes_vanish_at_once() {
    let mut world = World::new();
    world.agents = (0..6).map(|_| Agent::default()).collect();
    connected(&mut world, 6);
    for _ in 0..6 {
        world.step(Move::Submit { cpu: 4, preemptible: true });
    }
    for agent in 0..3 {
        world.disconnect(agent);
    }
    assert!(!world.cluster.brake_is_on(), "three nodes are few");
    world.disconnect(3);
    assert!(world.cluster.brake_is_on(), "four of six are not");
    let key = NodeKey(0);
    let before = world.cluster.node(key).tasks.clone();
    world.wait(10_000_000);
    assert_eq!(world.cluster.node(key).tasks, before, "nothing is declared dead by time");
    world.connect(0);
    assert!(!world.cluster.brake_is_on(), "three of six are gone: time counts again");
}

#[test]
fn silence_ends_an_attempt_only_after_lease_and_margin() {
    let mut world = World::new();
    connected(&mut world, 1);
    world.step(Move::Submit { cpu: 1, preemptible: true });
    world.advance(0, 7);
    world.disconnect(0);
    world.wait(POLICY.preemptible_lease_millis + POLICY.lease_margin_millis - 1);
    assert!(matches!(world.cluster.task(1).unwrap().state, TaskState::Running(_)));
    world.wait(1);
    assert!(matches!(world.cluster.task(1).unwrap().state, TaskState::Queued { attempt: 2, .. }));
}
