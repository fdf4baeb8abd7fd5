//! What the operator wrote, checked. Unknown keys are refused; sizes and times carry units.

mod disk;
mod images;
mod network;
mod oci_runtime;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use teamster_values::{AbsolutePath, ByteCount, Period};

pub use self::disk::DiskSettings;
pub(crate) use self::images::ImagePattern;
pub use self::images::{ImageSettings, PullPolicy, RegistrySettings};
pub use self::network::{Destination, NetworkPolicy};
pub use self::oci_runtime::OciRuntime;
use crate::assignment::Identity;

/// The least `log_max`: the end of a log goes with the task's result and is a part of it.
const LOG_MAX_LEAST: u64 = 256 << 10;

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the agent keeps its attempts; root-only, on a local disk, never under a home directory.
    pub data_dir: PathBuf,
    /// Address of the coordinator's agent port: `host:port`.
    pub coordinator: String,
    /// Name of this node. When absent: `NODE_NAME`, else one that is made once and kept in the data directory.
    pub node_id: Option<String>,
    /// containerd's socket.
    pub containerd: PathBuf,
    /// The program that makes containers under containerd's shim.
    pub runtime: OciRuntime,
    /// Whether small programs of our own do those steps of a container that need no more than a few system calls.
    pub stand_ins: bool,
    /// How long a task has between SIGTERM and SIGKILL.
    pub grace_period: Period,
    /// How long whole logs are kept on this node after a task has ended; zero keeps none.
    pub log_retention: Period,
    /// Below this much room on the disk of `data_dir` the node takes no new tasks; 0 for never.
    pub disk_floor: ByteCount,
    /// The most that is kept of each stream of each executor, except of one that the task names a file for.
    pub log_max: ByteCount,
    /// What this node offers, where it is not to be measured.
    pub capacity: CapacityOverride,
    /// What is kept back of what is measured.
    pub reserve: Reserve,
    /// How tasks are confined.
    pub sandbox: Sandbox,
    /// How their disk space is limited.
    pub disk: DiskSettings,
    /// What tasks may reach.
    pub network: NetworkPolicy,
    /// Which images tasks may use and how they come here.
    pub images: ImageSettings,
    /// How single registries are spoken to.
    pub registry: Vec<RegistrySettings>,
    /// Shared storage.
    pub storage: Vec<StorageConfig>,
    /// The program that is started again for disposable child processes; this one unless a test says so.
    #[serde(skip)]
    pub program: PathBuf,
}

/// `[capacity]`: overrides what is measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CapacityOverride {
    /// CPUs; fractions are fine.
    pub cpus: Option<f64>,
    /// Memory.
    pub memory: Option<ByteCount>,
    /// Scratch space.
    pub disk: Option<ByteCount>,
}

/// `[reserve]`: kept for the node itself when capacity is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reserve {
    /// CPUs.
    pub cpus: f64,
    /// Memory.
    pub memory: ByteCount,
    /// Scratch space.
    pub disk: ByteCount,
}

/// `[sandbox]`: what every task is confined to, whatever the coordinator says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sandbox {
    /// User id of tasks; never 0.
    pub uid: u32,
    /// Group id of tasks; never 0.
    pub gid: u32,
    /// Most processes and threads of a task.
    pub pids_max: u64,
    /// Most files, directories and links of a task on this node's disk.
    pub files_max: u64,
    /// How many files each process of a task may have open, where this machine allows as much.
    pub open_files_max: u64,
    /// The size of `/dev/shm` in hundredths of the task's memory, of which it is a part.
    pub shm_percent: u8,
    /// Whether images' entry points are run for tasks that ask for it.
    pub image_entrypoint: bool,
}

impl Sandbox {
    /// Whom tasks run as.
    pub fn identity(&self) -> Identity {
        Identity { uid: self.uid, gid: self.gid }
    }
}

/// `[[storage]]`: one shared storage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// What logs and messages call it.
    pub name: String,
    /// What it is.
    pub kind: StorageKind,
    /// Where host, tasks and URLs see it; at least two components, such as `/mnt/shared`.
    pub path: AbsolutePath,
}

/// What a storage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StorageKind {
    /// A directory of this machine, or one that something else has mounted.
    Directory,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/teamster/agent".into(),
            coordinator: "127.0.0.1:8002".into(),
            node_id: None,
            containerd: "/run/containerd/containerd.sock".into(),
            runtime: OciRuntime::Runc,
            stand_ins: true,
            grace_period: Period(Duration::from_secs(10)),
            log_retention: Period(Duration::from_secs(24 * 60 * 60)),
            disk_floor: ByteCount(1 << 30),
            log_max: ByteCount(64 << 20),
            capacity: CapacityOverride::default(),
            reserve: Reserve::default(),
            sandbox: Sandbox::default(),
            disk: DiskSettings::default(),
            network: NetworkPolicy::default(),
            images: ImageSettings::default(),
            registry: Vec::new(),
            storage: Vec::new(),
            program: "/proc/self/exe".into(),
        }
    }
}

impl Default for Reserve {
    fn default() -> Self {
        Self { cpus: 0.0, memory: ByteCount(512 << 20), disk: ByteCount(2 << 30) }
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            uid: 65534,
            gid: 65534,
            pids_max: 4096,
            files_max: 1_000_000,
            open_files_max: 1 << 20,
            shm_percent: 50,
            image_entrypoint: true,
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML of this form.
    #[error("parse {path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value is out of range.
    #[error("{field}: {reason}")]
    Invalid {
        /// The key.
        field: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
}

impl Config {
    /// Reads and checks a file.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        config.check()?;
        Ok(config)
    }

    /// Refuses what would be unsafe or could never work.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |field: &str, reason: &str| {
            Err(ConfigError::Invalid { field: field.to_owned(), reason: reason.to_owned() })
        };
        if !self.data_dir.is_absolute() {
            return refuse("data_dir", "must be an absolute path");
        }
        if self.sandbox.uid == 0 || self.sandbox.gid == 0 {
            return refuse("sandbox.uid, sandbox.gid", "must not be 0: tasks never run as root");
        }
        if self.sandbox.uid > i32::MAX as u32 || self.sandbox.gid > i32::MAX as u32 {
            return refuse("sandbox.uid, sandbox.gid", "must be below 2147483648");
        }
        if self.sandbox.pids_max < 16 {
            return refuse("sandbox.pids_max", "must be at least 16");
        }
        if self.sandbox.files_max < 100 {
            return refuse("sandbox.files_max", "must be at least 100");
        }
        if self.sandbox.open_files_max < 64 {
            return refuse("sandbox.open_files_max", "must be at least 64");
        }
        if !(1..=100).contains(&self.sandbox.shm_percent) {
            return refuse("sandbox.shm_percent", "must be from 1 to 100");
        }
        if self.log_max.0 < LOG_MAX_LEAST {
            return refuse("log_max", "must be at least 256KiB");
        }
        if self.capacity.cpus.is_some_and(|cpus| !cpus.is_finite() || cpus <= 0.0) {
            return refuse("capacity.cpus", "must be a number above 0");
        }
        self.disk.check().or_else(|(field, reason)| refuse(field, reason))?;
        self.network.check().or_else(|(field, reason)| refuse(field, reason))?;
        images::check(&self.images, &self.registry)
            .map_err(|(field, reason)| ConfigError::Invalid { field, reason })?;
        for (index, storage) in self.storage.iter().enumerate() {
            if storage.path.depth() < 2 {
                return refuse(
                    &format!("storage[{index}].path"),
                    "must have at least two components, such as /mnt/shared",
                );
            }
            let name_is_plain =
                storage.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            if storage.name.is_empty() || !name_is_plain {
                return refuse(&format!("storage[{index}].name"), "must be of a-z, 0-9 and '-'");
            }
            let clash = self.storage[..index].iter().find(|other| {
                other.name == storage.name
                    || other.path.starts_with(&storage.path)
                    || storage.path.starts_with(&other.path)
            });
            if let Some(other) = clash {
                return refuse(
                    &format!("storage[{index}]"),
                    &format!("shares its name or path with storage '{}'", other.name),
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_example_shows() {
        let config: Config = toml::from_str(
            r#"
            data_dir = "/var/lib/teamster/agent"
            grace_period = "5s"
            [capacity]
            cpus = 40
            memory = "80GiB"
            [[storage]]
            name = "shared"
            kind = "directory"
            path = "/mnt/shared"
            "#,
        )
        .unwrap();
        config.check().unwrap();
        assert_eq!(config.capacity.memory, Some(ByteCount(80 << 30)));
        assert_eq!(config.storage[0].path.as_str(), "/mnt/shared");
    }

    #[test]
    fn refuses_what_is_unsafe() {
        for (text, field) in [
            ("[sandbox]\nuid = 0", "sandbox.uid"),
            ("[[storage]]\nname = 'a'\nkind = 'directory'\npath = '/mnt'", "storage[0].path"),
            ("[[storage]]\nname = '../a'\nkind = 'directory'\npath = '/mnt/a'", "storage[0].name"),
            ("data_dir = 'x'", "data_dir"),
        ] {
            let error = toml::from_str::<Config>(text).unwrap().check().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        assert!(toml::from_str::<Config>("colour = 'red'").is_err(), "unknown keys are refused");
    }
}
