//! `[images]` and `[[registry]]` of the agent's configuration: which images this node takes, from where, and
//! how much of them. What is written here is checked here; nothing is opened yet.

use std::path::PathBuf;
use std::time::Duration;

use oci_spec::distribution::Reference;
use serde::{Deserialize, Serialize};
use teamster_values::{ByteCount, Period};

/// `[images]`: which images tasks may use and how they come onto the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageSettings {
    /// When a registry is asked.
    pub pull: PullPolicy,
    /// Whether an image must be named by its digest.
    pub require_digest: bool,
    /// Registries and repositories that images may come from; empty for all. `quay.io/biocontainers` stands
    /// for everything below it.
    pub allowed: Vec<String>,
    /// A docker `config.json` with credentials.
    pub docker_config: Option<PathBuf>,
    /// The most that the layers of an image may take compressed: looked at before they are fetched.
    pub size_max: ByteCount,
    /// The most that an image may take unpacked: looked at while it is unpacked.
    pub unpacked_max: ByteCount,
    /// How long the pull of an image may take in all.
    pub pull_timeout: Period,
    /// How long a registry may be silent before the connection is given up and made again.
    pub stall_timeout: Period,
    /// How many layers of an image are fetched at one time.
    pub parallel_layers: u32,
    /// Images that are fetched when the agent starts, and never removed.
    pub prepull: Vec<String>,
    /// When the disk of the images is fuller than this, those that were used least recently are removed…
    pub disk_high_percent: u8,
    /// … until it is no fuller than this.
    pub disk_low_percent: u8,
    /// Images that nothing has used for so long are removed, however much room there is; zero for never.
    pub unused_max: Period,
    /// An image that was used in the last so long is never removed.
    pub idle_min: Period,
}

/// When a registry is asked for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// For every task: what the name stands for now is what runs.
    Always,
    /// Only when this node has nothing under the name.
    IfMissing,
    /// Never: images are imported.
    Never,
}

/// `[[registry]]`: how one registry is spoken to. One that is not listed is spoken to over HTTPS, with the
/// machine's certificate authorities and what the docker configuration knows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrySettings {
    /// As it stands in references: `quay.io`, `registry.example.org:5000`, `docker.io`.
    pub host: String,
    /// Whether it is spoken to without TLS.
    pub plain_http: bool,
    /// Others that are asked first, in this order: `host[:port][/prefix]`.
    pub mirrors: Vec<String>,
    /// A PEM file with certificate authorities to trust beside the machine's own.
    pub ca_file: Option<PathBuf>,
    /// Whom to say that we are.
    pub username: Option<String>,
    /// The file that holds the password, and nothing else.
    pub password_file: Option<PathBuf>,
}

/// A registry, or a registry and the beginning of repositories in it.
#[derive(Debug, PartialEq)]
pub(crate) struct ImagePattern {
    registry: String,
    path: Vec<String>,
}

impl ImagePattern {
    /// Reads `quay.io`, `quay.io/biocontainers` or `docker.io/library/busybox`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split('/').map(str::to_owned);
        let registry = parts.next().unwrap_or_default();
        let is_plain = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'))
        };
        let path: Vec<String> = parts.collect();
        if !is_plain(&registry) || !path.iter().all(|part| is_plain(part)) {
            return Err(format!(
                "'{text}' must be a registry, or a registry and a path, such as quay.io/lab"
            ));
        }
        if !registry.contains(['.', ':']) && registry != "localhost" {
            return Err(format!("'{text}' must begin with a registry: write docker.io/{text}"));
        }
        Ok(Self { registry, path })
    }

    /// Whole components are compared: `quay.io/lab` does not stand for `quay.io/laboratory`.
    pub(crate) fn covers(&self, registry: &str, repository: &str) -> bool {
        let mut parts = repository.split('/');
        self.registry == registry && self.path.iter().all(|part| parts.next() == Some(part.as_str()))
    }
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self {
            pull: PullPolicy::IfMissing,
            require_digest: false,
            allowed: Vec::new(),
            docker_config: None,
            size_max: ByteCount(50 << 30),
            unpacked_max: ByteCount(150 << 30),
            pull_timeout: Period(Duration::from_secs(60 * 60)),
            stall_timeout: Period(Duration::from_secs(60)),
            parallel_layers: 3,
            prepull: Vec::new(),
            disk_high_percent: 85,
            disk_low_percent: 75,
            unused_max: Period(Duration::ZERO),
            idle_min: Period(Duration::from_secs(10 * 60)),
        }
    }
}

/// Finds what is wrong: the field, and what would be right.
///
/// # Errors
/// The first thing that could never work or does not say what it seems to say.
pub(super) fn check(images: &ImageSettings, registries: &[RegistrySettings]) -> Result<(), (String, String)> {
    let refuse = |field: &str, reason: &str| Err((field.to_owned(), reason.to_owned()));
    for (index, pattern) in images.allowed.iter().enumerate() {
        if let Err(reason) = ImagePattern::parse(pattern) {
            return refuse(&format!("images.allowed[{index}]"), &reason);
        }
    }
    if !(1..=16).contains(&images.parallel_layers) {
        return refuse("images.parallel_layers", "must be from 1 to 16");
    }
    if images.pull_timeout.0.is_zero() || images.stall_timeout.0.is_zero() {
        return refuse("images.pull_timeout, images.stall_timeout", "must be longer than nothing");
    }
    for (index, reference) in images.prepull.iter().enumerate() {
        let bare = reference.strip_prefix("docker://").unwrap_or(reference);
        if let Err(error) = Reference::try_from(bare) {
            return refuse(&format!("images.prepull[{index}]"), &error.to_string());
        }
    }
    if !(1..=100).contains(&images.disk_high_percent) {
        return refuse("images.disk_high_percent", "must be from 1 to 100");
    }
    if !(1..=images.disk_high_percent).contains(&images.disk_low_percent) {
        return refuse("images.disk_low_percent", "must be from 1 to images.disk_high_percent");
    }
    for (index, registry) in registries.iter().enumerate() {
        let refuse = |field: &str, reason: &str| refuse(&format!("registry[{index}].{field}"), reason);
        if !is_host(&registry.host) {
            return refuse("host", "must be a host and perhaps a port, such as registry.example.org:5000");
        }
        if registries[..index].iter().any(|other| other.host == registry.host) {
            return refuse("host", "is listed twice");
        }
        if registry.mirrors.iter().any(|mirror| !is_host(mirror.split('/').next().unwrap_or_default())) {
            return refuse("mirrors", "must be of host[:port][/prefix], without a scheme");
        }
        if registry.username.is_some() != registry.password_file.is_some() {
            return refuse("username, password_file", "go together");
        }
    }
    Ok(())
}

/// Whether this is `host` or `host:port`.
fn is_host(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
    };
    let is_literal = host.starts_with('[') && host.ends_with(']');
    (is_name(host) || is_literal) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_never_work_is_refused_by_its_name() {
        let wrong = |images: &str, registry: &str| {
            let images: ImageSettings = toml::from_str(images).unwrap();
            let registry: RegistrySettings = toml::from_str(registry).unwrap();
            check(&images, &[registry]).unwrap_err().0
        };
        let fine = "host = 'docker.io'\nmirrors = ['cache.lan:5000/hub']";
        check(&ImageSettings::default(), &[toml::from_str(fine).unwrap()]).unwrap();
        assert_eq!(wrong("parallel_layers = 0", fine), "images.parallel_layers");
        assert_eq!(wrong("allowed = ['http://quay.io']", fine), "images.allowed[0]");
        assert_eq!(wrong("", "host = 'https://quay.io'"), "registry[0].host");
        assert_eq!(wrong("", "host = 'a'\nmirrors = ['https://b']"), "registry[0].mirrors");
        assert!(wrong("", "host = 'a'\nusername = 'u'").contains("password_file"));
        assert!(toml::from_str::<ImageSettings>("pull = 'sometimes'").is_err());
    }

    #[test]
    fn hosts_may_have_ports() {
        for good in ["quay.io", "localhost:5000", "127.0.0.1:1", "[::1]:5000"] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", "a/b", "https://a", "a:b", "a:70000", "a b"] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn a_pattern_without_a_registry_is_told_what_to_write() {
        assert!(ImagePattern::parse("library/busybox").unwrap_err().contains("docker.io/library/busybox"));
        assert!(ImagePattern::parse("localhost:5000/x").is_ok());
        assert!(ImagePattern::parse("quay.io//x").is_err());
    }
}
