//! The program `teamster`: the coordinator, the agent, both at once (`up`), and the user's verbs. This file
//! reads the command line, runs one subcommand and turns its end into an exit code; it decides nothing else.

mod args;
mod client;
mod command_line;
mod follow;
mod image;
mod limits;
mod node;
mod run_command;
mod service;
mod table;
mod task;
mod up;
mod wait;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::client::ClientError;
use crate::command_line::{Command, CommandLine};

/// Fine.
const FINE: u8 = 0;
/// The task failed, or the command itself did.
const FAILED: u8 = 1;
/// What was asked for makes no sense; clap uses the same number.
const USAGE: u8 = 2;
/// The coordinator cannot be reached.
const UNREACHABLE: u8 = 3;

fn main() -> ExitCode {
    // A staging child unshares namespaces, which only a process with one thread may do.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "stage") {
        teamster_agent::stage::main();
    }
    let command = CommandLine::parse().command;
    match run(command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&error);
            ExitCode::from(code_of(&error))
        }
    }
}

fn run(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Up(args) => up::run(*args),
        Command::Coordinator(args) => service::coordinator(*args),
        Command::Agent(args) => service::agent(*args),
        Command::Run(args) => on_one_thread(run_command::run(*args)),
        Command::Task(command) => on_one_thread(task::run(command)),
        Command::Node(command) => on_one_thread(node::run(command)),
        Command::Image(command) => on_one_thread(image::run(command)),
    }
}

fn on_one_thread(verb: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(verb)
}

fn code_of(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Unreachable { .. } | ClientError::Garbled { .. }) => UNREACHABLE,
        Some(ClientError::Refused { .. } | ClientError::Address { .. } | ClientError::Id { .. }) => USAGE,
        None if error.is::<args::UsageError>() => USAGE,
        None => FAILED,
    }
}

#[allow(clippy::print_stderr, reason = "the last word to the user belongs on the terminal, not in a log")]
fn complain(error: &anyhow::Error) {
    eprintln!("teamster: {}", whole_story(error));
}

/// The error and its causes in one line. Some errors tell their cause themselves: nothing is said twice.
fn whole_story(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |story, part| match story.as_str() {
        "" => part,
        so_far if so_far.contains(&part) => story,
        so_far => format!("{so_far}: {part}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let cause = std::io::Error::other("no space left");
        let error = anyhow::Error::new(cause).context("write x: no space left").context("start");
        assert_eq!(whole_story(&error), "start: write x: no space left");
    }
}
