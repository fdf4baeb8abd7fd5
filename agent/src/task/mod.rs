//! The life of one task on this node. `plan.rs` and `policy.rs` decide without touching anything, `run.rs`
//! drives an attempt from whatever phase it is in to its end, `steps.rs` are the steps forward, `ending.rs`
//! the ways out, `limits.rs` what ends a task that takes more than it may, `making.rs` what a container may have
//! to wait for. Nothing here knows of the coordinator: orders come in and reports go out by channel.

mod ending;
mod limits;
pub mod logs;
mod making;
pub mod plan;
mod policy;
mod pulling;
mod result;
mod run;
mod staging;
mod steps;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::assignment::Resources;
use crate::attempt::StopReason;
use crate::config::Config;
use crate::disk::DiskWatch;
use crate::image_care::WantedImages;
use crate::log_reader::Stages;
use crate::runtime::Runtime;

pub use run::{Run, Until};
pub use staging::Staging;

/// What all tasks of this node share.
pub struct Node {
    /// What the operator wrote.
    pub config: Config,
    /// The kernel's boot id.
    pub boot_id: String,
    /// What the node offers.
    pub capacity: Resources,
    /// Runs containers.
    pub runtime: Arc<dyn Runtime>,
    /// Moves files.
    pub staging: Arc<dyn Staging>,
    /// Owns what waits for the local disk, so that nobody leaves while a record is being written.
    pub disk: TaskTracker,
    /// Measures what tasks write while they run.
    pub disk_watch: Arc<DiskWatch>,
    /// How far the attempts of this node are, for whoever reads their logs.
    pub stages: Arc<Stages>,
    /// The images that its attempts name.
    pub wanted_images: Arc<WantedImages>,
}

/// What the supervisor wants of an attempt. Orders are never taken back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orders {
    /// End it, for this reason. Changes nothing once the result is decided.
    pub stop: Option<StopReason>,
    /// Its result is safe or unwanted: delete everything once it has ended.
    pub forget: bool,
}
