//! The command line as a whole: which subcommands there are, and the options that several of them share.
//! What a subcommand's own options mean stands beside its code.

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{image, node, run_command, service, task, up};

/// Runs GA4GH TES tasks as containers, through containerd on each node.
#[derive(Debug, Parser)]
#[command(
    name = "teamster",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  teamster up                                     everything on this machine, until Ctrl-C
  teamster run 'echo hello'                       one command as a task; prints what it prints
  teamster task list                              what is there
  teamster task create task.json                  submit a TES document

Exit codes: 0 fine, 1 the task or the command failed, 2 wrong usage, 3 the coordinator cannot be reached."
)]
pub(crate) struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a coordinator, an agent and a private containerd on this machine, until Ctrl-C
    Up(Box<up::UpArgs>),
    /// Serve the TES API and decide where tasks run
    Coordinator(Box<service::CoordinatorArgs>),
    /// Run tasks on this node
    Agent(Box<service::AgentArgs>),
    /// Run one shell command as a task and wait for it
    Run(Box<run_command::RunArgs>),
    /// Submit tasks and look at them
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Look at the nodes
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Look at this node's images and bring new ones in
    #[command(subcommand)]
    Image(image::ImageCommand),
}

/// Which coordinator is meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// URL of the coordinator's REST API
    #[arg(long, env = "TEAMSTER_SERVER", default_value = "http://127.0.0.1:8000", value_name = "URL")]
    pub(crate) server: String,
}

/// How results are written.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct FormatArgs {
    /// How to write the result
    #[arg(long = "output", value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub(crate) format: Format,
}

/// The two ways to write a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// Where a process says what it does.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogArgs {
    /// What is logged to standard error: a level, or `target=level` pairs as in RUST_LOG
    #[arg(long, env = "TEAMSTER_LOG", default_value = "info", value_name = "FILTER")]
    pub(crate) log: String,
    /// How it is written
    #[arg(long, env = "TEAMSTER_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
}

/// The two ways to write a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// What was asked for makes no sense. The text says what would.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
