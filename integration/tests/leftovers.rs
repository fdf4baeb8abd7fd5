//! Tests clean up after tests: what one leaves that was killed itself, the next one clears away.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]
#![allow(clippy::print_stdout, reason = "one process tells another where it is")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use teamster_integration::cluster::{Marks, Options, eventually, shell_task};
use teamster_integration::containerd::{PrivateContainerd, attempt_cgroups, can_run_containers};
use teamster_integration::stand::Stand;

/// Set where this program is the one that is killed.
const VICTIM: &str = "TEAMSTER_TEST_TO_BE_KILLED";

/// What the victim says before where it is.
const HERE: &str = "to be killed: ";

#[tokio::test(flavor = "multi_thread")]
async fn the_next_test_clears_away_what_a_killed_one_left() {
    if std::env::var_os(VICTIM).is_some() {
        return wait_to_be_killed().await;
    }
    if !can_run_containers() {
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_next_test_clears_away_what_a_killed_one_left", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find_map(|line| line.split_once(HERE).map(|(_, words)| words.to_owned())).unwrap();
    let (home, task) = line.split_once(' ').unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    let container = format!("/run/containerd/runc/teamster/{task}-1-0");
    assert!(
        Path::new(home).exists() && Path::new(&container).exists(),
        "it was killed in the middle: {line}"
    );
    assert!(mentions(home) > 2 && !attempt_cgroups(&format!("{task}-1")).is_empty(), "{line}");

    let _next = PrivateContainerd::start();
    // Another test may have begun with it.
    eventually("all of it to be gone", async || {
        let is_gone = !Path::new(home).exists() && !Path::new(&container).exists();
        (is_gone && mentions(home) == 0 && attempt_cgroups(&format!("{task}-1")).is_empty()).then_some(())
    })
    .await;
}

/// How many processes and mounts name this directory.
fn mentions(home: &str) -> usize {
    let processes = procfs::process::all_processes().unwrap().filter_map(Result::ok);
    let words = processes.filter_map(|process| process.cmdline().ok());
    let mounts = procfs::process::Process::myself().unwrap().mountinfo().unwrap();
    words.filter(|words| words.iter().any(|word| word.starts_with(home))).count()
        + mounts.into_iter().filter(|mount| mount.mount_point.starts_with(home)).count()
}

async fn wait_to_be_killed() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let marks = Marks::new(&cluster.shared());
    let script = format!("{}; setsid sleep 1000 & sleep 1000", marks.shell("runs"));
    let task = cluster.client.submit(&shell_task("t", &[script])).await;
    eventually("the task to run", async || (marks.count("runs") == 1).then_some(())).await;
    println!("{HERE}{} {task}", stand.dir().display());
    std::future::pending().await
}
