//! `[disk]`: how the space of tasks on this node's disk is limited.

use serde::{Deserialize, Serialize};

/// The operator's word on disk space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskSettings {
    /// The least project id that tasks may get where the file system has project quota.
    pub first_project: u32,
    /// How many ids there are from that one on; 0 leaves project quota unused.
    pub projects: u32,
}

impl Default for DiskSettings {
    fn default() -> Self {
        // Far from where people, container engines and kubelets begin to count.
        Self { first_project: 1_600_000_000, projects: 100_000 }
    }
}

impl DiskSettings {
    /// The key that is wrong, and what would be right.
    pub(super) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.first_project == 0 {
            return Err(("disk.first_project", "must be at least 1: 0 is what belongs to no project"));
        }
        if self.first_project.checked_add(self.projects).is_none() {
            return Err((
                "disk.projects",
                "must leave the last id, first_project + projects, below 4294967296",
            ));
        }
        Ok(())
    }
}
