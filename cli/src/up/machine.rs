//! Whether this machine lets `teamster up` work: who runs it, which programs and addresses there are. Every
//! refusal says what would help. Nothing is changed here but the lock that is taken.

use std::env;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Where system programs lie, also when a login shell has left some of these out of PATH.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The programs of others that are needed.
#[derive(Debug)]
pub(super) struct Programs {
    /// Absent when somebody else runs containerd.
    pub(super) containerd: Option<PathBuf>,
}

impl Programs {
    /// Finds them, or says what is missing.
    pub(super) fn find(private_containerd: bool) -> anyhow::Result<Self> {
        if !private_containerd {
            return Ok(Self { containerd: None });
        }
        let containerd = find("containerd");
        let missing: Vec<&str> = ["containerd", "containerd-shim-runc-v2", "runc"]
            .into_iter()
            .filter(|program| find(program).is_none())
            .collect();
        if !missing.is_empty() {
            bail!(
                "not installed: {}; on Debian: apt-get install containerd runc (or name a containerd that \
                 runs already with --containerd SOCKET)",
                missing.join(", ")
            );
        }
        Ok(Self { containerd })
    }
}

/// PATH with the system's own places at its end.
pub(super) fn search_path() -> String {
    match env::var("PATH") {
        Ok(path) if !path.is_empty() => format!("{path}:{SYSTEM_PATH}"),
        _ => SYSTEM_PATH.to_owned(),
    }
}

fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Containers need root.
pub(super) fn check_root() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "`teamster up` needs root: it starts containerd, makes cgroups and runs tasks as other users; \
             use sudo, or a coordinator alone with `teamster coordinator`"
        );
    }
    Ok(())
}

/// Refuses addresses that somebody else listens on, before anything is started.
pub(super) fn check_addresses<const N: usize>(wanted: [(&str, SocketAddr); N]) -> anyhow::Result<()> {
    let mut held = Vec::new();
    for (flag, address) in wanted {
        match TcpListener::bind(address) {
            Ok(listener) => held.push(listener),
            Err(error) if error.kind() == ErrorKind::AddrInUse => bail!(
                "{address} is taken by another program (or another `teamster up`); choose another address \
                 with {flag} HOST:PORT"
            ),
            Err(error) => bail!("listen on {address}: {error}; choose another address with {flag} HOST:PORT"),
        }
    }
    Ok(())
}

/// Keeps a second `up` off the same data directory for as long as the file is held.
pub(super) fn lock(path: &Path) -> anyhow::Result<File> {
    let context = || format!("lock {}", path.display());
    let mut options = OpenOptions::new();
    let file =
        options.write(true).create(true).truncate(false).mode(0o600).open(path).with_context(context)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another `teamster up` works in {}; choose another --data-dir",
            path.parent().unwrap_or(path).display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_names_its_flag() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = holder.local_addr().unwrap();
        let free = "127.0.0.1:0".parse().unwrap();
        let error = check_addresses([("--http", free), ("--grpc", free), ("--agents", taken)])
            .unwrap_err()
            .to_string();
        assert!(error.contains("--agents") && error.contains(&taken.to_string()), "{error}");
        check_addresses([("--http", free), ("--agents", free)]).unwrap();
    }

    #[test]
    fn one_up_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = lock(&path).unwrap();
        assert!(lock(&path).unwrap_err().to_string().contains("--data-dir"));
        drop(first);
        lock(&path).unwrap();
    }

    #[test]
    fn finds_what_is_there() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
    }
}
