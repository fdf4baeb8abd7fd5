//! Runs a command in the test guest, or a shell on this terminal when there is none:
//! `cargo run -p teamster-integration --bin guest -- cat /sys/fs/cgroup/cgroup.controllers`.

#![allow(clippy::print_stderr, reason = "a program for people")]

use std::io::{IsTerminal, stdin, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use teamster_integration::guest::Guest;

/// People may take their time.
const DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let guest = Guest::open()?.deadline(DEADLINE);
    let ended = if words.is_empty() && stdin().is_terminal() {
        guest.run_on_terminal(&["bash", "-i"])?
    } else {
        anyhow::ensure!(!words.is_empty(), "name a command, or run this on a terminal for a shell");
        guest.run_to(&words, &mut stdout())?
    };
    let Some(code) = ended.code else {
        anyhow::bail!("the guest ended before its command:\n{}", ended.console)
    };
    Ok(ExitCode::from(u8::try_from(code).context("an exit code")?))
}
