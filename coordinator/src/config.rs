//! What the operator wrote, checked. Unknown keys are refused; sizes and times carry units.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use teamster_values::{AbsolutePath, ByteCount, Period};

use crate::parameters::{Entrypoint, TaskPolicy};

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the database lives.
    pub data_dir: PathBuf,
    /// Listener of the REST API.
    pub http: SocketAddr,
    /// Listener of the gRPC API.
    pub grpc: SocketAddr,
    /// Listener for agents.
    pub agents: SocketAddr,
    /// Allows listeners that others can reach although anybody who reaches them may do anything.
    pub insecure_open: bool,
    /// Paths of shared storage that agents may offer; input and output URLs must lie below one of them.
    pub storage: Vec<AbsolutePath>,
    /// The image of tasks in the short form, which name none; without it they are refused.
    pub default_image: Option<String>,
    /// Whether the images' entry points are run for tasks that do not say.
    pub default_entrypoint: Entrypoint,
    /// How long the executors of a task may run that names no time; for ever when absent.
    pub default_timeout: Option<Period>,
    /// How long the executors of any task may run; for ever when absent.
    pub max_timeout: Option<Period>,
    /// Whether Cromwell's request, sent again within ten minutes, makes no second task.
    pub deduplicate_cromwell: bool,
    /// Who runs this service, for service-info.
    pub organization_name: String,
    /// Their web page.
    pub organization_url: String,
    /// How long an attempt may go on without its agent being heard.
    pub lease: Period,
    /// The same for tasks that say `preemptible`.
    pub preemptible_lease: Period,
    /// How long after a lease's end its attempt is held to be dead.
    pub lease_margin: Period,
    /// What happens to an attempt that the infrastructure lost after its first executor had started.
    pub retry_started: RetryStarted,
    /// How many attempts in all are made while the infrastructure fails them.
    pub max_attempts: u32,
    /// Time between two heartbeats of an agent; a session is given up after four of them in silence.
    pub heartbeat: Period,
    /// How long a task that has ended is kept.
    pub task_retention: Period,
    /// How long what an attempt left that this cluster does not know is kept on its node, from its end on.
    pub stranger_retention: Period,
    /// Below this much room on the disk of `data_dir` no new task is taken; 0 for never.
    pub disk_floor: ByteCount,
}

/// The scheduler can tell some more apart, and has other uses for the rest.
const STORAGES_MAX: usize = 60;

/// What happens to an attempt that is lost after its first executor had started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryStarted {
    /// It is run again only where the task says `preemptible`.
    IfPreemptible,
    /// It is always run again.
    Always,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/teamster/coordinator".into(),
            http: SocketAddr::from(([127, 0, 0, 1], 8000)),
            grpc: SocketAddr::from(([127, 0, 0, 1], 8001)),
            agents: SocketAddr::from(([127, 0, 0, 1], 8002)),
            insecure_open: false,
            storage: Vec::new(),
            default_image: None,
            default_entrypoint: Entrypoint::None,
            default_timeout: None,
            max_timeout: None,
            deduplicate_cromwell: false,
            organization_name: "Teamster cluster".to_owned(),
            // Required by the specification, and this name can belong to nobody.
            organization_url: "http://teamster.invalid".to_owned(),
            lease: Period(Duration::from_secs(60 * 60)),
            preemptible_lease: Period(Duration::from_secs(2 * 60)),
            lease_margin: Period(Duration::from_secs(2 * 60)),
            retry_started: RetryStarted::IfPreemptible,
            max_attempts: 4,
            heartbeat: Period(Duration::from_secs(5)),
            task_retention: Period(Duration::from_secs(30 * 24 * 60 * 60)),
            stranger_retention: Period(Duration::from_secs(24 * 60 * 60)),
            disk_floor: ByteCount(1 << 30),
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
        field: &'static str,
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

    /// What the operator decided about every task alike.
    pub fn task_policy(&self) -> TaskPolicy {
        TaskPolicy {
            default_timeout: self.default_timeout.map(|period| period.0),
            max_timeout: self.max_timeout.map(|period| period.0),
            default_entrypoint: self.default_entrypoint,
        }
    }

    /// Refuses what would be unsafe or could never work.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |field, reason: &str| Err(ConfigError::Invalid { field, reason: reason.to_owned() });
        if !self.data_dir.is_absolute() {
            return refuse("data_dir", "must be an absolute path");
        }
        if self.storage.len() > STORAGES_MAX {
            return refuse("storage", "must not name more than 60 paths");
        }
        for (field, address) in [("http", self.http), ("grpc", self.grpc), ("agents", self.agents)] {
            if !address.ip().is_loopback() && !self.insecure_open {
                return Err(ConfigError::Invalid {
                    field,
                    reason: format!(
                        "{address} can be reached from other machines and nothing checks who calls; listen on \
                         127.0.0.1, or say `insecure_open = true` (--insecure-open) if the network is closed"
                    ),
                });
            }
        }
        if self
            .default_image
            .as_ref()
            .is_some_and(|image| image.is_empty() || image.contains(char::is_whitespace))
        {
            return refuse("default_image", "must be the name of an image");
        }
        let url = &self.organization_url;
        let is_web =
            url.strip_prefix("https://").or(url.strip_prefix("http://")).is_some_and(|rest| !rest.is_empty());
        if !is_web || url.contains(char::is_whitespace) {
            return refuse("organization_url", "must begin with https:// or http://");
        }
        if self.organization_name.trim().is_empty() {
            return refuse("organization_name", "must not be empty");
        }
        for (field, time) in [("default_timeout", self.default_timeout), ("max_timeout", self.max_timeout)] {
            if time.is_some_and(|time| time.0 < Duration::from_secs(1)) {
                return refuse(field, "must be at least \"1s\"; leave it out for no limit");
            }
        }
        if self.max_timeout.is_some_and(|most| self.default_timeout.is_some_and(|time| time > most)) {
            return refuse("default_timeout", "must not be longer than max_timeout");
        }
        if self.max_attempts == 0 {
            return refuse("max_attempts", "must be at least 1");
        }
        if self.heartbeat.0 < Duration::from_millis(100) {
            return refuse("heartbeat", "must be at least \"100ms\"");
        }
        if self.preemptible_lease.0 < 4 * self.heartbeat.0 || self.lease.0 < 4 * self.heartbeat.0 {
            return refuse("lease, preemptible_lease", "must be at least four heartbeats");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_address_needs_a_word() {
        for listener in ["http", "grpc", "agents"] {
            let mut config: Config = toml::from_str(&format!("{listener} = '0.0.0.0:8000'")).unwrap();
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(listener) && error.contains("insecure"), "names the way out: {error}");
            config.insecure_open = true;
            config.check().unwrap();
        }
    }

    #[test]
    fn clients_must_be_able_to_read_the_organization() {
        for text in
            ["organization_url = 'example.org'", "organization_url = 'https://'", "organization_name = ' '"]
        {
            assert!(toml::from_str::<Config>(text).unwrap().check().is_err(), "{text}");
        }
        assert!(toml::from_str::<Config>("default_image = ''").unwrap().check().is_err());
        let text = "organization_url = 'https://example.org/'\ndefault_image = 'busybox'";
        toml::from_str::<Config>(text).unwrap().check().unwrap();
    }

    #[test]
    fn refuses_unknown_keys_and_bare_numbers() {
        assert!(toml::from_str::<Config>("colour = 'red'").is_err());
        assert!(toml::from_str::<Config>("lease = 60").is_err());
        let config: Config = toml::from_str("lease = '2h'\nretry_started = 'always'").unwrap();
        assert_eq!(config.lease.0, Duration::from_secs(7200));
        assert!(toml::from_str::<Config>("max_timeout = '0s'").unwrap().check().is_err());
        let over = "default_timeout = '2h'\nmax_timeout = '1h'\ndefault_entrypoint = 'image'";
        assert!(toml::from_str::<Config>(over).unwrap().check().is_err());
        let config: Config = toml::from_str("task_retention = '30 days'\ndisk_floor = '1GiB'").unwrap();
        assert_eq!(config, Config::default());
    }
}
