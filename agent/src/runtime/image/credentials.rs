//! Who we say that we are, for each registry: from the agent's own configuration, else from a docker
//! `config.json`. Read anew for every pull, so that a changed password counts at once; never logged, never
//! part of an error's text.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

use data_encoding::BASE64;
use serde::Deserialize;

use crate::config::{ImageSettings, RegistrySettings};

/// The largest file of credentials that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What docker calls its own registry.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What a registry may be shown.
#[derive(Clone, PartialEq)]
pub(super) enum Credentials {
    /// A name and its password.
    Password { username: String, password: String },
    /// A long-lived token, to be exchanged for short-lived ones.
    Identity(String),
}

impl Credentials {
    /// All of it, to be hashed.
    pub(super) fn words(&self) -> Vec<&str> {
        match self {
            Self::Password { username, password } => vec![username, password],
            Self::Identity(token) => vec![token],
        }
    }
}

/// Says which kind it is and no more: secrets must not reach a log.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::Identity(_) => "Identity",
        })
    }
}

/// A docker `config.json`, as far as we read it. Credential helpers are programs of the user's desktop and
/// are not run as root on a node.
#[derive(Deserialize, Default)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, DockerAuth>,
}

#[derive(Deserialize, Default)]
struct DockerAuth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(alias = "identitytoken")]
    identity_token: Option<String>,
}

/// The credentials for the registry `host`; none means anonymous.
///
/// # Errors
/// When a file that the configuration names cannot be used: pulling anonymously instead would only say
/// something misleading.
pub(super) fn find(
    settings: &ImageSettings,
    registry: Option<&RegistrySettings>,
    host: &str,
) -> Result<Option<Credentials>, String> {
    if let Some(RegistrySettings { username: Some(username), password_file: Some(file), .. }) = registry {
        let password = read(file)?.trim_end_matches(['\r', '\n']).to_owned();
        return Ok(Some(Credentials::Password { username: username.clone(), password }));
    }
    let Some(file) = &settings.docker_config else { return Ok(None) };
    let config: DockerConfig = serde_json::from_str(&read(file)?)
        .map_err(|error| format!("{} is no docker configuration: {error}", file.display()))?;
    from_docker(&config, host).map_err(|reason| format!("{}: {reason}", file.display()))
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let opened = std::fs::File::open(path);
    opened
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    Ok(text)
}

fn from_docker(config: &DockerConfig, host: &str) -> Result<Option<Credentials>, String> {
    let is_hub = matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    let means = |key: &str| {
        let bare = key.trim_start_matches("https://").trim_start_matches("http://");
        bare.split('/').next() == Some(host) || (is_hub && (key == DOCKER_HUB_KEY || bare == "docker.io"))
    };
    // The exact name wins over one with a scheme or a path.
    let entry = config.auths.get(host).or_else(|| {
        let mut keys: Vec<_> = config.auths.keys().filter(|key| means(key)).collect();
        keys.sort_unstable();
        keys.first().and_then(|key| config.auths.get(*key))
    });
    let Some(entry) = entry else { return Ok(None) };
    if let Some(token) = entry.identity_token.as_ref().filter(|token| !token.is_empty()) {
        return Ok(Some(Credentials::Identity(token.clone())));
    }
    if let (Some(username), Some(password)) = (&entry.username, &entry.password) {
        let (username, password) = (username.clone(), password.clone());
        return Ok(Some(Credentials::Password { username, password }));
    }
    let Some(auth) = entry.auth.as_ref().filter(|auth| !auth.is_empty()) else { return Ok(None) };
    let broken = || format!("the entry 'auth' of {host} must be base64 of USER:PASSWORD");
    let decoded = BASE64.decode(auth.trim().as_bytes()).map_err(|_| broken())?;
    let decoded = String::from_utf8(decoded).map_err(|_| broken())?;
    let (username, password) = decoded.split_once(':').ok_or_else(broken)?;
    let password = password.trim_end_matches('\0').to_owned();
    Ok(Some(Credentials::Password { username: username.to_owned(), password }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn docker(text: &str, host: &str) -> Result<Option<Credentials>, String> {
        from_docker(&serde_json::from_str(text).unwrap(), host)
    }

    fn password(username: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { username: username.into(), password: password.into() })
    }

    #[test]
    fn entries_are_found_as_docker_writes_them() {
        // printf 'me:se:cret' | base64
        let file = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6c2U6Y3JldA=="},
            "r.example:5000": {"username": "u", "password": "p"}, "https://q.example/v2/": {"auth": "bWU6c2U6Y3JldA=="},
            "t.example": {"auth": "", "identitytoken": "tok"}, "empty.example": {}}, "credsStore": "desktop"}"#;
        assert_eq!(docker(file, "docker.io").unwrap(), password("me", "se:cret"));
        assert_eq!(docker(file, "r.example:5000").unwrap(), password("u", "p"));
        assert_eq!(docker(file, "q.example").unwrap(), password("me", "se:cret"));
        assert_eq!(docker(file, "t.example").unwrap(), Some(Credentials::Identity("tok".into())));
        assert_eq!(docker(file, "empty.example").unwrap(), None);
        assert_eq!(docker(file, "r.example").unwrap(), None, "another port is another registry");
        assert_eq!(docker("{}", "docker.io").unwrap(), None);
    }

    #[test]
    fn what_is_broken_is_said_without_its_content() {
        let error = docker(r#"{"auths": {"a": {"auth": "hunter2!"}}}"#, "a").unwrap_err();
        assert!(error.contains("base64") && !error.contains("hunter2"), "{error}");
        assert_eq!(format!("{:?}", password("me", "hunter2")), "Some(Password)");
        let settings = ImageSettings { docker_config: Some("/nonexistent/x".into()), ..Default::default() };
        assert!(find(&settings, None, "a").unwrap_err().contains("/nonexistent/x"));
    }

    #[test]
    fn our_own_configuration_wins_and_the_newline_is_not_the_password() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "secret\n").unwrap();
        let registry = RegistrySettings {
            host: "a".into(),
            username: Some("me".into()),
            password_file: Some(file),
            ..Default::default()
        };
        let found = find(&ImageSettings::default(), Some(&registry), "a").unwrap();
        assert_eq!(found, password("me", "secret"));
    }
}
