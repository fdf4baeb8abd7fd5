//! Figures for Prometheus. Each is counted where it happens, by whoever is handed a [`Metrics`]; a scrape
//! only writes them out and looks at the nodes on the board. Nothing here costs more when there are more
//! tasks, and nothing here decides anything.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::board::{Amount, Board, NodeState};
use crate::cluster::{Counts, TaskState};

/// One label and its value.
type Label = [(&'static str, &'static str); 1];
/// Method, route and class of the status.
type RequestLabels = [(&'static str, Cow<'static, str>); 3];

/// The figures. Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    tasks: Family<Label, Gauge>,
    ended: Family<Label, Counter>,
    swept: Counter,
    queue_age: Gauge<f64, AtomicU64>,
    schedule: Histogram,
    commit: Histogram,
    batch_events: Histogram,
    sessions: Gauge,
    disk_free: Gauge,
    creates_held: Gauge,
    requests: Family<RequestLabels, Counter>,
}

impl Metrics {
    /// Figures that all begin at 0. Nodes are read from `board` at each scrape.
    pub fn new(board: Arc<Board>) -> Self {
        // From 50 µs to 26 s, and from 1 event to the 4096 that the inbox holds.
        let latency = || Histogram::new(exponential_buckets(50e-6, 2.0, 20));
        let mut metrics = Self {
            registry: Arc::default(),
            tasks: Family::default(),
            ended: Family::default(),
            swept: Counter::default(),
            queue_age: Gauge::default(),
            schedule: latency(),
            commit: latency(),
            batch_events: Histogram::new(exponential_buckets(1.0, 2.0, 13)),
            sessions: Gauge::default(),
            disk_free: Gauge::default(),
            creates_held: Gauge::default(),
            requests: Family::default(),
        };
        metrics.registry = Arc::new(metrics.registered(board));
        metrics.live(&Counts::default());
        for state in ["COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED"] {
            drop(metrics.ended.get_or_create(&[("state", state)]));
        }
        metrics
    }

    fn registered(&self, board: Arc<Board>) -> Registry {
        let mut all = Registry::with_prefix("teamster");
        all.register("tasks", "Tasks that have not ended, by state", self.tasks.clone());
        all.register(
            "tasks_ended",
            "Tasks that ended since this coordinator started, by state",
            self.ended.clone(),
        );
        all.register("tasks_swept", "Ended tasks removed after task_retention", self.swept.clone());
        all.register_with_unit(
            "queue_age",
            "How long the task that waits longest has waited for a node",
            Unit::Seconds,
            self.queue_age.clone(),
        );
        all.register_with_unit(
            "schedule_duration",
            "Deciding on one batch of events",
            Unit::Seconds,
            self.schedule.clone(),
        );
        all.register_with_unit(
            "commit_duration",
            "Putting one batch on disk",
            Unit::Seconds,
            self.commit.clone(),
        );
        all.register("batch_events", "Events in one batch", self.batch_events.clone());
        all.register("agent_sessions", "Agents that are connected", self.sessions.clone());
        all.register_with_unit(
            "disk_free",
            "Room on the disk of the data directory",
            Unit::Bytes,
            self.disk_free.clone(),
        );
        all.register(
            "creates_held",
            "1 while new tasks are held because the disk is low",
            self.creates_held.clone(),
        );
        all.register(
            "http_requests",
            "Requests by method, route and class of the answer's status; 'dropped' got no answer",
            self.requests.clone(),
        );
        all.register_collector(Box::new(Nodes(board)));
        all
    }

    /// Live tasks by state.
    pub(crate) fn live(&self, counts: &Counts) {
        for (state, count) in [
            ("QUEUED", counts.queued),
            ("INITIALIZING", counts.initializing),
            ("RUNNING", counts.running),
            ("FINALIZING", counts.finalizing),
            ("CANCELING", counts.canceling),
        ] {
            self.tasks.get_or_create(&[("state", state)]).set(count as i64);
        }
    }

    /// A task ended in `state`.
    pub(crate) fn ended(&self, state: &TaskState) {
        let state = match state {
            TaskState::Complete => "COMPLETE",
            TaskState::ExecutorError => "EXECUTOR_ERROR",
            TaskState::SystemError => "SYSTEM_ERROR",
            TaskState::Canceled => "CANCELED",
            _ => return,
        };
        self.ended.get_or_create(&[("state", state)]).inc();
    }

    /// So many ended tasks were removed.
    pub(crate) fn swept(&self, count: usize) {
        self.swept.inc_by(count as u64);
    }

    /// How long the task that waits longest has waited.
    pub(crate) fn queue_age(&self, age: Duration) {
        self.queue_age.set(age.as_secs_f64());
    }

    /// A batch of `events` was decided on in `schedule`, and was on disk `commit` later where it changed
    /// anything.
    pub(crate) fn batch(&self, events: usize, schedule: Duration, commit: Option<Duration>) {
        self.batch_events.observe(events as f64);
        self.schedule.observe(schedule.as_secs_f64());
        if let Some(commit) = commit {
            self.commit.observe(commit.as_secs_f64());
        }
    }

    /// So many agents are connected.
    pub(crate) fn sessions(&self, count: usize) {
        self.sessions.set(count as i64);
    }

    /// What is left on the disk, and whether new tasks are held.
    pub(crate) fn disk(&self, free_bytes: u64, creates_held: bool) {
        self.disk_free.set(free_bytes as i64);
        self.creates_held.set(i64::from(creates_held));
    }

    /// A request was answered, or dropped where there is no `status`.
    pub(crate) fn request(&self, method: &'static str, route: &str, status: Option<u16>) {
        let class = match status.map(|status| status / 100) {
            None => "dropped",
            Some(1) => "1xx",
            Some(2) => "2xx",
            Some(3) => "3xx",
            Some(4) => "4xx",
            Some(_) => "5xx",
        };
        let route = Cow::Owned(route.to_owned());
        let labels = [("method", method.into()), ("route", route), ("status", class.into())];
        self.requests.get_or_create(&labels).inc();
    }

    /// Everything, in the text form of OpenMetrics.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a string does not fail");
        text
    }
}

/// What the board says of the nodes, summed up.
#[derive(Debug)]
struct Nodes(Arc<Board>);

impl Collector for Nodes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let view = self.0.view();
        let is_ready = |state: NodeState| state == NodeState::Ready;
        let ready = view.nodes.iter().filter(|node| is_ready(node.state));
        let (mut count, mut capacity, mut free) = (0, Amount::default(), Amount::default());
        for node in ready {
            count += 1;
            capacity.add(&node.capacity);
            free.add(&node.free);
        }
        let disconnected = view.nodes.len() as u64 - count;
        let mut nodes = encoder.encode_descriptor(
            "nodes",
            "Nodes that were heard of, by state.",
            None,
            MetricType::Gauge,
        )?;
        for (state, count) in [("READY", count), ("DISCONNECTED", disconnected)] {
            ConstGauge::new(count).encode(nodes.encode_family(&[("state", state)])?)?;
        }
        for (what, help, amount) in [
            ("capacity", "What connected nodes have.", &capacity),
            ("free", "What of it is not set aside for tasks.", &free),
        ] {
            let name = format!("{what}_cpus");
            let cpus = amount.cpu_milli as f64 / 1000.0;
            let metric = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
            ConstGauge::new(cpus).encode(metric)?;
            for (kind, bytes) in [("memory", amount.memory_bytes), ("disk", amount.disk_bytes)] {
                let name = format!("{what}_{kind}");
                let metric = encoder.encode_descriptor(&name, help, Some(&Unit::Bytes), MetricType::Gauge)?;
                ConstGauge::new(bytes).encode(metric)?;
            }
        }
        Ok(())
    }
}

impl Amount {
    fn add(&mut self, more: &Amount) {
        self.cpu_milli += more.cpu_milli;
        self.memory_bytes += more.memory_bytes;
        self.disk_bytes += more.disk_bytes;
    }
}
