//! The way to the coordinator: dials, dials again with growing pauses, and remembers which cluster this node
//! belongs to. Losing a session loses nothing, because the next one begins with the whole inventory. It
//! starts, stops and deletes nothing by itself.

mod batches;
mod cluster;
mod convert;
mod logs;
mod offers;
mod stream;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::assignment::Resources;
use crate::runtime::{Runtime, versions};
use crate::supervisor::Event;

pub use logs::Logs;
pub use offers::{Offer, keep_offers};

/// First and longest pause between two tries to reach the coordinator.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Pause after meeting a coordinator that is not ours: only an operator can mend that.
const ALARM_PAUSE: Duration = Duration::from_secs(30);
/// Asking the runtime for its versions must not keep us from the coordinator.
const VERSIONS_DEADLINE: Duration = Duration::from_secs(2);
/// How often it is asked again while they are not known, and afterwards.
const LOOK_INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What this node tells of itself.
pub struct Identity {
    /// Its stable name.
    pub node_id: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// What it offers.
    pub capacity: Resources,
    /// What its kernel lacks, for people.
    pub lacks: Vec<String>,
    /// Knows the versions of what runs containers.
    pub runtime: Arc<dyn Runtime>,
}

impl Identity {
    /// All that is lacking here, with programs of these versions.
    fn lacks_with(&self, versions: &BTreeMap<String, String>) -> Vec<String> {
        self.lacks.iter().cloned().chain(shortfalls(versions)).collect()
    }
}

/// The versions of what runs containers here; none while containerd does not answer.
async fn versions(runtime: &dyn Runtime) -> BTreeMap<String, String> {
    match tokio::time::timeout(VERSIONS_DEADLINE, runtime.versions()).await {
        Ok(Ok(versions)) => versions.into_iter().collect(),
        Ok(Err(_)) | Err(_) => BTreeMap::new(),
    }
}

/// The versions once they are other ones than those that are known: containerd has come up, or was upgraded.
async fn other_versions(
    runtime: Arc<dyn Runtime>,
    known: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let pause = if known.is_empty() { LOOK_INTERVALS.0 } else { LOOK_INTERVALS.1 };
    loop {
        tokio::time::sleep(pause).await;
        let found = versions(runtime.as_ref()).await;
        if !found.is_empty() && found != known {
            return found;
        }
    }
}

fn shortfalls(versions: &BTreeMap<String, String>) -> Vec<String> {
    versions::shortfalls(versions.iter().map(|(program, version)| (program.as_str(), version.as_str())))
}

/// Says at the start of the agent, a line each, what runs containers here and what is missing. Returns what the
/// kernel lacks: that does not change while it runs, as programs do.
pub(crate) async fn look_around(node: &str, runtime: &dyn Runtime) -> Vec<String> {
    let versions = versions(runtime).await;
    for (program, version) in &versions {
        let least = versions::least(program);
        tracing::info!(node, program, version, least, "runs containers here");
    }
    if versions.is_empty() {
        tracing::warn!(node, "containerd does not answer yet; its version is told when it does");
    }
    let lacks = runtime.lacks().await;
    for lack in lacks.iter().chain(&shortfalls(&versions)) {
        tracing::warn!(node, lack, "this node does not have all that tasks could need");
    }
    lacks
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ended {
    /// The way to the coordinator, or the coordinator, is down; it may come back any moment.
    Down(String),
    /// The coordinator does not want us, and says why.
    Refused(String),
    /// We do not want this coordinator.
    Alarm(String),
}

/// Keeps a session with the coordinator.
pub struct Session {
    /// Where the coordinator is: `host:port`.
    pub coordinator: String,
    /// Where `cluster.json` is kept.
    pub data_dir: PathBuf,
    /// What this node tells of itself.
    pub identity: Identity,
    /// How the shared storages are.
    pub offers: watch::Receiver<Vec<Offer>>,
    /// Why this node takes no new tasks; none when it does.
    pub closed: watch::Receiver<Option<String>>,
    /// Where events go.
    pub supervisor: mpsc::Sender<Event>,
}

impl Session {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut pauses = Pauses::default();
        let mut said = None;
        let mut memory = cluster::Memory::new(&self.data_dir);
        while !shutdown.is_cancelled() {
            let mut welcomed = false;
            // Dropping a session resets its stream, which is all that its end needs.
            let ended = tokio::select! {
                () = shutdown.cancelled() => return,
                ended = self.hold(&mut memory, &mut welcomed) => ended,
            };
            if welcomed {
                pauses = Pauses::default();
                said = None;
            }
            self.say(&ended, &mut said);
            let pause = if matches!(ended, Ended::Alarm(_)) { ALARM_PAUSE } else { pauses.next() };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One session from dialling to its end.
    async fn hold(&self, memory: &mut cluster::Memory, welcomed: &mut bool) -> Ended {
        match stream::Stream::open(self, memory).await {
            Ok(stream) => {
                *welcomed = true;
                tracing::info!(node = %self.identity.node_id, coordinator = %self.coordinator, "session up");
                stream.serve().await
            }
            Err(ended) => ended,
        }
    }

    /// Each reason once, not at every try.
    fn say(&self, ended: &Ended, said: &mut Option<Ended>) {
        if said.as_ref() == Some(ended) {
            return;
        }
        let (node, coordinator) = (&self.identity.node_id, &self.coordinator);
        match ended {
            Ended::Down(reason) => tracing::warn!(
                %node, %coordinator, reason,
                "session down; tasks go on, dialling again; if it stays so, check `coordinator` in the \
                 agent's configuration and that the coordinator runs"
            ),
            Ended::Refused(reason) => tracing::warn!(
                %node, %coordinator, reason,
                "session refused; tasks go on, dialling again; the reason says what to change"
            ),
            Ended::Alarm(reason) => tracing::error!(
                %node, %coordinator, reason,
                "alarm: this coordinator is not obeyed; tasks go on as they are until their leases end"
            ),
        }
        *said = Some(ended.clone());
    }
}

/// Pauses that grow, each with a random part, so that a thousand agents do not dial in step.
struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Pauses {
    fn next(&mut self) -> Duration {
        let full = self.0;
        self.0 = (full * 2).min(LONGEST_PAUSE);
        // Each `RandomState` has keys of its own; no other randomness is at hand or needed.
        let random = RandomState::new().hash_one(0_u8) % 1000;
        full / 2 + full * u32::try_from(random).unwrap_or_default() / 2000
    }
}
