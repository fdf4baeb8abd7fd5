//! Staging that is cut off in the middle: the caller gives up, or the agent dies. Nothing may live on, and
//! what is half done must not look done.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::bench::{Bench, output, program};
use teamster_agent::stage::Stager;

/// More than any machine copies before it is cut off. The file is sparse.
const HUGE_BYTES: u64 = 64 << 30;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An attempt with one output that takes for ever to copy.
async fn endless() -> Option<Bench> {
    let mut bench = Bench::new()?;
    bench.store("results/there", "before");
    bench.task.outputs = vec![output("/work/huge", &bench.url("results/copy"))];
    bench.stage_in().await.unwrap();
    bench.write("/work/huge", "");
    let file = std::fs::File::options().write(true).open(bench.on_host("/work/huge")).unwrap();
    file.set_len(HUGE_BYTES).unwrap();
    Some(bench)
}

fn part(bench: &Bench) -> Option<PathBuf> {
    let entries = std::fs::read_dir(bench.storage().join("results")).unwrap();
    entries.map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some_and(|end| end == "part"))
}

async fn until_copying(bench: &Bench) {
    let wait = async {
        while part(bench).is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the copy begins");
}

#[tokio::test]
async fn a_dropped_step_takes_its_processes_along() {
    let Some(bench) = endless().await else { return };
    let plan = bench.plan();
    tokio::select! {
        done = bench.stager.stage_out(&plan) => panic!("it should still be copying: {done:?}"),
        () = until_copying(&bench) => {}
    }
    // It takes the lock that both processes hold while they live.
    bench.release().await.unwrap();
    let size = std::fs::metadata(part(&bench).unwrap()).unwrap().len();
    assert!(size < HUGE_BYTES && !bench.storage().join("results/copy").exists());
}

#[tokio::test]
async fn a_dead_agent_takes_its_children_along() {
    let Some(bench) = endless().await else { return };
    // A program that only writes down what it is asked, to play the agent with.
    let (script, asked) = (bench.storage().join("script"), bench.storage().join("asked"));
    std::fs::write(
        &script,
        format!("#!/bin/sh\nread -r line\nprintf '%s\\n' \"$line\" > {}\n", asked.display()),
    )
    .unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    Stager::new(script).stage_out(&bench.plan()).await.unwrap_err();

    let mut child = Command::new(program()).arg("stage").stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&std::fs::read(asked).unwrap()).unwrap();
    until_copying(&bench).await;
    drop(stdin);
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
    let status = tokio::time::timeout(PATIENCE, ended).await.expect("it ends").unwrap();
    assert!(!status.success());
    bench.release().await.unwrap();
    assert!(!bench.storage().join("results/copy").exists());
}
