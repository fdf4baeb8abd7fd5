//! `teamster coordinator`: its flags, each a key of its configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use teamster_coordinator::config::{Config, RetryStarted};
use teamster_coordinator::parameters::Entrypoint;
use teamster_values::{ByteCount, Period};

use super::{SourceArgs, overlay, read, serve, show, start_log};
use crate::args::UsageError;
use crate::limits;

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

impl CoordinatorArgs {
    pub(super) fn configuration(&self) -> anyhow::Result<Config> {
        let mut config: Config = read(self.source.config.as_deref())?;
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

fn entrypoint(text: &str) -> Result<Entrypoint, String> {
    serde_json::from_value(text.into()).map_err(|_| "must be 'none' or 'image'".to_owned())
}

fn retry_started(text: &str) -> Result<RetryStarted, String> {
    serde_json::from_value(text.into()).map_err(|_| "must be 'if-preemptible' or 'always'".to_owned())
}
