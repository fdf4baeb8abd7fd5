//! `teamster coordinator` and `teamster agent`: put a configuration together from file, environment and
//! flags, start the log, and run the service until SIGTERM or SIGINT. What the services do is theirs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use ipnet::Ipv4Net;
use serde::Serialize;
use serde::de::DeserializeOwned;
use teamster_agent::assignment::Network;
use teamster_agent::config::{ImageSettings, OciRuntime, PullPolicy};
use teamster_coordinator::config::RetryStarted;
use teamster_coordinator::parameters::Entrypoint;
use teamster_values::{ByteCount, Period};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::args::{LogArgs, LogFormat, UsageError};
use crate::{FINE, limits, table};

/// Where a service's configuration comes from.
#[derive(Debug, Args)]
struct SourceArgs {
    /// TOML file; what it leaves out has its built-in value
    #[arg(long, env = "TEAMSTER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the configuration in force as TOML and exit
    #[arg(long)]
    check_config: bool,
    #[command(flatten)]
    log: LogArgs,
}

/// What `coordinator` takes. Flags win over the environment, and both over the file.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  teamster coordinator --config /etc/teamster/coordinator.toml
  TEAMSTER_HTTP=127.0.0.1:9000 teamster coordinator --check-config")]
pub(crate) struct CoordinatorArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Where the database lives
    #[arg(long, env = "TEAMSTER_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Listener of the REST API
    #[arg(long, env = "TEAMSTER_HTTP", value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Listener of the gRPC API
    #[arg(long, env = "TEAMSTER_GRPC", value_name = "ADDR")]
    grpc: Option<SocketAddr>,
    /// Listener for agents
    #[arg(long, env = "TEAMSTER_AGENTS", value_name = "ADDR")]
    agents: Option<SocketAddr>,
    /// Allow listeners that others can reach, although anybody who reaches them may do anything
    #[arg(long, env = "TEAMSTER_INSECURE_OPEN", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    insecure_open: Option<bool>,
    /// Image of tasks in the short form, which name none
    #[arg(long, env = "TEAMSTER_DEFAULT_IMAGE", value_name = "IMAGE")]
    default_image: Option<String>,
    /// Whether images' entry points are run for tasks that do not say: none or image
    #[arg(long, env = "TEAMSTER_DEFAULT_ENTRYPOINT", value_name = "WHICH", value_parser = entrypoint)]
    default_entrypoint: Option<Entrypoint>,
    /// How long the executors of a task may run that names no time
    #[arg(long, env = "TEAMSTER_DEFAULT_TIMEOUT", value_name = "TIME")]
    default_timeout: Option<Period>,
    /// How long the executors of any task may run
    #[arg(long, env = "TEAMSTER_MAX_TIMEOUT", value_name = "TIME")]
    max_timeout: Option<Period>,
    /// Make no second task of Cromwell's request when it comes again within ten minutes
    #[arg(long, env = "TEAMSTER_DEDUPLICATE_CROMWELL", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    deduplicate_cromwell: Option<bool>,
    /// Who runs this service, for service-info
    #[arg(long, env = "TEAMSTER_ORGANIZATION_NAME", value_name = "NAME")]
    organization_name: Option<String>,
    /// Their web page, for service-info
    #[arg(long, env = "TEAMSTER_ORGANIZATION_URL", value_name = "URL")]
    organization_url: Option<String>,
    /// How long an attempt may go on without its agent being heard
    #[arg(long, env = "TEAMSTER_LEASE", value_name = "TIME")]
    lease: Option<Period>,
    /// The same for tasks that say `preemptible`
    #[arg(long, env = "TEAMSTER_PREEMPTIBLE_LEASE", value_name = "TIME")]
    preemptible_lease: Option<Period>,
    /// How long after a lease's end its attempt is held to be dead
    #[arg(long, env = "TEAMSTER_LEASE_MARGIN", value_name = "TIME")]
    lease_margin: Option<Period>,
    /// Whether an attempt lost after its first executor had started is made again: if-preemptible or always
    #[arg(long, env = "TEAMSTER_RETRY_STARTED", value_name = "WHEN", value_parser = retry_started)]
    retry_started: Option<RetryStarted>,
    /// How many attempts in all are made while the infrastructure fails them
    #[arg(long, env = "TEAMSTER_MAX_ATTEMPTS", value_name = "N")]
    max_attempts: Option<u32>,
    /// Time between two heartbeats of an agent
    #[arg(long, env = "TEAMSTER_HEARTBEAT", value_name = "TIME")]
    heartbeat: Option<Period>,
    /// How long a task that has ended is kept
    #[arg(long, env = "TEAMSTER_TASK_RETENTION", value_name = "TIME")]
    task_retention: Option<Period>,
    /// How long nodes keep what is left of an attempt that this cluster does not know
    #[arg(long, env = "TEAMSTER_STRANGER_RETENTION", value_name = "TIME")]
    stranger_retention: Option<Period>,
    /// Room on the disk of the data directory below which no new task is taken
    #[arg(long, env = "TEAMSTER_DISK_FLOOR", value_name = "SIZE")]
    disk_floor: Option<ByteCount>,
}

/// Which images tasks may use and how they come onto the node.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// When a registry is asked for an image: always, if-missing or never
    #[arg(long, env = "TEAMSTER_IMAGES_PULL", value_name = "WHEN", value_parser = pull_policy)]
    images_pull: Option<PullPolicy>,
    /// Take images by digest only
    #[arg(long, env = "TEAMSTER_IMAGES_REQUIRE_DIGEST", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    images_require_digest: Option<bool>,
    /// A docker config.json with credentials for registries
    #[arg(long, env = "TEAMSTER_IMAGES_DOCKER_CONFIG", value_name = "FILE")]
    images_docker_config: Option<PathBuf>,
    /// The most that the layers of an image may take compressed
    #[arg(long, env = "TEAMSTER_IMAGES_SIZE_MAX", value_name = "SIZE")]
    images_size_max: Option<ByteCount>,
    /// The most that an image may take unpacked
    #[arg(long, env = "TEAMSTER_IMAGES_UNPACKED_MAX", value_name = "SIZE")]
    images_unpacked_max: Option<ByteCount>,
    /// How long the pull of an image may take in all
    #[arg(long, env = "TEAMSTER_IMAGES_PULL_TIMEOUT", value_name = "TIME")]
    images_pull_timeout: Option<Period>,
    /// How long a registry may be silent before the connection is made again
    #[arg(long, env = "TEAMSTER_IMAGES_STALL_TIMEOUT", value_name = "TIME")]
    images_stall_timeout: Option<Period>,
    /// How many layers of an image are fetched at one time
    #[arg(long, env = "TEAMSTER_IMAGES_PARALLEL_LAYERS", value_name = "N")]
    images_parallel_layers: Option<u32>,
    /// How full the disk of images may be before those used least recently are removed
    #[arg(long, env = "TEAMSTER_IMAGES_DISK_HIGH_PERCENT", value_name = "N")]
    images_disk_high_percent: Option<u8>,
    /// How full the disk of images may be when that is over
    #[arg(long, env = "TEAMSTER_IMAGES_DISK_LOW_PERCENT", value_name = "N")]
    images_disk_low_percent: Option<u8>,
    /// Remove images that nothing has used for so long; 0s for never
    #[arg(long, env = "TEAMSTER_IMAGES_UNUSED_MAX", value_name = "TIME")]
    images_unused_max: Option<Period>,
    /// Never remove an image that was used in the last so long
    #[arg(long, env = "TEAMSTER_IMAGES_IDLE_MIN", value_name = "TIME")]
    images_idle_min: Option<Period>,
}

/// What `agent` takes. Flags win over the environment, and both over the file.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  teamster agent --config /etc/teamster/agent.toml
  teamster agent --coordinator 10.0.0.1:8002 --capacity-cpus 30 --check-config

Shared storage is named in the file only, in [[storage]] tables.")]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Where the agent keeps its attempts
    #[arg(long, env = "TEAMSTER_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address of the coordinator's agent port
    #[arg(long, env = "TEAMSTER_COORDINATOR", value_name = "HOST:PORT")]
    coordinator: Option<String>,
    /// Name of this node
    #[arg(long, env = "TEAMSTER_NODE_ID", value_name = "NAME")]
    node_id: Option<String>,
    /// containerd's socket
    #[arg(long, env = "TEAMSTER_CONTAINERD", value_name = "SOCKET")]
    containerd: Option<PathBuf>,
    /// The program that makes containers: runc or crun
    #[arg(long, env = "TEAMSTER_RUNTIME", value_name = "PROGRAM")]
    runtime: Option<OciRuntime>,
    /// How long a task has between SIGTERM and SIGKILL
    #[arg(long, env = "TEAMSTER_GRACE_PERIOD", value_name = "TIME")]
    grace_period: Option<Period>,
    /// How long whole logs are kept on this node after a task has ended
    #[arg(long, env = "TEAMSTER_LOG_RETENTION", value_name = "TIME")]
    log_retention: Option<Period>,
    /// Room on the disk of the data directory below which the node takes no new tasks
    #[arg(long, env = "TEAMSTER_DISK_FLOOR", value_name = "SIZE")]
    disk_floor: Option<ByteCount>,
    /// The most that is kept of each stream of each executor as its log
    #[arg(long, env = "TEAMSTER_LOG_MAX", value_name = "SIZE")]
    log_max: Option<ByteCount>,
    /// CPUs that this node offers, instead of what is measured
    #[arg(long, env = "TEAMSTER_CAPACITY_CPUS", value_name = "N")]
    capacity_cpus: Option<f64>,
    /// Memory that this node offers, instead of what is measured
    #[arg(long, env = "TEAMSTER_CAPACITY_MEMORY", value_name = "SIZE")]
    capacity_memory: Option<ByteCount>,
    /// Scratch space that this node offers, instead of what is measured
    #[arg(long, env = "TEAMSTER_CAPACITY_DISK", value_name = "SIZE")]
    capacity_disk: Option<ByteCount>,
    /// CPUs kept back of what is measured
    #[arg(long, env = "TEAMSTER_RESERVE_CPUS", value_name = "N")]
    reserve_cpus: Option<f64>,
    /// Memory kept back of what is measured
    #[arg(long, env = "TEAMSTER_RESERVE_MEMORY", value_name = "SIZE")]
    reserve_memory: Option<ByteCount>,
    /// Scratch space kept back of what is measured
    #[arg(long, env = "TEAMSTER_RESERVE_DISK", value_name = "SIZE")]
    reserve_disk: Option<ByteCount>,
    /// User id of tasks; never 0
    #[arg(long, env = "TEAMSTER_SANDBOX_UID", value_name = "UID")]
    sandbox_uid: Option<u32>,
    /// Group id of tasks; never 0
    #[arg(long, env = "TEAMSTER_SANDBOX_GID", value_name = "GID")]
    sandbox_gid: Option<u32>,
    /// Most processes and threads of a task
    #[arg(long, env = "TEAMSTER_SANDBOX_PIDS_MAX", value_name = "N")]
    sandbox_pids_max: Option<u64>,
    /// Most files, directories and links of a task on this node's disk
    #[arg(long, env = "TEAMSTER_SANDBOX_FILES_MAX", value_name = "N")]
    sandbox_files_max: Option<u64>,
    /// How many files each process of a task may have open
    #[arg(long, env = "TEAMSTER_SANDBOX_OPEN_FILES_MAX", value_name = "N")]
    sandbox_open_files_max: Option<u64>,
    /// The size of /dev/shm in hundredths of the task's memory
    #[arg(long, env = "TEAMSTER_SANDBOX_SHM_PERCENT", value_name = "N")]
    sandbox_shm_percent: Option<u8>,
    /// Whether images' entry points are run for tasks that ask for it
    #[arg(long, env = "TEAMSTER_SANDBOX_IMAGE_ENTRYPOINT", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    sandbox_image_entrypoint: Option<bool>,
    /// The least project id that tasks may get where the file system has project quota
    #[arg(long, env = "TEAMSTER_DISK_FIRST_PROJECT", value_name = "ID")]
    disk_first_project: Option<u32>,
    /// How many project ids there are from that one on; 0 leaves project quota unused
    #[arg(long, env = "TEAMSTER_DISK_PROJECTS", value_name = "N")]
    disk_projects: Option<u32>,
    /// Let tasks that ask for it reach what is outside of the node
    #[arg(long, env = "TEAMSTER_NETWORK_EGRESS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    network_egress: Option<bool>,
    /// Let tasks that ask for it use the network of the node itself
    #[arg(long, env = "TEAMSTER_NETWORK_HOST", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    network_host: Option<bool>,
    /// The network of tasks that do not say: none or egress
    #[arg(long, env = "TEAMSTER_NETWORK_DEFAULT", value_name = "NETWORK")]
    network_default: Option<Network>,
    /// Where the addresses of tasks come from
    #[arg(long, env = "TEAMSTER_NETWORK_POOL", value_name = "CIDR")]
    network_pool: Option<Ipv4Net>,
    #[command(flatten)]
    images: ImageArgs,
}

/// Sets each field for which a flag or a variable was given.
macro_rules! overlay {
    ($($field:expr => $given:expr),+ $(,)?) => {
        $(if let Some(value) = $given { $field = value; })+
    };
}

impl CoordinatorArgs {
    fn configuration(&self) -> anyhow::Result<teamster_coordinator::config::Config> {
        let mut config: teamster_coordinator::config::Config = read(self.source.config.as_deref())?;
        overlay! {
            config.data_dir => self.data_dir.clone(),
            config.http => self.http,
            config.grpc => self.grpc,
            config.agents => self.agents,
            config.insecure_open => self.insecure_open,
            config.default_image => self.default_image.clone().map(Some),
            config.default_entrypoint => self.default_entrypoint,
            config.default_timeout => self.default_timeout.map(Some),
            config.max_timeout => self.max_timeout.map(Some),
            config.deduplicate_cromwell => self.deduplicate_cromwell,
            config.organization_name => self.organization_name.clone(),
            config.organization_url => self.organization_url.clone(),
            config.lease => self.lease,
            config.preemptible_lease => self.preemptible_lease,
            config.lease_margin => self.lease_margin,
            config.retry_started => self.retry_started,
            config.max_attempts => self.max_attempts,
            config.heartbeat => self.heartbeat,
            config.task_retention => self.task_retention,
            config.stranger_retention => self.stranger_retention,
            config.disk_floor => self.disk_floor,
        }
        config.check().map_err(|error| UsageError(format!("configuration: {error}")))?;
        Ok(config)
    }
}

impl ImageArgs {
    fn apply(&self, images: &mut ImageSettings) {
        overlay! {
            images.pull => self.images_pull,
            images.require_digest => self.images_require_digest,
            images.docker_config => self.images_docker_config.clone().map(Some),
            images.size_max => self.images_size_max,
            images.unpacked_max => self.images_unpacked_max,
            images.pull_timeout => self.images_pull_timeout,
            images.stall_timeout => self.images_stall_timeout,
            images.parallel_layers => self.images_parallel_layers,
            images.disk_high_percent => self.images_disk_high_percent,
            images.disk_low_percent => self.images_disk_low_percent,
            images.unused_max => self.images_unused_max,
            images.idle_min => self.images_idle_min,
        }
    }
}

impl AgentArgs {
    fn configuration(&self) -> anyhow::Result<teamster_agent::config::Config> {
        let mut config: teamster_agent::config::Config = read(self.source.config.as_deref())?;
        overlay! {
            config.data_dir => self.data_dir.clone(),
            config.coordinator => self.coordinator.clone(),
            config.node_id => self.node_id.clone().map(Some),
            config.containerd => self.containerd.clone(),
            config.runtime => self.runtime,
            config.grace_period => self.grace_period,
            config.log_retention => self.log_retention,
            config.disk_floor => self.disk_floor,
            config.log_max => self.log_max,
            config.capacity.cpus => self.capacity_cpus.map(Some),
            config.capacity.memory => self.capacity_memory.map(Some),
            config.capacity.disk => self.capacity_disk.map(Some),
            config.reserve.cpus => self.reserve_cpus,
            config.reserve.memory => self.reserve_memory,
            config.reserve.disk => self.reserve_disk,
            config.sandbox.uid => self.sandbox_uid,
            config.sandbox.gid => self.sandbox_gid,
            config.sandbox.pids_max => self.sandbox_pids_max,
            config.sandbox.files_max => self.sandbox_files_max,
            config.sandbox.open_files_max => self.sandbox_open_files_max,
            config.sandbox.shm_percent => self.sandbox_shm_percent,
            config.sandbox.image_entrypoint => self.sandbox_image_entrypoint,
            config.disk.first_project => self.disk_first_project,
            config.disk.projects => self.disk_projects,
            config.network.egress => self.network_egress,
            config.network.host => self.network_host,
            config.network.default => self.network_default,
            config.network.pool => self.network_pool,
        }
        self.images.apply(&mut config.images);
        config.check().map_err(|error| UsageError(format!("configuration: {error}")))?;
        Ok(config)
    }
}

/// Runs a coordinator until it is told to stop.
pub(crate) fn coordinator(args: CoordinatorArgs) -> anyhow::Result<u8> {
    let config = args.configuration()?;
    if args.source.check_config {
        return show(&config);
    }
    start_log(&args.source.log)?;
    limits::raise_open_files();
    serve(|shutdown| async move { Ok(teamster_coordinator::run(config, shutdown).await?) })
}

/// Runs an agent until it is told to stop. Its tasks go on.
pub(crate) fn agent(args: AgentArgs) -> anyhow::Result<u8> {
    let config = args.configuration()?;
    if args.source.check_config {
        return show(&config);
    }
    start_log(&args.source.log)?;
    limits::raise_open_files();
    serve(|shutdown| async move { Ok(teamster_agent::run(config, shutdown).await?) })
}

/// Reads a file without checking it: a flag may yet mend what is wrong in it.
pub(crate) fn read<T: DeserializeOwned + Default>(file: Option<&Path>) -> Result<T, UsageError> {
    let Some(path) = file else { return Ok(T::default()) };
    let refuse = |reason: String| UsageError(format!("configuration {}: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    toml::from_str(&text).map_err(|error| refuse(error.to_string()))
}

fn show(config: &impl Serialize) -> anyhow::Result<u8> {
    table::write(&toml::to_string(config).context("write the configuration")?);
    Ok(FINE)
}

/// Sends what the program does from now on to standard error.
fn start_log(args: &LogArgs) -> Result<(), UsageError> {
    let filter = EnvFilter::try_new(&args.log)
        .map_err(|error| UsageError(format!("--log '{}': {error}", args.log)))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// Runs a service on all cores until it ends by itself or after SIGTERM or SIGINT.
fn serve<F>(service: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<u8>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = CancellationToken::new();
        let mut service = std::pin::pin!(service(shutdown.clone()));
        // Cancel safe: receiving a signal is, and the service is polled by reference.
        let name = tokio::select! {
            ended = &mut service => return ended,
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
        shutdown.cancel();
        service.await
    })?;
    Ok(FINE)
}

fn entrypoint(text: &str) -> Result<Entrypoint, String> {
    serde_json::from_value(text.into()).map_err(|_| "must be 'none' or 'image'".to_owned())
}

fn pull_policy(text: &str) -> Result<PullPolicy, String> {
    serde_json::from_value(text.into()).map_err(|_| "must be 'always', 'if-missing' or 'never'".to_owned())
}

fn retry_started(text: &str) -> Result<RetryStarted, String> {
    serde_json::from_value(text.into()).map_err(|_| "must be 'if-preemptible' or 'always'".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::command_line::{Command, CommandLine};

    fn scalars(prefix: &str, table: &toml::Table) -> Vec<String> {
        let mut names = Vec::new();
        for (key, value) in table {
            match value {
                toml::Value::Table(inner) => names.extend(scalars(&format!("{prefix}{key}-"), inner)),
                toml::Value::Array(_) => {}
                _ => names.push(format!("{prefix}{key}").replace('_', "-")),
            }
        }
        names
    }

    #[test]
    fn every_scalar_has_its_flag_and_variable() {
        let coordinator = toml::Table::try_from(teamster_coordinator::config::Config::default()).unwrap();
        let agent = toml::Table::try_from(teamster_agent::config::Config::default()).unwrap();
        for (service, table) in [("coordinator", coordinator), ("agent", agent)] {
            let command = CommandLine::command();
            let command = command.find_subcommand(service).unwrap();
            for name in scalars("", &table) {
                let flag = command.get_arguments().find(|argument| argument.get_long() == Some(&name));
                let flag = flag.unwrap_or_else(|| panic!("{service} lacks --{name}"));
                let variable = format!("TEAMSTER_{}", name.to_uppercase().replace('-', "_"));
                assert_eq!(flag.get_env().and_then(|env| env.to_str()), Some(variable.as_str()));
            }
        }
    }

    #[test]
    fn a_flag_wins_over_the_file_and_can_mend_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, "http = '0.0.0.0:8000'\nmax_attempts = 7\nheartbeat = '1s'").unwrap();
        let words = ["teamster", "coordinator", "--config", file.to_str().unwrap()];
        let parse = |more: &[&str]| match CommandLine::parse_from([&words, more].concat()).command {
            Command::Coordinator(args) => args.configuration(),
            _ => unreachable!(),
        };
        assert!(parse(&[]).unwrap_err().is::<UsageError>());
        let config = parse(&["--insecure-open", "--heartbeat", "2s", "--retry-started=always"]).unwrap();
        assert_eq!(config.max_attempts, 7);
        assert_eq!(config.heartbeat.to_string(), "2s");
        assert_eq!(config.retry_started, RetryStarted::Always);
    }
}
