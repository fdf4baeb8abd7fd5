//! `teamster coordinator` and `teamster agent`: put a configuration together from file, environment and
//! flags, start the log, and run the service until SIGTERM or SIGINT. What the services do is theirs.

mod agent;
mod coordinator;
mod images;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

pub(crate) use agent::{AgentArgs, agent};
pub(crate) use coordinator::{CoordinatorArgs, coordinator};

use crate::args::{LogArgs, LogFormat, UsageError};
use crate::{FINE, table};

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

/// Sets each field for which a flag or a variable was given.
macro_rules! overlay {
    ($($field:expr => $given:expr),+ $(,)?) => {
        $(if let Some(value) = $given { $field = value; })+
    };
}

use overlay;

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

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use teamster_coordinator::config::RetryStarted;

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
