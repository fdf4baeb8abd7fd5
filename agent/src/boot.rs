//! Who this machine is and since when: its boot id, its name, and a clock that counts while it sleeps.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::Config;

/// A moment on CLOCK_BOOTTIME: it never jumps and counts suspended time, and means nothing after a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(Duration);

impl BootInstant {
    /// Now.
    pub fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self(Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default()))
    }

    /// The moment this long after boot.
    pub fn after_boot(time: Duration) -> Self {
        Self(time)
    }

    /// How long after boot it is.
    pub fn since_boot(self) -> Duration {
        self.0
    }

    /// This moment and `time` more.
    pub fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }

    /// How long it is from `self` until `later`; zero when that has passed.
    pub fn until(self, later: Self) -> Duration {
        later.0.saturating_sub(self.0)
    }
}

/// Why this machine does not know itself. The texts fit after "failed to".
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {source}")]
pub struct BootError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BootError + 'a {
    move |source| BootError { action, path: path.to_owned(), source }
}

/// The kernel's boot id.
pub fn boot_id() -> Result<String, BootError> {
    read_kernel("/proc/sys/kernel/random/boot_id")
}

/// The stable name of this node: as configured, else `NODE_NAME` (set by Kubernetes), else one that is made
/// once and kept in the data directory.
pub fn node_id(config: &Config) -> Result<String, BootError> {
    if let Some(name) = &config.node_id {
        return Ok(name.clone());
    }
    if let Some(name) = std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty()) {
        return Ok(name);
    }
    kept_node_id(&config.data_dir)
}

fn kept_node_id(data_dir: &Path) -> Result<String, BootError> {
    let path = data_dir.join("node-id");
    match fs::read_to_string(&path) {
        Ok(name) if !name.trim().is_empty() => return Ok(name.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("read", &path)(error)),
        Ok(_) | Err(_) => {}
    }
    let host = rustix::system::uname();
    let random = read_kernel("/proc/sys/kernel/random/uuid")?;
    let name = format!("{}-{}", host.nodename().to_string_lossy(), &random[..8]);
    // Another name after a restart would be another node, so it must not be read half-written.
    let temporary = data_dir.join("node-id.new");
    fs::write(&temporary, format!("{name}\n")).map_err(at("write", &temporary))?;
    fs::File::open(&temporary).and_then(|file| file.sync_all()).map_err(at("sync", &temporary))?;
    fs::rename(&temporary, &path).map_err(at("write", &path))?;
    Ok(name)
}

fn read_kernel(path: &str) -> Result<String, BootError> {
    let text = fs::read_to_string(path).map_err(at("read", Path::new(path)))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_made_once() {
        let data = tempfile::tempdir().unwrap();
        let first = kept_node_id(data.path()).unwrap();
        assert_eq!(kept_node_id(data.path()).unwrap(), first);
        fs::write(data.path().join("node-id"), "").unwrap();
        assert_ne!(kept_node_id(data.path()).unwrap(), first, "an empty file names nobody");
        let config = Config { node_id: Some("n1".into()), ..Config::default() };
        assert_eq!(node_id(&config).unwrap(), "n1");
    }

    #[test]
    fn time_differences_do_not_go_below_zero() {
        let early = BootInstant::after_boot(Duration::from_secs(5));
        let late = early.plus(Duration::from_secs(3));
        assert_eq!(early.until(late), Duration::from_secs(3));
        assert_eq!(late.until(early), Duration::ZERO);
        assert!(BootInstant::now() > BootInstant::after_boot(Duration::ZERO));
    }
}
