//! What is on disk after the process was killed in the middle, and after the disk was full.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use jiff::Timestamp;
use teamster_values::TaskId;

use super::small_disk::SmallDisk;
use super::*;
use crate::attempt_log::AttemptLog;
use crate::spec::{Executor, TaskSpec};

/// Tells the child test below where to write.
const CHILD_DIRECTORY: &str = "TEAMSTER_STORE_TEST_DIRECTORY";

fn task_id(seq: u64) -> TaskId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seq.to_be_bytes());
    TaskId::from_bytes(bytes)
}

/// Accepts task `seq` with about `padding_bytes` in its spec, and ends the one before it.
fn step(seq: u64, padding_bytes: usize) -> Vec<Change> {
    let command = vec!["x".repeat(padding_bytes)];
    let executor = Executor { image: "i".into(), command, ..Executor::default() };
    let spec = Arc::new(TaskSpec { executors: vec![executor], ..TaskSpec::default() });
    let created = Timestamp::UNIX_EPOCH;
    let mut changes = vec![Change::Accepted {
        seq,
        id: task_id(seq),
        owner: "o".into(),
        created,
        spec,
        asks: Asks::default(),
        notes: Vec::new(),
    }];
    if seq > 1 {
        let log = AttemptLog { system_logs: vec![seq.to_string()], ..AttemptLog::default() };
        changes.push(Change::AttemptEnded { seq: seq - 1, attempt: 1, log });
        changes.push(Change::Finished { seq: seq - 1, state: FinalState::Complete });
    }
    changes
}

/// Every acknowledged step is there whole, and what was not acknowledged is there whole or not at all.
fn check(reader: &Reader, acknowledged: u64) {
    let last = reader.next_seq().unwrap() - 1;
    assert!(last == acknowledged || last == acknowledged + 1, "{last} on disk, {acknowledged} acknowledged");
    for seq in 1..=last {
        let task = reader.task(&task_id(seq), Want::Everything).unwrap().expect("an accepted task is there");
        let is_ended = matches!(task.status, Status::Final(_));
        assert_eq!((is_ended, task.attempts.len()), (seq < last, usize::from(seq < last)), "task {seq}");
    }
    let live: Vec<_> = reader.live().unwrap().tasks().iter().map(|task| task.seq).collect();
    assert_eq!(live, (last.max(1)..=last).collect::<Vec<_>>());
}

#[test]
#[ignore = "the child process of kill_loses_nothing"]
fn child_that_commits_until_it_is_killed() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else { return };
    let Opened { mut writer, reader, .. } = open(Path::new(&directory)).unwrap();
    for seq in reader.next_seq().unwrap().. {
        writer.commit(&step(seq, 500)).unwrap();
        println!("\nacknowledged {seq}");
    }
}

#[test]
fn kill_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 1..=8u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::crash_tests::child_that_commits_until_it_is_killed"])
            .args(["--ignored", "--nocapture"])
            .env(CHILD_DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = acknowledged + 5 * round;
        for line in lines {
            let line = line.unwrap();
            let Some(seq) = line.strip_prefix("acknowledged ") else { continue };
            acknowledged = seq.parse().unwrap();
            if acknowledged == enough {
                // It goes on committing meanwhile, so this hits any moment of a commit.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acknowledged >= enough, "the child stopped by itself");
        let opened = open(directory.path()).unwrap();
        assert_eq!(opened.term, 2 * round, "one term for the child, one for this look");
        check(&opened.reader, acknowledged);
        // What was under way counts from now on: it is on disk.
        acknowledged = opened.reader.next_seq().unwrap() - 1;
    }
}

#[test]
fn a_full_disk_fails_one_commit_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(directory.path().join("disk"), "size=8m") else { return };
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let Opened { mut writer, reader, .. } = open(&disk.0).unwrap();
    let mut acknowledged = 0;
    let error = loop {
        match writer.commit(&step(acknowledged + 1, 30_000)) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert!(error.to_string().contains("the disk is full") && error.to_string().contains("state.redb"));
    assert!(acknowledged > 10);
    check(&reader, acknowledged);
    let after = writer.commit(&step(acknowledged + 1, 1)).unwrap_err();
    assert!(matches!(after, StoreError::Broken { .. }), "{after}");
    check(&reader, acknowledged);
    drop((writer, reader));

    let Opened { writer, reader, .. } = open(&disk.0).unwrap();
    check(&reader, acknowledged);
    let acknowledged = reader.next_seq().unwrap() - 1;
    drop((writer, reader));
    // A little room is all that it takes to go on.
    std::fs::remove_file(ballast).unwrap();
    let Opened { mut writer, reader, .. } = open(&disk.0).unwrap();
    writer.commit(&step(acknowledged + 1, 1)).unwrap();
    check(&reader, acknowledged + 1);
    drop((writer, reader));
}

#[test]
fn a_disk_without_room_or_without_leave_to_write_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let Some(tiny) = SmallDisk::mount(directory.path().join("tiny"), "size=16k") else { return };
    let error = open(&tiny.0).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    let Some(sealed) = SmallDisk::mount(directory.path().join("sealed"), "ro") else { return };
    let error = open(&sealed.0).unwrap_err().to_string();
    assert!(error.contains("use the data directory") && error.contains("sealed"), "{error}");
}
