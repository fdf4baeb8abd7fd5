//! The agent's own words for what it is told and what it tells. `session` converts between these and the
//! wire; the rest of the agent knows no proto. They are serde types because `attempt.json` keeps them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use teamster_values::{AbsolutePath, PathPattern, Reason, TaskId};

/// One attempt at a task: the fencing token of everything that is done for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// The task.
    pub task: TaskId,
    /// Counts from 1.
    pub attempt: u32,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.task, self.attempt)
    }
}

/// A task to run here, as the coordinator sent it and before this node's own policy has looked at it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// Which attempt this is.
    pub id: AttemptId,
    /// Commands, run one after the other.
    pub executors: Vec<Executor>,
    /// Files that must be there before the first executor starts.
    pub inputs: Vec<Input>,
    /// Files that must be in place before the task may be called complete.
    pub outputs: Vec<Output>,
    /// Empty directories that all executors share.
    pub volumes: Vec<AbsolutePath>,
    /// Limits that always apply.
    pub limits: Resources,
    /// How long the attempt may go on without a word from the coordinator.
    pub lease: Duration,
    /// What it may reach; this node's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// How long its executors may run, from the start of the first to the end of the last; none is for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<Duration>,
    /// Whether the images' entry points are run, with the commands as their arguments.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub image_entrypoint: bool,
}

/// What a task may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// Nothing but itself.
    #[default]
    None,
    /// What the node's operator allows, from an address of its own; nobody can reach it.
    Egress,
    /// All that the node itself may, its loopback included, and from its addresses.
    Host,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Egress => "egress",
            Self::Host => "host",
        })
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "egress" => Ok(Self::Egress),
            "host" => Ok(Self::Host),
            other => Err(format!("'{other}' is not offered; there are 'none', 'egress' and 'host'")),
        }
    }
}

/// An amount of what a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu_milli: u64,
    /// Memory, without swap.
    pub memory_bytes: u64,
    /// Scratch space.
    pub disk_bytes: u64,
}

/// One command in one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Executor {
    /// Reference of the image, as the user wrote it.
    pub image: String,
    /// The exact argv, after the image's entry point where the assignment says so; no shell is involved.
    pub command: Vec<String>,
    /// Working directory; the image's when absent.
    pub workdir: Option<AbsolutePath>,
    /// File in the container that is fed to standard input.
    pub stdin: Option<AbsolutePath>,
    /// File in the container that gets the whole standard output once the executor has ended.
    pub stdout: Option<AbsolutePath>,
    /// The same for standard error.
    pub stderr: Option<AbsolutePath>,
    /// Environment, over the image's.
    pub env: BTreeMap<String, String>,
    /// Whether the next executor runs even when this one fails.
    pub ignore_error: bool,
}

/// A file or directory, as TES tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A single file.
    File,
    /// A directory with all that is in it.
    Directory,
}

/// Something that must be in the container before it starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Where the container sees it.
    pub path: AbsolutePath,
    /// What it is.
    pub kind: FileKind,
    /// Where it comes from.
    pub source: InputSource,
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputSource {
    /// A storage URL.
    Url(String),
    /// The text itself.
    Content(String),
}

/// Something that the task leaves behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Where the container writes it; with wildcards, the directory in which everything lies that can match.
    pub path: AbsolutePath,
    /// What it is; with wildcards, whatever matches.
    pub kind: FileKind,
    /// Storage URL where it goes; with wildcards, the directory that stands for their prefix.
    pub url: String,
    /// Which of what the container writes, where not all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wildcards: Option<Wildcards>,
}

/// An output that is known by the form of its path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wildcards {
    /// The form.
    pub pattern: PathPattern,
    /// What is taken off a path that matches; the rest is its place below the URL.
    pub prefix: AbsolutePath,
}

/// What the coordinator tells an agent.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Run this.
    Start(Box<Assignment>),
    /// Kill it, then report how it ended.
    Stop(AttemptId),
    /// Its result is safe or unwanted: kill what runs, delete what is kept.
    Forget(AttemptId),
}

/// How far an attempt is, as the coordinator needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// No executor has been started.
    Preparing,
    /// This executor runs, since then.
    Running {
        /// Its index.
        executor: u32,
        /// When it started.
        since: Timestamp,
    },
    /// All executors are done, outputs are being put in place.
    Finalizing,
}

/// What an agent tells the coordinator.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// An attempt went on. Losing one of these loses nothing: the next inventory says it again.
    Progress(AttemptId, Stage),
    /// What is done now for an attempt that is being prepared, one line for people. It is good until the next
    /// word of the attempt; losing one loses nothing.
    Note(AttemptId, String),
    /// An attempt ended; told again in each inventory until a [`Command::Forget`] comes.
    Ended(AttemptId, Box<AttemptResult>),
}

/// One line of the inventory that opens each session.
#[derive(Debug, Clone, PartialEq)]
pub enum Held {
    /// It goes on.
    Live(AttemptId, Stage),
    /// It ended, and the coordinator has not yet said that it knows.
    Ended(AttemptId, Box<AttemptResult>),
}

/// Everything that is kept of an attempt that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptResult {
    /// How it ended.
    pub outcome: Outcome,
    /// Whether the first executor had been started.
    pub started: bool,
    /// One entry for each executor that ended, in order.
    pub executors: Vec<ExecutorLog>,
    /// The files that are in place.
    pub outputs: Vec<OutputFile>,
    /// What the user should know: reasons, warnings; oldest first.
    pub system_logs: Vec<String>,
    /// Why it did not end well; none when it did.
    #[serde(default)]
    pub reason: Option<Reason>,
    /// What was measured, by the names under which clients see it.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// When the agent took it up.
    pub start_time: Timestamp,
    /// When nothing of it was left to do.
    pub end_time: Timestamp,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All executors ended well (or may fail), all outputs are in place.
    Complete,
    /// The user's command failed.
    ExecutorError,
    /// It cannot run, here or elsewhere; the reason is the last line of the system log.
    SystemError,
    /// Stopped at the coordinator's word; nothing of it runs.
    Canceled,
    /// The infrastructure failed it; nothing of it runs here.
    Lost(LossCause),
}

/// Why the infrastructure lost an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossCause {
    /// The machine was restarted.
    Reboot,
    /// containerd, the shim, storage or this node failed it.
    NodeFault,
    /// Its lease ended.
    LeaseEnded,
    /// The operator stopped the node.
    NodeStopped,
}

/// How one executor ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecutorLog {
    /// The exact exit code; 128 + signal when a signal ended it.
    pub exit_code: i32,
    /// When it was started.
    pub start_time: Timestamp,
    /// When it ended.
    pub end_time: Timestamp,
    /// The last part of standard output, valid UTF-8.
    pub stdout_tail: String,
    /// The same of standard error.
    pub stderr_tail: String,
    /// The kernel killed it for memory.
    pub out_of_memory: bool,
    /// How much it wrote to standard output in all.
    #[serde(default)]
    pub stdout_bytes: u64,
    /// The same of standard error.
    #[serde(default)]
    pub stderr_bytes: u64,
}

/// A file that an attempt put in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// Where it is.
    pub url: String,
    /// Where the container wrote it.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
}
/// Whom a task runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id, never 0.
    pub uid: u32,
    /// Group id, never 0.
    pub gid: u32,
}
