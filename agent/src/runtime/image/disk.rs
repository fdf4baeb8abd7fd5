//! The disk on which containerd keeps images. It only looks.

use std::path::{Path, PathBuf};

use containerd_client::services::v1::PluginsRequest;

use crate::runtime::RuntimeError;
use crate::runtime::containerd::{Link, QUICK, SNAPSHOTTER, call, failure};

/// How full a disk is, as those see it who are not root.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disk {
    pub(super) free_bytes: u64,
    pub(super) fill_percent: u8,
}

/// Where containerd unpacks images.
pub(in crate::runtime) async fn snapshot_root(link: &Link) -> Result<PathBuf, RuntimeError> {
    let filters = vec![format!("type==io.containerd.snapshotter.v1,id=={SNAPSHOTTER}")];
    let request = call(PluginsRequest { filters }, QUICK);
    let answer = link.client().introspection().plugins(request).await;
    let plugins = answer.map_err(|status| failure("ask where images are kept", &status))?.into_inner();
    let root = plugins.plugins.into_iter().find_map(|mut plugin| plugin.exports.remove("root"));
    root.map(PathBuf::from).ok_or_else(|| RuntimeError::Failed {
        action: "ask where images are kept".to_owned(),
        reason: "containerd does not say".to_owned(),
    })
}

/// Looks at the disk of a directory.
pub(super) async fn look(directory: &Path) -> Result<Disk, RuntimeError> {
    let path = directory.to_owned();
    let looked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&path)).await;
    let disk = looked.map_err(std::io::Error::from).and_then(|disk| Ok(disk?));
    let disk = disk.map_err(|error| RuntimeError::Failed {
        action: format!("look at the disk of {}", directory.display()),
        reason: error.to_string(),
    })?;
    let free_percent = disk.f_bavail.saturating_mul(100) / disk.f_blocks.max(1);
    Ok(Disk {
        free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
        fill_percent: 100 - u8::try_from(free_percent.min(100)).unwrap_or(100),
    })
}
