//! What containers write into their own root file systems counts as their attempts': the writable layer of a
//! container belongs to the attempt's project before anything is mounted of it.

use std::path::PathBuf;
use std::time::Duration;

use containerd_client::types::Mount;

use super::{Containerd, blocking};
use crate::runtime::ContainerId;
use crate::runtime::image::snapshot_root;

/// The agent does not start before this is over.
const DEADLINE: Duration = Duration::from_secs(2);

impl Containerd {
    /// Sees how the file system of containers' writable layers is with project quota. If containerd does not say in
    /// time where they lie, that is left to the first container.
    pub(super) async fn meet_snapshots(&self) {
        if !self.quotas.are_on() {
            return;
        }
        let asked = tokio::time::timeout(DEADLINE, snapshot_root(&self.link)).await;
        let Ok(Ok(root)) = asked else { return };
        let quotas = self.quotas.clone();
        if let Err(error) = blocking("look at the disk of containers", move || quotas.meet(&root)).await {
            tracing::warn!(%error, "cannot tell whether what containers write has a hard limit");
        }
    }

    /// Puts the writable layer of a container under the limits of its attempt.
    pub(super) async fn enclose_snapshot(&self, id: ContainerId, mounts: &[Mount]) {
        if !self.quotas.are_on() {
            return;
        }
        let (quotas, directories) = (self.quotas.clone(), writable(mounts));
        let enclose = move || quotas.enclose_too(id.attempt, &directories);
        if let Err(error) = blocking("limit what a container writes", enclose).await {
            tracing::warn!(container = %id, %error, "what it writes into its root file system is not limited");
        }
    }
}

/// The directories of a snapshot that are written to. Both must belong to one project: files are moved from one to
/// the other.
fn writable(mounts: &[Mount]) -> Vec<PathBuf> {
    let options = mounts.iter().filter(|mount| mount.r#type == "overlay").flat_map(|mount| &mount.options);
    let directory = |option: &String| {
        let path = option.strip_prefix("upperdir=").or_else(|| option.strip_prefix("workdir="))?;
        Some(PathBuf::from(path))
    };
    options.filter_map(directory).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_written_to() {
        let overlay = Mount {
            r#type: "overlay".into(),
            options: ["workdir=/s/3/work", "upperdir=/s/3/fs", "lowerdir=/s/2/fs"].map(Into::into).into(),
            ..Mount::default()
        };
        assert_eq!(writable(&[overlay]), [PathBuf::from("/s/3/work"), PathBuf::from("/s/3/fs")]);
        assert_eq!(writable(&[Mount::default()]), [] as [PathBuf; 0]);
    }
}
