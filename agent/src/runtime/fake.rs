//! A runtime without containers, for tests of everything above it. What an executor "does" is written in
//! its command line:
//!
//! - `sleep MS [CODE]`: runs that many milliseconds, then ends with the code (0)
//! - `exit CODE`: ends at once with the code
//! - `print TEXT [CODE]`: writes the text to standard output, then ends
//! - `cat`: copies standard input to standard output, then ends
//! - `oom`: is killed for memory at once
//! - `ignore-term`: runs until it is killed and does not listen to a polite signal
//! - `balk N`: N containers end before the command begins, the next one ends with 0
//! - `fail-to-start`: the command is unusable
//! - `fail-node`: this node cannot make the container
//! - anything else: ends at once with 0
//!
//! The containers live in the object: a test that starts a second agent with the same object sees what a
//! restarted agent sees. An image is known unless its name contains `missing` (not there) or `broken`; one
//! whose name contains `large` takes a while to come.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{ContainerId, ContainerSpec, ContainerState, Exit, Image, Runtime, RuntimeError, Signal, Usage};
use crate::assignment::{AttemptId, Resources};

/// How long a large image takes.
const LARGE_IMAGE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Default)]
pub struct FakeRuntime {
    inner: Mutex<Inner>,
    /// Told whenever anything changed, so that whoever waits looks again.
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    containers: BTreeMap<ContainerId, FakeContainer>,
    attempts: BTreeSet<AttemptId>,
    /// Never forgotten, not even when the container is removed.
    starts: BTreeMap<ContainerId, u32>,
    /// How removed containers ended, as a keeper's record tells it.
    ends: BTreeMap<ContainerId, Exit>,
    /// How often each ended before its command began.
    balks: BTreeMap<ContainerId, u64>,
    is_down: bool,
}

impl Inner {
    fn remove(&mut self, id: ContainerId) {
        if let Some(FakeContainer { run: Run::Exited(exit), .. }) = self.containers.remove(&id) {
            self.ends.insert(id, Exit { out_of_memory: false, usage: None, ..exit });
        }
    }
}

struct FakeContainer {
    args: Vec<String>,
    stdin: Option<PathBuf>,
    stdout: PathBuf,
    run: Run,
}

enum Run {
    Created,
    /// Ends by itself then, or never.
    Running {
        until: Option<(Instant, u32)>,
    },
    Exited(Exit),
    /// Ended before the command began.
    Balked,
}

impl FakeRuntime {
    /// A runtime without containers.
    pub fn new() -> Self {
        Self::default()
    }

    /// How often each container was started since the object was made; more than once is a broken promise.
    pub fn starts(&self) -> BTreeMap<ContainerId, u32> {
        self.lock().starts.clone()
    }

    /// The attempts that were prepared and not released.
    pub fn attempts(&self) -> Vec<AttemptId> {
        self.lock().attempts.iter().copied().collect()
    }

    /// From now on every call fails as if containerd were down, until this is called with `false`. What runs
    /// goes on, and waiting goes on waiting.
    pub fn set_down(&self, is_down: bool) {
        self.lock().is_down = is_down;
        self.changed.notify_waiters();
    }

    /// Loses a container with its exit code, as a killed shim does.
    pub fn lose(&self, id: ContainerId) {
        self.lock().containers.remove(&id);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state behind the lock, unless containerd is "down".
    fn up(&self) -> Result<MutexGuard<'_, Inner>, RuntimeError> {
        let inner = self.lock();
        if inner.is_down {
            return Err(RuntimeError::Unavailable("switched off by the test".to_owned()));
        }
        Ok(inner)
    }
}

impl FakeContainer {
    /// A running container whose time is over has ended.
    fn settle(&mut self) {
        if let Run::Running { until: Some((until, code)) } = self.run
            && until <= Instant::now()
        {
            self.end(code, false);
        }
    }

    fn end(&mut self, code: u32, out_of_memory: bool) {
        let usage = Usage { peak_memory_bytes: Some(1 << 20), cpu_micros: 1500, ..Usage::default() };
        self.run = Run::Exited(Exit { code, at: Timestamp::now(), out_of_memory, usage: Some(usage) });
    }

    fn number(&self, index: usize) -> u64 {
        self.args.get(index).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn code(&self, index: usize) -> u32 {
        u32::try_from(self.number(index)).unwrap_or(255)
    }

    fn begin(&mut self) -> std::io::Result<()> {
        let after = |millis: u64| Instant::now() + Duration::from_millis(millis);
        match self.args.first().map(String::as_str) {
            Some("sleep") => {
                self.run = Run::Running { until: Some((after(self.number(1)), self.code(2))) };
            }
            Some("ignore-term") => self.run = Run::Running { until: None },
            Some("exit") => self.end(self.code(1), false),
            Some("oom") => self.end(137, true),
            Some("print") => {
                let text = self.args.get(1).cloned().unwrap_or_default();
                std::fs::write(&self.stdout, text)?;
                self.end(self.code(2), false);
            }
            Some("cat") => {
                let content = self.stdin.as_ref().map(std::fs::read).transpose()?.unwrap_or_default();
                std::fs::write(&self.stdout, content)?;
                self.end(0, false);
            }
            _ => self.end(0, false),
        }
        Ok(())
    }

    fn state(&self) -> ContainerState {
        match self.run {
            Run::Created => ContainerState::Created,
            Run::Running { .. } => ContainerState::Running,
            Run::Exited(exit) => ContainerState::Exited(exit),
            Run::Balked => ContainerState::Exited(Exit {
                code: 1,
                at: Timestamp::now(),
                out_of_memory: false,
                usage: None,
            }),
        }
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn image(&self, reference: &str) -> Result<Image, RuntimeError> {
        drop(self.up()?);
        let name = reference.to_owned();
        if name.contains("missing") {
            let reason = "the registry says 404".to_owned();
            return Err(RuntimeError::ImageNotFound { reference: name, reason });
        }
        if name.contains("broken") {
            return Err(RuntimeError::ImageUnusable { reference: name, reason: "it is broken".to_owned() });
        }
        if name.contains("large") {
            tokio::time::sleep(LARGE_IMAGE).await;
        }
        let digest = format!("sha256:{}", "0".repeat(64));
        let env = vec!["PATH=/bin".to_owned()];
        let entrypoint = vec!["enter".to_owned()];
        Ok(Image { name, chain_id: digest.clone(), digest, env, entrypoint, ..Image::default() })
    }

    fn pulling(&self, reference: &str) -> Option<String> {
        reference.contains("large").then(|| format!("image {reference}: pulling"))
    }

    async fn prepare_attempt(&self, id: AttemptId, _limits: &Resources) -> Result<(), RuntimeError> {
        self.up()?.attempts.insert(id);
        Ok(())
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        let mut inner = self.up()?;
        match spec.args.first().map(String::as_str) {
            Some("fail-to-start") => {
                return Err(RuntimeError::CommandUnusable(format!("exec: {:?}: not found", spec.args[0])));
            }
            Some("fail-node") => {
                return Err(RuntimeError::Failed {
                    action: "create the task".to_owned(),
                    reason: "as the test wants it".to_owned(),
                });
            }
            _ => {}
        }
        inner.containers.entry(spec.id).or_insert_with(|| FakeContainer {
            args: spec.args.clone(),
            stdin: spec.stdin.clone(),
            stdout: spec.stdout.clone(),
            run: Run::Created,
        });
        Ok(())
    }

    async fn start(&self, id: ContainerId) -> Result<(), RuntimeError> {
        let mut guard = self.up()?;
        let inner = &mut *guard;
        let container = inner.containers.get_mut(&id).ok_or(RuntimeError::NotFound(id))?;
        if !matches!(container.run, Run::Created) {
            return Ok(());
        }
        let balks = inner.balks.entry(id).or_default();
        if container.args[0] == "balk" && *balks < container.number(1) {
            *balks += 1;
            container.run = Run::Balked;
            return Ok(());
        }
        container.begin().map_err(|error| RuntimeError::Failed {
            action: "start the task".to_owned(),
            reason: error.to_string(),
        })?;
        *inner.starts.entry(id).or_default() += 1;
        self.changed.notify_waiters();
        Ok(())
    }

    async fn state(&self, id: ContainerId) -> Result<ContainerState, RuntimeError> {
        let mut inner = self.up()?;
        let end = inner.ends.get(&id).copied();
        let Some(container) = inner.containers.get_mut(&id) else {
            return Ok(end.map_or(ContainerState::Missing, ContainerState::Exited));
        };
        container.settle();
        Ok(container.state())
    }

    async fn wait(&self, id: ContainerId) -> Result<Exit, RuntimeError> {
        loop {
            // Before the look: what happens after it must wake us.
            let changed = self.changed.notified();
            let until = {
                let mut inner = self.lock();
                let end = inner.ends.get(&id).copied();
                let Some(container) = inner.containers.get_mut(&id) else {
                    return end.ok_or(RuntimeError::NotFound(id));
                };
                container.settle();
                match container.run {
                    Run::Exited(exit) => return Ok(exit),
                    Run::Balked => return Err(RuntimeError::NeverBegan(id)),
                    Run::Running { until } => until.map(|(until, _)| until),
                    Run::Created => None,
                }
            };
            match until {
                // Both only make us look again, so either may be dropped.
                Some(until) => tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    async fn signal(&self, id: ContainerId, signal: Signal) -> Result<(), RuntimeError> {
        let mut inner = self.up()?;
        if let Some(container) = inner.containers.get_mut(&id) {
            container.settle();
            let is_deaf = container.args.first().is_some_and(|word| word == "ignore-term");
            let is_over = matches!(container.run, Run::Exited(_) | Run::Balked);
            match signal {
                _ if is_over => {}
                Signal::Kill => container.end(137, false),
                Signal::Term if !is_deaf => container.end(143, false),
                Signal::Term => {}
            }
        }
        self.changed.notify_waiters();
        Ok(())
    }

    async fn remove(&self, id: ContainerId) -> Result<(), RuntimeError> {
        self.up()?.remove(id);
        self.changed.notify_waiters();
        Ok(())
    }

    async fn is_over(&self, id: ContainerId) -> bool {
        let mut inner = self.lock();
        let mut of_attempt = inner.containers.iter_mut().filter(|(other, _)| other.attempt == id.attempt);
        of_attempt.all(|(_, container)| {
            container.settle();
            matches!(container.run, Run::Exited(_) | Run::Balked)
        })
    }

    async fn release_attempt(&self, id: AttemptId) -> Result<(), RuntimeError> {
        let mut inner = self.up()?;
        inner.attempts.remove(&id);
        let left: Vec<_> = inner.containers.keys().filter(|left| left.attempt == id).copied().collect();
        left.into_iter().for_each(|left| inner.remove(left));
        self.changed.notify_waiters();
        Ok(())
    }

    async fn list(&self) -> Result<Vec<ContainerId>, RuntimeError> {
        Ok(self.up()?.containers.keys().copied().collect())
    }

    async fn versions(&self) -> Result<Vec<(String, String)>, RuntimeError> {
        drop(self.up()?);
        Ok(vec![("fake".to_owned(), env!("CARGO_PKG_VERSION").to_owned())])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use teamster_values::{AbsolutePath, TaskId};

    use super::*;
    use crate::assignment::Network;
    use crate::runtime::{Identity, Keeping};

    fn container(args: &[&str]) -> ContainerSpec {
        let attempt = AttemptId { task: TaskId::from_bytes([1; 16]), attempt: 1 };
        let digest = String::new();
        ContainerSpec {
            id: ContainerId { attempt, executor: 0 },
            image: Image { name: "x".into(), chain_id: digest.clone(), digest, ..Image::default() },
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            env: Vec::new(),
            workdir: AbsolutePath::root(),
            workdir_scratch: PathBuf::new(),
            binds: Vec::new(),
            identity: Identity { uid: 1, gid: 1 },
            pids_max: 1,
            open_files_max: 1,
            shm_bytes: 1,
            limits: Resources::default(),
            stdin: None,
            stdout: PathBuf::from("/dev/null"),
            stderr: PathBuf::from("/dev/null"),
            private: PathBuf::new(),
            network: Network::None,
            keeping: Keeping::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_what_the_command_line_says() {
        for (args, code, out_of_memory) in [
            (vec!["sleep", "3600000", "9"], 9, false),
            (vec!["exit", "3"], 3, false),
            (vec!["oom"], 137, true),
            (vec!["anything"], 0, false),
        ] {
            let (runtime, spec) = (FakeRuntime::new(), container(&args));
            runtime.create(&spec).await.unwrap();
            assert_eq!(runtime.state(spec.id).await.unwrap(), ContainerState::Created);
            for _ in 0..2 {
                runtime.start(spec.id).await.unwrap();
                let exit = runtime.wait(spec.id).await.unwrap();
                assert_eq!((exit.code, exit.out_of_memory), (code, out_of_memory), "{args:?}");
            }
            assert_eq!(runtime.starts()[&spec.id], 1, "starting again does not run it again");
        }
        let failed = FakeRuntime::new().create(&container(&["fail-to-start"])).await;
        assert!(matches!(failed, Err(RuntimeError::CommandUnusable(_))));
    }

    #[tokio::test]
    async fn whoever_waits_is_told_of_a_kill_and_of_a_loss() {
        for is_lost in [false, true] {
            let (runtime, spec) = (Arc::new(FakeRuntime::new()), container(&["ignore-term"]));
            runtime.create(&spec).await.unwrap();
            runtime.start(spec.id).await.unwrap();
            let mut waiting = tokio::task::JoinSet::new();
            let (waiter, id) = (Arc::clone(&runtime), spec.id);
            waiting.spawn(async move { waiter.wait(id).await });
            tokio::task::yield_now().await;
            runtime.signal(id, Signal::Term).await.unwrap();
            assert_eq!(runtime.state(id).await.unwrap(), ContainerState::Running);
            if is_lost {
                runtime.lose(id);
            } else {
                runtime.signal(id, Signal::Kill).await.unwrap();
            }
            let result = waiting.join_next().await.unwrap().unwrap();
            assert_eq!(result.map(|exit| exit.code).ok(), (!is_lost).then_some(137));
        }
    }

    #[tokio::test]
    async fn down_means_unavailable_and_nothing_is_forgotten() {
        let (runtime, spec) = (FakeRuntime::new(), container(&["exit", "0"]));
        runtime.create(&spec).await.unwrap();
        runtime.set_down(true);
        assert!(matches!(runtime.start(spec.id).await, Err(RuntimeError::Unavailable(_))));
        runtime.set_down(false);
        assert_eq!(runtime.list().await.unwrap(), [spec.id]);
        assert!(runtime.starts().is_empty());
    }
}
