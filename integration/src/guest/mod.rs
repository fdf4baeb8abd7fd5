//! A virtual machine for what this machine's kernel cannot show: cgroup version 2 alone, and an NFS server and
//! client. Its kernel is User Mode Linux, a program that needs neither root nor hardware; its files are this
//! machine's own, seen read-only, under the packages that this machine lacks. So whatever was built here runs
//! there as it is. It has one CPU, no network but loopback, and is gone without a trace when the command ends.

mod machine;
mod packages;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;

use self::machine::Machine;
use self::packages::Packages;
use crate::skip;

/// Set in the guest, so that nothing there starts another one.
const INSIDE: &str = "TEAMSTER_GUEST";

/// Process 1 of the guest.
const INIT: &str = include_str!("../../guest/init");

/// What is left of a console in a message.
const CONSOLE_LINES: usize = 40;

/// A guest that can be started, as often as one likes.
#[derive(Debug)]
pub struct Guest {
    packages: Packages,
    memory_mib: u64,
    deadline: Duration,
    environment: Vec<(String, String)>,
}

/// What came of a command.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none when the guest ended before it, at its deadline for example.
    pub code: Option<i32>,
    /// All that it printed to both streams.
    pub output: String,
    /// The end of what the guest's kernel and process 1 said.
    pub console: String,
}

impl Guest {
    /// The guest, with its packages downloaded unless they are there. None, loudly, where they cannot be had;
    /// none in the guest itself.
    ///
    /// # Panics
    /// When they cannot be had and this is continuous integration.
    pub fn prepare() -> Option<Self> {
        if is_inside() {
            return None;
        }
        match Self::open() {
            Ok(guest) => Some(guest),
            Err(reason) if skip::must_run_everything() => panic!("the guest cannot be made: {reason:#}"),
            Err(reason) => {
                skip::skipped("a test in a guest with a kernel of its own", &format!("{reason:#}"));
                None
            }
        }
    }

    /// The same for callers who want to know why not.
    pub fn open() -> anyhow::Result<Self> {
        let packages = Packages::below(&target_directory().join("guest")).context("get its packages")?;
        let environment = vec![(INSIDE.to_owned(), "1".to_owned())];
        Ok(Self { packages, memory_mib: 1536, deadline: Duration::from_secs(600), environment })
    }

    /// One more variable for the command.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// When the guest is ended if its command has not done so; ten minutes otherwise. Everything is several
    /// times as slow as outside.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How much memory the guest has; 1.5 GiB otherwise. It is taken as it is used.
    pub fn memory_mib(mut self, memory_mib: u64) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Starts the guest, runs a command in it as root in the current directory, and ends it.
    ///
    /// # Panics
    /// When the guest cannot be started.
    pub fn run(&self, command: &[&str]) -> Ended {
        self.start(command, false).expect("start the guest").until_end(&mut std::io::sink())
    }

    /// As [`Guest::run`], with the output passed on as it comes.
    pub fn run_to(&self, command: &[&str], sink: &mut dyn Write) -> anyhow::Result<Ended> {
        Ok(self.start(command, false)?.until_end(sink))
    }

    /// Starts the guest with this terminal as the command's own.
    pub fn run_on_terminal(&self, command: &[&str]) -> anyhow::Result<Ended> {
        Ok(self.start(command, true)?.until_end(&mut std::io::sink()))
    }

    /// Runs tests of the calling test program in the guest, one after the other: those whose names contain
    /// one of `filters`, but for those whose names contain one of `without`. The test fails where one of them
    /// does, with all that they printed.
    ///
    /// # Panics
    /// When a test fails, or none matches.
    pub fn run_own_tests(&self, filters: &[&str], without: &[&str]) {
        let program = std::env::current_exe().expect("a test knows its program");
        let mut command = vec![program.to_str().expect("cargo's names are text"), "--test-threads=1"];
        command.extend(filters);
        for name in without {
            command.extend(["--skip", name]);
        }
        let ended = self.run(&command);
        assert_eq!(ended.code, Some(0), "tests in the guest:\n{}\n{}", ended.output, ended.console);
        let ran = |line: &str| line.starts_with("test result: ok") && !line.contains(" 0 passed");
        assert!(ended.output.lines().any(ran), "none of {filters:?} is a test:\n{}", ended.output);
        for line in ended.output.lines().filter_map(|line| line.strip_prefix("SKIPPED: ")) {
            let (what, reason) = line.split_once(": ").unwrap_or((line, ""));
            skip::skipped(&format!("in the guest, {what}"), reason);
        }
    }

    fn start(&self, command: &[&str], is_interactive: bool) -> anyhow::Result<Machine> {
        let job = tempfile::Builder::new().prefix("guest").tempdir()?;
        self.write_job(&job, command)?;
        if is_interactive {
            fs::write(job.path().join("interactive"), "")?;
        }
        Machine::start(&self.packages.kernel(), job, self.memory_mib, self.deadline, is_interactive)
    }

    /// The job directory, as process 1 reads it: itself (`init`), the `command`, where the `packages` are,
    /// and the directories that are `shared`, one a line. It leaves `output` and `code` there.
    fn write_job(&self, job: &TempDir, command: &[&str]) -> anyhow::Result<()> {
        let write = |name: &str, text: String| fs::write(job.path().join(name), text);
        write("init", INIT.to_owned())?;
        fs::set_permissions(job.path().join("init"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        write("packages", self.packages.directory().display().to_string())?;
        let shared = [repository().to_owned(), target_directory()];
        write("shared", shared.iter().map(|path| format!("{}\n", path.display())).collect())?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut script = format!("export PATH={}:$PATH\n", quoted(&path));
        for (name, value) in &self.environment {
            script += &format!("export {name}={}\n", quoted(value));
        }
        let directory = std::env::current_dir()?;
        script += &format!("cd {} 2>/dev/null || cd /root\n", quoted(&directory.to_string_lossy()));
        let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
        script += &format!("exec {}\n", words.join(" "));
        write("command", script)?;
        write("output", String::new())?;
        Ok(())
    }
}

/// Whether this program runs in the guest.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// A word that the shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository")
}

/// Where cargo put this program and the others.
fn target_directory() -> PathBuf {
    let program = std::env::current_exe().expect("a process knows its program");
    let profile = program.ancestors().find(|path| path.join("deps").is_dir());
    profile.and_then(Path::parent).expect("programs lie in the target directory").to_owned()
}

/// The end of a console's text, with the line ends of files.
fn end_of(console: &str) -> String {
    let lines: Vec<&str> = console.lines().map(|line| line.trim_end_matches('\r')).collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_shell_as_they_are() {
        let words = ["a b", "it's", "$HOME", "", "*"];
        let script = format!("printf '%s|' {}", words.map(quoted).join(" "));
        let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "a b|it's|$HOME||*|");
    }
}
