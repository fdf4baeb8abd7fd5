//! The seam to what runs containers. `containerd.rs` is the real one and the only file that speaks to
//! containerd; `fake.rs` is for tests. Everything here is idempotent, because the caller may have been
//! killed after any step and will ask again.

mod cgroup;
mod containerd;
mod etc;
pub mod fake;
pub mod image;
mod mount_points;
pub mod network;
mod programs;
mod rootfs;
mod sandbox;
mod seccomp;
pub mod versions;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use teamster_values::AbsolutePath;

pub use self::cgroup::{OciRuntimeUnusable, check_oci_runtime};
pub use self::containerd::Containerd;
pub use self::programs::{Programs, ProgramsError};
pub use crate::assignment::Identity;
use crate::assignment::{AttemptId, Network, Resources};

/// Runs containers on this node.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// The image behind a reference, ready to make containers from: pulled if need be, where that is
    /// permitted.
    async fn image(&self, reference: &str) -> Result<Image, RuntimeError>;

    /// How far the pull of this image is, one line for people; none while it is not being pulled.
    fn pulling(&self, _reference: &str) -> Option<String> {
        None
    }

    /// Removes images that are no longer needed, where the operator wants that. `wanted` are the references
    /// of all tasks on this node; what they mean is kept.
    async fn sweep_images(&self, _wanted: &BTreeSet<String>) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Makes the attempt's cgroup with its limits. Containers of the attempt go below it.
    async fn prepare_attempt(&self, id: AttemptId, limits: &Resources) -> Result<(), RuntimeError>;

    /// Makes a container, not started. One that exists under this id and was made for the same attempt is
    /// taken as it is; a half-made one is made anew.
    async fn create(&self, container: &ContainerSpec) -> Result<(), RuntimeError>;

    /// Starts a created container. One that runs or has ended is left alone.
    async fn start(&self, id: ContainerId) -> Result<(), RuntimeError>;

    /// What containerd knows of a container now.
    async fn state(&self, id: ContainerId) -> Result<ContainerState, RuntimeError>;

    /// Waits for the end of a started container, through restarts of containerd. `Err(NotFound)` means that
    /// it is gone and its exit code with it, `Err(CommandUnusable)` that nothing of the user's ever ran in it.
    async fn wait(&self, id: ContainerId) -> Result<Exit, RuntimeError>;

    /// Sends a signal to the container's first process. One that is gone is fine.
    async fn signal(&self, id: ContainerId, signal: Signal) -> Result<(), RuntimeError>;

    /// Removes a container that does not run (a running one is killed first): task, snapshot, record. One
    /// that is gone is fine.
    async fn remove(&self, id: ContainerId) -> Result<(), RuntimeError>;

    /// Whether nothing of the attempt is alive and the streams of its last container are whole, after this
    /// container was waited for: then removing it can wait until nobody waits for that.
    async fn is_over(&self, id: ContainerId) -> bool;

    /// Kills whatever is left in the attempt's cgroup, sees that it is empty and removes it. Call it after
    /// the last container was removed.
    async fn release_attempt(&self, id: AttemptId) -> Result<(), RuntimeError>;

    /// The processes of an attempt that live now. Blocks for a short time.
    fn processes(&self, _id: AttemptId) -> Vec<i32> {
        Vec::new()
    }

    /// Every container of ours that exists here.
    async fn list(&self) -> Result<Vec<ContainerId>, RuntimeError>;

    /// What containers can be given here beside having no network.
    fn networks(&self) -> Vec<Network> {
        Vec::new()
    }

    /// Names and versions of what runs containers here, for people.
    async fn versions(&self) -> Result<Vec<(String, String)>, RuntimeError>;

    /// What tasks could need and this node's kernel or programs lack, one short clause each, for people.
    async fn lacks(&self) -> Vec<String> {
        Vec::new()
    }
}

/// One executor's container: `<task>-<attempt>-<executor>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId {
    /// The attempt it belongs to.
    pub attempt: AttemptId,
    /// Index of the executor.
    pub executor: u32,
}

impl std::fmt::Display for ContainerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.attempt, self.executor)
    }
}

impl std::str::FromStr for ContainerId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('-');
        let (Some(task), Some(attempt), Some(executor), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(());
        };
        let attempt =
            AttemptId { task: task.parse().map_err(|_| ())?, attempt: attempt.parse().map_err(|_| ())? };
        Ok(Self { attempt, executor: executor.parse().map_err(|_| ())? })
    }
}

/// An image on this node, and all of its configuration that is obeyed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Full name: `docker.io/library/busybox:latest`.
    pub name: String,
    /// Digest of what the name stands for, `sha256:…`.
    pub digest: String,
    /// Chain id of the topmost layer: the parent of the container's snapshot.
    pub chain_id: String,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// What goes before the command where the task asks for it; empty when the image names none.
    pub entrypoint: Vec<String>,
    /// Where commands run unless the task says otherwise.
    pub workdir: Option<AbsolutePath>,
    /// The pull that brought it, if it had to be pulled now.
    pub pulled: Option<image::Pulled>,
}

/// Everything that a runtime must know to make a container. `task/plan.rs` makes it; nothing in it comes
/// from an image but what [`Image`] holds.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSpec {
    /// Its name.
    pub id: ContainerId,
    /// What it runs in.
    pub image: Image,
    /// The exact argv.
    pub args: Vec<String>,
    /// `KEY=value`, complete.
    pub env: Vec<String>,
    /// Where the command runs.
    pub workdir: AbsolutePath,
    /// A private directory for the working directory, used only when the image has none there and no bind
    /// covers it.
    pub workdir_scratch: PathBuf,
    /// Directories of the host, outermost first.
    pub binds: Vec<Bind>,
    /// Whom it runs as.
    pub identity: Identity,
    /// Most processes and threads at one time, over the whole attempt.
    pub pids_max: u64,
    /// How many files each of its processes may have open.
    pub open_files_max: u64,
    /// Size of `/dev/shm`; what lies there counts as memory.
    pub shm_bytes: u64,
    /// Limits; the attempt's cgroup holds them.
    pub limits: Resources,
    /// File whose content is standard input; nothing when absent.
    pub stdin: Option<PathBuf>,
    /// File that gets standard output.
    pub stdout: PathBuf,
    /// File that gets standard error.
    pub stderr: PathBuf,
    /// A root-only directory for generated files such as `/etc/passwd`.
    pub private: PathBuf,
    /// What it may reach.
    pub network: Network,
    /// What its keeper is told.
    pub keeping: Keeping,
}

/// What the keeper of a container's streams is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keeping {
    /// A directory of root's own, made anew for the container, in which its first process meets the keeper.
    pub talk: PathBuf,
    /// The keeper's record, made anew for the container.
    pub record: PathBuf,
    /// The lease's file.
    pub lease: PathBuf,
    /// How long a lease is.
    pub lease_length: Duration,
    /// The most that is kept of standard output, in bytes; none keeps all.
    pub stdout_max_bytes: Option<u64>,
    /// The same for standard error.
    pub stderr_max_bytes: Option<u64>,
}

/// A directory of the host, shown in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// On the host; nothing that a task can write lies above it.
    pub source: PathBuf,
    /// In the container.
    pub destination: AbsolutePath,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether mounts made below it later show up in the container: for shared storage.
    pub follows_mounts: bool,
}

/// What is known of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// There is none.
    Missing,
    /// Made, not started.
    Created,
    /// It runs.
    Running,
    /// It ended.
    Exited(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128 + signal for a signal.
    pub code: u32,
    /// When, by the runtime's clock.
    pub at: Timestamp,
    /// Whether the kernel killed something in it for memory.
    pub out_of_memory: bool,
    /// What it used; none where that cannot be known.
    pub usage: Option<Usage>,
}

/// What a container used, as its cgroup counted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The most memory at any time; none where the kernel does not count it.
    pub peak_memory_bytes: Option<u64>,
    /// CPU time in all.
    pub cpu_micros: u64,
    /// CPU time of its programs.
    pub user_cpu_micros: u64,
    /// CPU time of the kernel on its behalf.
    pub system_cpu_micros: u64,
    /// Bytes read from block devices and written to them; none where the kernel does not count them.
    pub io_bytes: Option<[u64; 2]>,
    /// How often a process or thread was refused at the limit.
    pub refused_processes: u64,
}

/// The two signals that the agent sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Please end.
    Term,
    /// End.
    Kill,
}

/// Why a runtime did not do as asked. The texts fit after "failed to …:".
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// Nobody answers; it may come back.
    #[error("containerd does not answer: {0}")]
    Unavailable(String),
    /// There is no such image.
    #[error("image '{reference}' is not there: {reason}")]
    ImageNotFound {
        /// As the user wrote it.
        reference: String,
        /// Who says so, in its own words.
        reason: String,
    },
    /// The registry does not give it to us.
    #[error("image '{reference}' is not given to this node: {reason}")]
    ImageUnauthorized {
        /// As the user wrote it.
        reference: String,
        /// What the registry says.
        reason: String,
    },
    /// This node does not take it.
    #[error("image '{reference}' may not be used: {reason}")]
    ImageRefused {
        /// As the user wrote it.
        reference: String,
        /// The setting that says so.
        reason: String,
    },
    /// It did not come, and may come later or elsewhere.
    #[error("image '{reference}' could not be pulled: {reason}")]
    PullFailed {
        /// As the user wrote it.
        reference: String,
        /// What happened.
        reason: String,
    },
    /// The reference or the image itself is no good; it will not be elsewhere either.
    #[error("image '{reference}' cannot be used: {reason}")]
    ImageUnusable {
        /// As the user wrote it.
        reference: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no such container, or no such task in it.
    #[error("container {0} is gone")]
    NotFound(ContainerId),
    /// The command could not be executed: no such file in the image, not executable, bad working directory.
    /// The user's error, told in runc's own words.
    #[error("cannot start the command: {0}")]
    CommandUnusable(String),
    /// The container's lease was over with no agent there, so it was killed.
    #[error("the coordinator was not heard for the length of the lease, and container {0} was killed")]
    LeaseEnded(ContainerId),
    /// What kept its streams was killed; how it ended, and what it wrote, cannot be known.
    #[error("the keeper of container {0} was killed, and what the command wrote and how it ended are lost")]
    KeeperLost(ContainerId),
    /// The container has ended and nothing of the task ever ran in it.
    #[error("container {0} ended before its command was started")]
    NeverBegan(ContainerId),
    /// The container was made and waits for its way out: other tasks of this node have all addresses.
    #[error("{0}")]
    NoAddress(String),
    /// Anything else that this node could not do.
    #[error("{action}: {reason}")]
    Failed {
        /// What was tried.
        action: String,
        /// What came back.
        reason: String,
    },
}
