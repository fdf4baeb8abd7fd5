//! What each test stands on: a containerd of its own with one image, a runtime that speaks to it, and
//! directories as the agent would make them.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use teamster_agent::assignment::{AttemptId, Network, Resources};
use teamster_agent::attempt_dir::AttemptDir;
use teamster_agent::boot::BootInstant;
use teamster_agent::lease;
use teamster_agent::runtime::{
    ContainerId, ContainerSpec, Containerd, Exit, Identity, Keeping, Programs, Runtime, RuntimeError, image,
};
use teamster_integration::containerd::{PrivateContainerd, can_run_containers};
use teamster_integration::image::TestImage;
use teamster_values::{AbsolutePath, TaskId};
use tempfile::TempDir;

pub(crate) const IMAGE: &str = "docker.io/library/busybox:latest";

/// Whom containers run as in these tests.
pub(crate) const WHO: Identity = Identity { uid: 4711, gid: 4712 };

/// No step of a test takes longer than this, or something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Stand {
    pub(crate) containerd: PrivateContainerd,
    pub(crate) runtime: Containerd,
    pub(crate) home: TempDir,
}

/// How a command ended and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Stand {
    /// `None` where real containers are skipped.
    pub(crate) async fn with(image: TestImage) -> Option<Self> {
        if !can_run_containers() {
            return None;
        }
        let containerd = PrivateContainerd::start();
        let home = tempfile::tempdir().unwrap();
        let runtime =
            Containerd::connect(&containerd.socket()).with_programs(Programs::install(home.path()).unwrap());
        let stand = Self { containerd, runtime, home };
        image::import(&stand.containerd.socket(), Cursor::new(image.oci_archive())).await.unwrap();
        Some(stand)
    }

    pub(crate) async fn new() -> Option<Self> {
        Self::with(TestImage::named(IMAGE)).await
    }

    /// A container of a new attempt, with all files that must be there.
    pub(crate) async fn container(&self, args: &[&str]) -> ContainerSpec {
        let id = ContainerId { attempt: new_attempt(), executor: 0 };
        let dir = AttemptDir::new(self.home.path(), id.attempt);
        dir.make().unwrap();
        dir.make_logs(id.executor).unwrap();
        lease::create(&dir.lease(), BootInstant::now()).unwrap();
        let work = dir.path().join("work");
        fs::create_dir(&work).unwrap();
        chown(&work, Some(WHO.uid), Some(WHO.gid)).unwrap();
        ContainerSpec {
            id,
            image: self.runtime.image("busybox").await.unwrap(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            env: vec!["PATH=/bin".to_owned()],
            workdir: AbsolutePath::root(),
            workdir_scratch: work,
            binds: Vec::new(),
            identity: WHO,
            pids_max: 64,
            open_files_max: 1 << 20,
            shm_bytes: 32 << 20,
            limits: Resources { cpu_milli: 1000, memory_bytes: 64 << 20, disk_bytes: 1 << 30 },
            stdin: None,
            stdout: dir.stdout(id.executor),
            stderr: dir.stderr(id.executor),
            private: dir.private(),
            network: Network::None,
            keeping: Keeping {
                talk: dir.talk(id.executor),
                record: dir.keeper_record(id.executor),
                lease: dir.lease(),
                lease_length: Duration::from_secs(3600),
                ..Keeping::default()
            },
        }
    }

    /// A container that runs this script.
    pub(crate) async fn shell(&self, script: &str) -> ContainerSpec {
        self.container(&["/bin/sh", "-c", script]).await
    }

    /// A directory of the host that belongs to the task's user.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.home.path().join(name);
        fs::create_dir_all(&path).unwrap();
        chown(&path, Some(WHO.uid), Some(WHO.gid)).unwrap();
        path
    }

    pub(crate) async fn start(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        self.runtime.prepare_attempt(spec.id.attempt, &spec.limits).await?;
        self.runtime.create(spec).await?;
        self.runtime.start(spec.id).await
    }

    pub(crate) async fn wait(&self, spec: &ContainerSpec) -> Result<Exit, RuntimeError> {
        tokio::time::timeout(DEADLINE, self.runtime.wait(spec.id)).await.expect("the container hangs")
    }

    pub(crate) async fn remove(&self, spec: &ContainerSpec) {
        let removed = async {
            loop {
                match self.runtime.remove(spec.id).await {
                    // A connection to a containerd that was killed since is noticed by its first use. The agent
                    // asks again too.
                    Err(RuntimeError::Unavailable(_)) => {
                        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    }
                    other => return other,
                }
            }
        };
        tokio::time::timeout(DEADLINE, removed).await.expect("containerd stays away").unwrap();
        self.runtime.release_attempt(spec.id.attempt).await.unwrap();
    }

    /// The whole life of a container.
    pub(crate) async fn run(&self, spec: &ContainerSpec) -> Ended {
        self.start(spec).await.unwrap();
        let exit = self.wait(spec).await.unwrap();
        self.remove(spec).await;
        let text = |path| fs::read_to_string(path).unwrap();
        Ended { exit, stdout: text(&spec.stdout), stderr: text(&spec.stderr) }
    }

    /// What a script printed; it must have ended well.
    pub(crate) async fn say(&self, script: &str) -> String {
        let ended = self.run(&self.shell(script).await).await;
        assert_eq!(ended.exit.code, 0, "{ended:?}");
        ended.stdout
    }

    /// Looks until `done` says so.
    pub(crate) async fn until(&self, what: &str, done: impl Fn() -> bool) {
        let look = async {
            while !done() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, look).await.unwrap_or_else(|_| panic!("never happened: {what}"));
    }
}

/// Unique on this machine: cgroups are named after it, and tests run side by side.
pub(crate) fn new_attempt() -> AttemptId {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&nanos.to_be_bytes());
    bytes[8..12].copy_from_slice(&std::process::id().to_be_bytes());
    bytes[12..].copy_from_slice(&(COUNT.fetch_add(1, Ordering::Relaxed) as u32).to_be_bytes());
    AttemptId { task: TaskId::from_bytes(bytes), attempt: 1 }
}
