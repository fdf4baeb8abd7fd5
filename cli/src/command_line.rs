//! The command line as a whole: which subcommands there are. What each takes stands beside its code.

use clap::{Parser, Subcommand};

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
