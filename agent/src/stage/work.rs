//! What is to be staged for one attempt: plain data that `task/plan.rs` makes, the parent reads and the
//! staging child gets as its request. No decisions and no I/O.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use teamster_values::{AbsolutePath, PathPattern};

use crate::assignment::{Assignment, OutputFile};
use crate::attempt_dir::AttemptDir;
use crate::config::Sandbox;
use crate::runtime::Identity;

/// All that is decided about an attempt before anything is done for it. Made by `task::plan::plan`.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub(crate) assignment: Assignment,
    pub(crate) identity: Identity,
    pub(crate) sandbox: Sandbox,
    pub(crate) dir: AttemptDir,
    /// What the container and the staging child see, outermost first.
    pub(crate) mounts: Vec<Mount>,
    /// Directories of shared storage that are pinned before anything uses them.
    pub(crate) pins: Vec<Pin>,
    /// Private directories, parents first.
    pub(crate) scratch: Vec<ScratchDir>,
    /// Directories on shared storage that the task's user makes.
    pub(crate) directories: Vec<Directory>,
    pub(crate) inputs: Vec<InputWork>,
    pub(crate) outputs: Vec<OutputWork>,
}

/// One mount of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mount {
    /// On the host; no task can write above it.
    pub(crate) source: PathBuf,
    pub(crate) destination: AbsolutePath,
    pub(crate) read_only: bool,
    pub(crate) follows_mounts: bool,
}

/// A private directory of the task's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScratchDir {
    /// Below the attempt's `scratch/`.
    pub(crate) relative: PathBuf,
    /// Writable by everybody and sticky, as programs expect `/tmp` to be.
    pub(crate) open_to_all: bool,
}

/// A directory of shared storage that the container gets under another name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pin {
    /// The part of the task that wants it, for messages.
    pub(crate) field: String,
    /// Root of the storage.
    pub(crate) storage: AbsolutePath,
    /// Below the root; empty for the root itself.
    pub(crate) relative: PathBuf,
    /// Whether it is made when it is missing.
    pub(crate) create: bool,
    /// Where it is attached, below the attempt's `binds/`.
    pub(crate) at: PathBuf,
}

/// A directory to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Directory {
    pub(crate) field: String,
    pub(crate) path: AbsolutePath,
}

/// One input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InputWork {
    /// `inputs[3]`.
    pub(crate) field: String,
    /// Where the task sees it.
    pub(crate) at: AbsolutePath,
    pub(crate) source: InputFrom,
}

/// What an input is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum InputFrom {
    /// Something on shared storage, under the path where the task sees the storage.
    Storage { path: AbsolutePath, url: String },
    /// Text.
    Content(String),
}

/// One output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OutputWork {
    /// `outputs[3]`.
    pub(crate) field: String,
    /// Where the task writes it; with a pattern, the directory that `to` stands for.
    pub(crate) from: AbsolutePath,
    /// Where it belongs, under the path where the task sees the storage.
    pub(crate) to: AbsolutePath,
    /// The same as the user wrote it, without a slash at the end.
    pub(crate) url: String,
    /// What is taken of `from`, where not all of it.
    pub(crate) pattern: Option<PathPattern>,
}

/// One line on the staging child's standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// A file that is locked while the child lives: a child whose agent died may still be ending.
    pub(crate) lock: PathBuf,
    /// A name that no other attempt has, for temporary files on shared storage.
    pub(crate) tag: String,
    /// Whom the work is done as.
    pub(crate) identity: Identity,
    /// Done first, outside the task's view.
    pub(crate) pins: Vec<Pin>,
    /// An existing directory that the child covers with the task's view, in its own mount namespace.
    pub(crate) cover: PathBuf,
    /// The task's view.
    pub(crate) mounts: Vec<Mount>,
    /// What is done in it; nothing when only pins were wanted.
    pub(crate) work: Option<Work>,
}

/// What a staging child does in the task's view, as the task's user.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Makes directories, places inputs.
    In { directories: Vec<Directory>, inputs: Vec<InputWork> },
    /// Copies files between the task's view and files that the agent keeps.
    Streams(Vec<Stream>),
    /// Puts outputs in place.
    Out(Vec<OutputWork>),
}

/// A standard stream that is a file in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stream {
    /// `executors[0].stdout`.
    pub(crate) field: String,
    /// In the container.
    pub(crate) path: AbsolutePath,
    /// What the agent keeps; in a directory that only root can enter.
    pub(crate) kept: PathBuf,
    pub(crate) direction: Direction,
}

/// Which way a stream is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Direction {
    /// From the container to the agent's file.
    Capture,
    /// From the agent's file to the container.
    Install,
}

/// What became of the outputs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedOut {
    /// The files that are in place.
    pub files: Vec<OutputFile>,
    /// Lines for the task's system log: what was not found, and what was left out.
    pub warnings: Vec<String>,
}

/// Why staging failed. The texts fit after "failed to …:".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum StageError {
    /// The task's own fault: it would fail elsewhere too.
    #[error("{0}")]
    Task(String),
    /// The same: something that the task names is not there.
    #[error("{0}")]
    Missing(String),
    /// This node's fault, or that of the storage as this node sees it.
    #[error("{0}")]
    Node(String),
}
