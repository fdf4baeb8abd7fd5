//! Where `teamster up` keeps things below its data directory, and what it tells its children in their
//! configurations. It writes those files and makes those directories; it starts nothing.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use teamster_agent::config::{Config as AgentConfig, StorageConfig, StorageKind};
use teamster_coordinator::config::{Config as CoordinatorConfig, RetryStarted};
use teamster_values::AbsolutePath;

use super::UpArgs;
use crate::args::UsageError;

/// The kernel's limit for a socket's path, with its closing NUL.
const SOCKET_PATH_BYTES: usize = 108;
/// containerd listens on a second socket beside the first, with this added to the name.
const SECOND_SOCKET: &str = ".ttrpc";

/// Everything below one data directory.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
    /// containerd's socket: a private one's, or the one that was named.
    pub(super) containerd: PathBuf,
    /// Whether containerd is ours to start and stop.
    pub(super) private_containerd: bool,
    pub(super) coordinator: CoordinatorConfig,
    pub(super) agent: AgentConfig,
}

impl Layout {
    /// What `args` mean. Nothing is touched yet but an earlier run's agent.toml, which is read.
    pub(super) fn new(args: &UpArgs) -> anyhow::Result<Self> {
        let root = args.data_dir.clone();
        let containerd = args.containerd.clone().unwrap_or_else(|| root.join("containerd.sock"));
        let shared = root.join("shared");
        let text = shared.to_str().context("use a data directory whose name is not UTF-8")?;
        let shared = AbsolutePath::parse(text)
            .map_err(|error| UsageError(format!("--data-dir {}: {error}", root.display())))?;
        let coordinator = CoordinatorConfig {
            data_dir: root.join("coordinator"),
            http: args.http,
            grpc: args.grpc,
            agents: args.agents,
            insecure_open: args.insecure_open,
            storage: vec![shared.clone()],
            // Ctrl-C kills what runs, and whoever pressed it expects to find it running again afterwards.
            retry_started: RetryStarted::Always,
            ..CoordinatorConfig::default()
        };
        let mut agent = AgentConfig {
            data_dir: root.join("agent"),
            coordinator: reachable(args.agents),
            node_id: Some(node_id(&root.join("agent.toml"))?),
            containerd: containerd.clone(),
            storage: vec![StorageConfig {
                name: "shared".into(),
                kind: StorageKind::Directory,
                path: shared,
            }],
            ..AgentConfig::default()
        };
        agent.capacity.cpus = args.cpus;
        agent.capacity.memory = args.memory;
        agent.capacity.disk = args.disk;
        coordinator.check().map_err(|error| UsageError(error.to_string()))?;
        agent.check().map_err(|error| UsageError(error.to_string()))?;
        Ok(Self { root, private_containerd: args.containerd.is_none(), containerd, coordinator, agent })
    }

    /// Refuses a data directory whose sockets the kernel would not take.
    pub(super) fn check_socket(&self) -> Result<(), UsageError> {
        let length = self.containerd.as_os_str().len() + SECOND_SOCKET.len();
        if self.private_containerd && length >= SOCKET_PATH_BYTES {
            return Err(UsageError(format!(
                "the socket {}{SECOND_SOCKET} has {length} bytes in its name and the kernel takes at most {}; \
                 choose a shorter --data-dir",
                self.containerd.display(),
                SOCKET_PATH_BYTES - 1
            )));
        }
        Ok(())
    }

    /// Makes the data directory itself. Tasks must be able to walk through it to the shared storage, and to
    /// list nothing on the way.
    pub(super) fn make_root(&self) -> anyhow::Result<()> {
        make_directory(&self.root, 0o711)
    }

    /// Makes the directories below it and writes the configurations.
    pub(super) fn prepare(&self) -> anyhow::Result<()> {
        for folder in ["logs", "coordinator", "agent", "containerd"] {
            make_directory(&self.root.join(folder), 0o700)?;
        }
        make_directory(self.shared(), 0o1777)?;
        self.write("coordinator.toml", &toml::to_string(&self.coordinator)?)?;
        self.write("agent.toml", &toml::to_string(&self.agent)?)?;
        if self.private_containerd {
            self.write("containerd.toml", &self.containerd_config()?)?;
        }
        Ok(())
    }

    /// The storage that tasks and host share.
    pub(super) fn shared(&self) -> &Path {
        self.agent.storage[0].path.as_path()
    }

    /// The configuration of a child.
    pub(super) fn config_file(&self, child: &str) -> PathBuf {
        self.root.join(format!("{child}.toml"))
    }

    /// What a child writes to.
    pub(super) fn log_file(&self, child: &str) -> PathBuf {
        self.root.join("logs").join(format!("{child}.log"))
    }

    /// Held while an `up` works on this data directory.
    pub(super) fn lock_file(&self) -> PathBuf {
        self.root.join("up.lock")
    }

    /// The data directory itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.root.join(name);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
    }

    /// A containerd that shares nothing with another one on this machine. Without the CRI plugin it needs no
    /// CNI configuration and no kubelet finds it; the other plugins left out would only warn.
    fn containerd_config(&self) -> anyhow::Result<String> {
        let quoted = |path: PathBuf| {
            let text = path.to_str().context("use a data directory whose name is not UTF-8")?;
            Ok::<_, anyhow::Error>(toml::Value::from(text).to_string())
        };
        Ok(format!(
            "version = 2\n\
             root = {root}\n\
             state = {state}\n\
             disabled_plugins = [\n  \"io.containerd.grpc.v1.cri\",\n  \"io.containerd.internal.v1.opt\",\n  \
             \"io.containerd.snapshotter.v1.aufs\",\n  \"io.containerd.snapshotter.v1.btrfs\",\n  \
             \"io.containerd.snapshotter.v1.devmapper\",\n  \"io.containerd.snapshotter.v1.zfs\",\n]\n\n\
             [grpc]\naddress = {socket}\n\n\
             [ttrpc]\naddress = {second}\n\n\
             [debug]\naddress = \"\"\nlevel = \"info\"\n",
            root = quoted(self.root.join("containerd/root"))?,
            state = quoted(self.root.join("containerd/state"))?,
            socket = quoted(self.containerd.clone())?,
            second = quoted(PathBuf::from(format!("{}{SECOND_SOCKET}", self.containerd.display())))?,
        ))
    }
}

/// The address at which this machine reaches its own listener.
pub(super) fn reachable(listener: std::net::SocketAddr) -> String {
    match (listener.ip().is_unspecified(), listener.is_ipv6()) {
        (true, false) => format!("127.0.0.1:{}", listener.port()),
        (true, true) => format!("[::1]:{}", listener.port()),
        (false, _) => listener.to_string(),
    }
}

/// The name that this node had before, because its tasks are booked under it; else the machine's name.
fn node_id(earlier: &Path) -> anyhow::Result<String> {
    if earlier.exists()
        && let Some(node_id) = AgentConfig::from_file(earlier)?.node_id
    {
        return Ok(node_id);
    }
    let name = nix::unistd::gethostname().context("read the machine's name")?;
    name.into_string().map_err(|_| anyhow::anyhow!("use a host name that is not UTF-8"))
}

fn make_directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    let context = || format!("make {}", path.display());
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).with_context(context)?;
    if !path.symlink_metadata().with_context(context)?.is_dir() {
        bail!("make {}: it is a link to somewhere else", path.display());
    }
    // The umask may have taken bits away.
    std::fs::set_permissions(path, Permissions::from_mode(mode)).with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::{Command, CommandLine};
    use clap::Parser;

    fn layout(words: &[&str]) -> Layout {
        match CommandLine::parse_from([&["teamster", "up"], words].concat()).command {
            Command::Up(args) => Layout::new(&args).unwrap(),
            _ => unreachable!(),
        }
    }

    #[test]
    fn children_read_what_is_written_for_them() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("it's \"here\"");
        let words = ["--data-dir", root.to_str().unwrap(), "--cpus=1.5", "--memory=2GiB"];
        let layout = layout(&words);
        layout.make_root().unwrap();
        layout.prepare().unwrap();
        let coordinator = CoordinatorConfig::from_file(&layout.config_file("coordinator")).unwrap();
        assert_eq!(coordinator, layout.coordinator);
        let agent = AgentConfig::from_file(&layout.config_file("agent")).unwrap();
        assert_eq!(agent.capacity.cpus, Some(1.5));
        assert_eq!(agent.storage[0].path.as_path(), root.join("shared"));
        let containerd = std::fs::read_to_string(layout.config_file("containerd")).unwrap();
        let containerd: toml::Table = containerd.parse().unwrap();
        assert_eq!(containerd["grpc"]["address"].as_str().unwrap(), layout.containerd.to_str().unwrap());
        let mode = std::fs::metadata(layout.shared()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o1777);
    }

    #[test]
    fn a_node_keeps_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        std::fs::write(&file, "node_id = 'first'").unwrap();
        let layout = layout(&["--data-dir", folder.path().to_str().unwrap()]);
        assert_eq!(layout.agent.node_id.as_deref(), Some("first"));
    }

    #[test]
    fn long_socket_names_are_refused() {
        let deep = format!("/tmp/{}", "d".repeat(100));
        let error = layout(&["--data-dir", &deep]).check_socket().unwrap_err().to_string();
        assert!(error.contains("--data-dir"), "{error}");
        layout(&["--data-dir", &deep, "--containerd", "/run/x.sock"]).check_socket().unwrap();
    }

    #[test]
    fn an_agent_dials_a_real_address() {
        assert_eq!(reachable("0.0.0.0:8002".parse().unwrap()), "127.0.0.1:8002");
        assert_eq!(reachable("[::]:8002".parse().unwrap()), "[::1]:8002");
        assert_eq!(reachable("10.0.0.1:1".parse().unwrap()), "10.0.0.1:1");
    }
}
