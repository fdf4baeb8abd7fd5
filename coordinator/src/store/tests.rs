//! The store through its public face, and how it refuses what it cannot use.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use teamster_values::TaskId;

use super::open::open_within;
use super::*;
use crate::attempt_log::{AttemptLog, ExecutorLog, OutputFileLog};
use crate::spec::{Executor, TaskSpec};

fn task_id(number: u8) -> TaskId {
    TaskId::from_bytes([number; 16])
}

fn accepted(seq: u64, name: &str) -> Change {
    let executor = Executor { image: "i".into(), command: vec!["true".into()], ..Executor::default() };
    let tags = [("number".to_owned(), seq.to_string()), ("all".to_owned(), "yes".to_owned())].into();
    let spec =
        TaskSpec { name: Some(name.to_owned()), executors: vec![executor], tags, ..TaskSpec::default() };
    Change::Accepted {
        seq,
        id: task_id(seq as u8),
        owner: if seq.is_multiple_of(2) { "even".into() } else { "odd".into() },
        created: Timestamp::UNIX_EPOCH,
        spec: Arc::new(spec),
        asks: Asks::default(),
        notes: Vec::new(),
    }
}

fn running(attempt: u32) -> LiveRow {
    let since = Some("2026-01-02T03:04:05Z".parse().unwrap());
    LiveRow {
        state: LiveState::Running,
        attempt,
        node: Some("n".into()),
        since,
        ..LiveRow::queued(Asks::default())
    }
}

fn seqs(page: &Page) -> Vec<u64> {
    page.tasks.iter().map(|task| task.seq).collect()
}

fn file_bytes(directory: &Path) -> Vec<u8> {
    std::fs::read(directory.join("state.redb")).unwrap()
}

#[test]
fn a_task_survives_each_step_and_a_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, reader, cluster_id, term, secret } = open(directory.path()).unwrap();
    assert_eq!((term, reader.next_seq().unwrap()), (1, 1));
    writer.commit(&[accepted(1, "a"), accepted(2, "b")]).unwrap();
    assert_eq!(
        reader.task(&task_id(1), Want::Status).unwrap().unwrap().status,
        Status::Live(LiveRow::queued(Asks::default()))
    );
    let log = AttemptLog {
        node: Some("n".into()),
        executors: vec![ExecutorLog { exit_code: 3, stdout: "ü\u{0}".into(), ..ExecutorLog::default() }],
        outputs: vec![OutputFileLog { url: "/u".into(), path: "/p".into(), size_bytes: u64::MAX }],
        system_logs: vec!["words".into()],
        metadata: [("a".to_owned(), "b".to_owned())].into(),
        ..AttemptLog::default()
    };
    let row = LiveRow { notes: vec!["waited".into()], ..running(1) };
    writer
        .commit(&[
            Change::Live { seq: 1, row },
            Change::AttemptEnded { seq: 1, attempt: 1, log: log.clone() },
            Change::Finished { seq: 1, state: FinalState::ExecutorError },
            Change::Live { seq: 2, row: running(1) },
        ])
        .unwrap();
    drop((writer, reader));

    let opened = open(directory.path()).unwrap();
    assert_eq!((opened.cluster_id, opened.term), (cluster_id, 2));
    assert_eq!(opened.secret.as_bytes(), secret.as_bytes(), "what was signed before is still good");
    let reader = opened.reader;
    assert_eq!(reader.next_seq().unwrap(), 3);
    assert_eq!(reader.live().unwrap().placed().collect::<Vec<_>>(), [(2, task_id(2), &running(1))]);
    let task = reader.task(&task_id(1), Want::Everything).unwrap().unwrap();
    let notes = vec!["waited".to_owned()];
    assert_eq!(task.status, Status::Final(FinalRow { state: FinalState::ExecutorError, notes }));
    assert_eq!(task.attempts, vec![(1, log)]);
    assert_eq!(task.spec.as_ref(), reader.spec(1).unwrap().map(|(_, spec)| spec).as_deref());
    assert_eq!(reader.seq(&task_id(2)).unwrap(), Some(2));
    assert_eq!(reader.seq(&task_id(9)).unwrap(), None);
    assert_eq!(reader.spec(9).unwrap(), None);
    assert!(reader.task(&task_id(9), Want::Status).unwrap().is_none());
}

#[test]
fn a_batch_is_all_or_none_and_an_end_is_final() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, reader, .. } = open(directory.path()).unwrap();
    writer.commit(&[accepted(1, "a"), Change::Finished { seq: 1, state: FinalState::Complete }]).unwrap();
    let late = Change::Live { seq: 1, row: running(2) };
    let refused = writer.commit(&[accepted(2, "b"), late]).unwrap_err();
    assert!(refused.to_string().contains("no such live task"), "{refused}");
    assert_eq!(reader.seq(&task_id(2)).unwrap(), None, "the whole batch is dropped");
    let again = Change::Finished { seq: 1, state: FinalState::Canceled };
    assert!(writer.commit(&[again]).is_err());
    writer.commit(&[accepted(2, "b")]).unwrap();
}

#[test]
fn lists_page_by_page_newest_first() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, reader, .. } = open(directory.path()).unwrap();
    let names = ["ax", "b%", "ay", "b_", "az", "c"];
    let changes: Vec<_> = (1..).zip(names).map(|(seq, name)| accepted(seq, name)).collect();
    writer.commit(&changes).unwrap();
    let first = reader.list(&ListQuery::newest(4)).unwrap();
    assert_eq!((seqs(&first), first.next), (vec![6, 5, 4, 3], Some(Cursor(3))));
    writer.commit(&[accepted(7, "d")]).unwrap();
    let second = reader.list(&ListQuery { below: first.next, ..ListQuery::newest(4) }).unwrap();
    assert_eq!((seqs(&second), second.next), (vec![2, 1], None), "new tasks do not shift pages");
    assert_eq!(reader.list(&ListQuery::newest(7)).unwrap().next, None, "a full last page is the last");

    let named = |prefix: &str| ListQuery { name_prefix: Some(prefix.into()), ..ListQuery::newest(2) };
    let page = reader.list(&named("a")).unwrap();
    assert_eq!((seqs(&page), page.next), (vec![5, 3], Some(Cursor(2))));
    assert_eq!(seqs(&reader.list(&named("b%")).unwrap()), vec![2], "a prefix is no pattern");
    let odd = ListQuery { owner: Some("odd".into()), ..ListQuery::newest(9) };
    assert_eq!(seqs(&reader.list(&odd).unwrap()), vec![7, 5, 3, 1]);
    let tag = |key: &str, value: Option<&str>| TagFilter { key: key.into(), value: value.map(Into::into) };
    let tagged = |tags| ListQuery { tags, ..ListQuery::newest(9) };
    assert_eq!(reader.list(&tagged(vec![tag("all", None)])).unwrap().tasks.len(), 7);
    let both = vec![tag("all", Some("yes")), tag("number", Some("4"))];
    assert_eq!(seqs(&reader.list(&tagged(both)).unwrap()), vec![4]);
    assert!(reader.list(&tagged(vec![tag("none", None)])).unwrap().tasks.is_empty());
}

#[test]
fn lists_by_state() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, reader, .. } = open(directory.path()).unwrap();
    let changes: Vec<_> = (1..=6).map(|seq| accepted(seq, "n")).collect();
    writer.commit(&changes).unwrap();
    let canceling = LiveState::Canceling { shown: Shown::Running };
    let ended = LiveState::Finalizing;
    writer
        .commit(&[
            Change::Finished { seq: 1, state: FinalState::Complete },
            Change::Finished { seq: 2, state: FinalState::Canceled },
            Change::Finished { seq: 3, state: FinalState::Complete },
            Change::Live { seq: 4, row: LiveRow { state: canceling, ..LiveRow::queued(Asks::default()) } },
            Change::Live { seq: 5, row: LiveRow { state: ended, ..LiveRow::queued(Asks::default()) } },
        ])
        .unwrap();
    let listed = |state, below| {
        let query = ListQuery { state: Some(state), below, ..ListQuery::newest(1) };
        let page = reader.list(&query).unwrap();
        (seqs(&page), page.next)
    };
    assert_eq!(listed(StateFilter::Final(FinalState::Complete), None), (vec![3], Some(Cursor(2))));
    assert_eq!(listed(StateFilter::Final(FinalState::Complete), Some(Cursor(2))), (vec![1], None));
    assert_eq!(listed(StateFilter::Final(FinalState::Canceled), None), (vec![2], None));
    assert_eq!(listed(StateFilter::Final(FinalState::SystemError), None), (vec![], None));
    assert_eq!(listed(StateFilter::Live(Shown::Running), None), (vec![5], Some(Cursor(5))));
    assert_eq!(listed(StateFilter::Live(Shown::Running), Some(Cursor(5))), (vec![4], None));
    assert_eq!(listed(StateFilter::Live(Shown::Queued), None), (vec![6], None));
    assert_eq!(listed(StateFilter::Nothing, None), (vec![], None));
}

#[test]
fn a_page_is_bounded_in_rows_and_in_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, reader, .. } = open(directory.path()).unwrap();
    let rows_max = page::SCAN_ROWS_MAX as u64;
    let long_log = AttemptLog {
        system_logs: vec!["x".repeat(page::BIG_ROWS_BYTES_MAX * 2 / 3)],
        ..AttemptLog::default()
    };
    let mut changes: Vec<_> = (1..=rows_max + 10).map(|seq| accepted(seq, "n")).collect();
    changes.extend((1..=5).map(|seq| Change::AttemptEnded { seq, attempt: 1, log: long_log.clone() }));
    writer.commit(&changes).unwrap();
    let live: Vec<_> = reader.live().unwrap().tasks().iter().map(|task| task.seq).collect();
    assert_eq!(live, (1..=rows_max + 10).collect::<Vec<_>>(), "in order");

    let tags = vec![TagFilter { key: "number".into(), value: Some("5".into()) }];
    let rare = ListQuery { tags, ..ListQuery::newest(10) };
    let first = reader.list(&rare).unwrap();
    assert_eq!((seqs(&first), first.next), (vec![], Some(Cursor(11))), "short, but not the last");
    let second = reader.list(&ListQuery { below: first.next, ..rare }).unwrap();
    assert_eq!((seqs(&second), second.next), (vec![5], None));

    let newest = ListQuery { below: Some(Cursor(6)), ..ListQuery::newest(10) };
    assert_eq!(reader.list(&newest).unwrap().tasks.len(), 5, "small rows are no load");
    let everything = ListQuery { want: Want::Everything, ..newest };
    let page = reader.list(&everything).unwrap();
    assert_eq!((seqs(&page), page.next), (vec![5, 4], Some(Cursor(4))));
}

#[test]
fn reads_schema_version_1() {
    let directory = tempfile::tempdir().unwrap();
    fixture::write_schema_1(&directory.path().join("state.redb"));
    let Opened { mut writer, reader, cluster_id, term, .. } = open(directory.path()).unwrap();
    assert_eq!((cluster_id.as_str(), term, reader.next_seq().unwrap()), ("c-1", 5, 4));
    let task = reader.task(&TaskId::from_bytes(fixture::id(1)), Want::Everything).unwrap().unwrap();
    assert_eq!(task.head.id, TaskId::from_bytes(fixture::id(1)));
    assert_eq!(task.attempts[0].1.system_logs, ["lost"]);
    assert_eq!(task.attempts[1].1.outputs[0].size_bytes, 5_000_000_000);
    assert_eq!(task.spec.unwrap().resources.unwrap().ram_gb, Some(0.5));
    let live = reader.live().unwrap();
    let [(2, _, row)] = live.placed().collect::<Vec<_>>()[..] else { panic!("one live task") };
    assert_eq!((row.state, row.asks.cpu_milli, row.avoid.as_deref()), (LiveState::Running, 2000, Some("n0")));
    let canceled =
        ListQuery { state: Some(StateFilter::Final(FinalState::Canceled)), ..ListQuery::newest(9) };
    assert_eq!(seqs(&reader.list(&canceled).unwrap()), vec![3]);
    writer.commit(&[Change::Finished { seq: 2, state: FinalState::Complete }]).unwrap();

    let an_hour = Duration::from_secs(3600);
    assert_eq!(reader.ended_before(Timestamp::now() - an_hour, 9).unwrap(), vec![], "none is swept at once");
    let ended = reader.ended_before(Timestamp::now() + an_hour, 9).unwrap();
    assert_eq!(ended.iter().map(|ended| ended.seq).collect::<Vec<_>>(), [1, 3, 2]);
    drop((writer, reader));
    let reader = open(directory.path()).unwrap().reader;
    assert_eq!(reader.ended_before(Timestamp::now() + an_hour, 9).unwrap(), ended, "one step is made once");
}

#[test]
fn what_is_swept_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let Opened { mut writer, reader, .. } = open(directory.path()).unwrap();
    let log = || AttemptLog { system_logs: vec!["words".into()], ..AttemptLog::default() };
    let mut changes: Vec<_> = (1..=4).map(|seq| accepted(seq, "n")).collect();
    changes.extend((1..=2).map(|attempt| Change::AttemptEnded { seq: 2, attempt, log: log() }));
    changes.push(Change::AttemptEnded { seq: 3, attempt: 1, log: log() });
    writer.commit(&changes).unwrap();
    // Not in the order of acceptance.
    for seq in [3, 2, 1] {
        writer.commit(&[Change::Finished { seq, state: FinalState::Complete }]).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    let later = Timestamp::now() + Duration::from_secs(60);
    let ended = reader.ended_before(later, 2).unwrap();
    assert_eq!(ended.iter().map(|ended| ended.seq).collect::<Vec<_>>(), [3, 2], "the oldest end first");
    writer.commit(&ended.iter().map(|ended| Change::Swept { ended: *ended }).collect::<Vec<_>>()).unwrap();
    for seq in [2, 3] {
        assert!(reader.task(&task_id(seq), Want::Everything).unwrap().is_none());
        assert_eq!(reader.spec(u64::from(seq)).unwrap(), None);
    }
    assert_eq!(seqs(&reader.list(&ListQuery::newest(9)).unwrap()), [4, 1]);
    let complete =
        ListQuery { state: Some(StateFilter::Final(FinalState::Complete)), ..ListQuery::newest(9) };
    assert_eq!(seqs(&reader.list(&complete).unwrap()), [1]);
    assert_eq!(reader.ended_before(later, 9).unwrap().len(), 1);
    assert!(writer.commit(&[Change::Swept { ended: ended[0] }]).is_err(), "a task is swept once");

    // Numbers are never given again; here they are, to see rows that were left behind under them.
    writer.commit(&[accepted(2, "again"), accepted(3, "again")]).unwrap();
    let again = reader.task(&task_id(2), Want::Everything).unwrap().unwrap();
    assert_eq!(again.attempts, vec![]);
}

#[test]
fn refuses_a_newer_schema_and_leaves_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    fixture::write_schema_1(&path);
    let set = |version: u32| {
        let database = redb::Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let version = version.to_be_bytes();
        transaction.open_table(tables::META).unwrap().insert("schema_version", version.as_slice()).unwrap();
        transaction.commit().unwrap();
    };
    set(77);
    let refused = open(directory.path()).unwrap_err().to_string();
    assert!(refused.contains("version 77") && refused.contains("state.redb"), "{refused}");
    set(1);
    assert_eq!(open(directory.path()).unwrap().term, 5, "nothing was written by the refused opening");
    set(0);
    assert!(open(directory.path()).unwrap_err().to_string().contains("damaged"));
}

#[test]
fn refuses_a_foreign_file_and_leaves_it() {
    let long = b"SQLite format 3\0 and much more".repeat(500);
    for content in [b"short".as_slice(), b"".as_slice(), long.as_slice()] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("state.redb"), content).unwrap();
        let refused = open(directory.path()).unwrap_err().to_string();
        assert!(refused.contains("not a database of this program"), "{refused}");
        assert!(refused.contains(&directory.path().display().to_string()));
        assert_eq!(file_bytes(directory.path()), content);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let other = redb::Database::create(&path).unwrap();
    let transaction = other.begin_write().unwrap();
    transaction.open_table(redb::TableDefinition::<u64, u64>::new("theirs")).unwrap();
    transaction.commit().unwrap();
    drop(other);
    assert!(matches!(open(directory.path()), Err(StoreError::Foreign { .. })), "another program's redb");
}

#[test]
fn refuses_a_damaged_file() {
    let directory = tempfile::tempdir().unwrap();
    fixture::write_schema_1(&directory.path().join("state.redb"));
    let whole = file_bytes(directory.path());
    let mut header_flipped = whole.clone();
    header_flipped[64..192].fill(0xaa);
    let mut version_flipped = whole.clone();
    version_flipped[64] = 200;
    for damaged in [whole[..whole.len() / 3].to_vec(), whole[..100].to_vec(), header_flipped, version_flipped]
    {
        std::fs::write(directory.path().join("state.redb"), &damaged).unwrap();
        let refused = open(directory.path()).unwrap_err().to_string();
        assert!(refused.contains("state.redb"), "{refused}");
        assert_eq!(file_bytes(directory.path()), damaged, "{refused}");
    }
}

#[test]
fn a_row_of_an_unknown_version_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    fixture::write_schema_1(&path);
    let database = redb::Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(tables::SPECS).unwrap().insert(1, b"\x02{}".as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let refused = open(directory.path()).unwrap().reader.spec(1).unwrap_err().to_string();
    assert!(refused.contains("row 1 of table specs") && refused.contains("version 2"), "{refused}");
}

#[test]
fn one_coordinator_at_a_time() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("a/b");
    let first = open(&data_dir).unwrap();
    let mode = std::fs::metadata(&data_dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let refused = open_within(&data_dir, Duration::ZERO).unwrap_err().to_string();
    assert!(refused.contains("another coordinator uses it"), "{refused}");
    std::thread::scope(|scope| {
        let second = scope.spawn(|| open(&data_dir).unwrap().term);
        std::thread::sleep(Duration::from_millis(200));
        drop(first);
        assert_eq!(second.join().unwrap(), 2, "waits for its predecessor");
    });
}

#[test]
fn names_a_directory_that_cannot_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let refused = open(&file.join("data")).unwrap_err().to_string();
    assert!(refused.contains("use the data directory") && refused.contains("file/data"), "{refused}");
}

#[test]
fn an_unfinished_database_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("state.redb.new"), vec![0; 5000]).unwrap();
    assert_eq!(open(directory.path()).unwrap().term, 1);
    assert!(!directory.path().join("state.redb.new").exists());
}
