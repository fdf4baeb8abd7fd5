//! `teamster agent`: its flags, each a key of its configuration.

use std::path::PathBuf;

use clap::Args;
use ipnet::Ipv4Net;
use teamster_agent::assignment::Network;
use teamster_agent::config::{Config, OciRuntime};
use teamster_values::{ByteCount, Period};

use super::images::ImageArgs;
use super::{SourceArgs, overlay, read, serve, show, start_log};
use crate::args::UsageError;
use crate::limits;

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
    /// Whether small programs stand in for most starts of containerd's shim program and runc
    #[arg(long, env = "TEAMSTER_STAND_INS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    stand_ins: Option<bool>,
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

impl AgentArgs {
    fn configuration(&self) -> anyhow::Result<Config> {
        let mut config: Config = read(self.source.config.as_deref())?;
        overlay! {
            config.data_dir => self.data_dir.clone(),
            config.coordinator => self.coordinator.clone(),
            config.node_id => self.node_id.clone().map(Some),
            config.containerd => self.containerd.clone(),
            config.runtime => self.runtime,
            config.stand_ins => self.stand_ins,
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
