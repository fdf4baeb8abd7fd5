//! A database as the first released layout has it, written row by row without any of the store's own code:
//! names, keys and bytes stand here as they were released. This never changes; later layouts get a function
//! of their own.

use std::path::Path;

use redb::{Database, TableDefinition};

/// Id of the first task: sixteen bytes of 1. The second has 2, and so on.
pub(super) fn id(number: u8) -> [u8; 16] {
    [number; 16]
}

fn row(json: &str) -> Vec<u8> {
    [&[1], json.as_bytes()].concat()
}

/// Version 1: cluster `c-1`, opened 4 times, three tasks: 1 complete after a lost attempt, 2 running,
/// 3 canceled before any attempt.
pub(super) fn write_schema_1(path: &Path) {
    let database = Database::create(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table::<&str, &[u8]>(TableDefinition::new("meta")).unwrap();
        meta.insert("schema_version", [0, 0, 0, 1].as_slice()).unwrap();
        meta.insert("cluster_id", b"c-1".as_slice()).unwrap();
        meta.insert("term", [0, 0, 0, 0, 0, 0, 0, 4].as_slice()).unwrap();
        meta.insert("last_seq", [0, 0, 0, 0, 0, 0, 0, 3].as_slice()).unwrap();
        let mut heads = transaction.open_table::<u64, &[u8]>(TableDefinition::new("heads")).unwrap();
        let mut specs = transaction.open_table::<u64, &[u8]>(TableDefinition::new("specs")).unwrap();
        let mut ids = transaction.open_table::<[u8; 16], u64>(TableDefinition::new("ids")).unwrap();
        let texts =
            ["aeaqcaibaeaqcaibaeaqcaibae", "aibaeaqcaibaeaqcaibaeaqcai", "ambqgaydambqgaydambqgaydam"];
        for (number, text) in (1u8..).zip(texts) {
            let seq = u64::from(number);
            let head = format!(
                r#"{{"id":"{text}","name":"t{number}","owner":"anonymous","created":"2026-01-02T03:04:0{number}Z","tags":{{"k":"v"}}}}"#
            );
            let spec = r#"{"name":"t","executors":[{"image":"debian:12","command":["true"],"env":{"A":"b"}}],"resources":{"cpu_cores":2,"ram_gb":0.5},"tags":{"k":"v"}}"#;
            heads.insert(seq, row(&head).as_slice()).unwrap();
            specs.insert(seq, row(spec).as_slice()).unwrap();
            ids.insert(id(number), seq).unwrap();
        }
        let mut live = transaction.open_table::<u64, &[u8]>(TableDefinition::new("live")).unwrap();
        let running = r#"{"state":"RUNNING","attempt":1,"node":"n1","since":"2026-01-02T03:05:00Z","avoid":"n0","asks":{"cpu_milli":2000,"memory_bytes":1,"disk_bytes":1,"storages":["/mnt/shared"]}}"#;
        live.insert(2, [&[1], id(2).as_slice(), running.as_bytes()].concat().as_slice()).unwrap();
        let mut finals = transaction.open_table::<u64, &[u8]>(TableDefinition::new("finals")).unwrap();
        finals.insert(1, row(r#"{"state":"COMPLETE"}"#).as_slice()).unwrap();
        finals.insert(3, row(r#"{"state":"CANCELED","notes":["no node"]}"#).as_slice()).unwrap();
        let mut by_state =
            transaction.open_table::<(u8, u64), ()>(TableDefinition::new("finals_by_state")).unwrap();
        by_state.insert((1, 1), ()).unwrap();
        by_state.insert((4, 3), ()).unwrap();
        let mut attempts =
            transaction.open_table::<(u64, u32), &[u8]>(TableDefinition::new("attempts")).unwrap();
        let lost = r#"{"node":"n0","start_time":"2026-01-02T03:04:05Z","system_logs":["lost"]}"#;
        let ended = r#"{"node":"n1","start_time":"2026-01-02T03:05:00Z","end_time":"2026-01-02T03:06:00Z","executors":[{"start_time":"2026-01-02T03:05:01Z","end_time":"2026-01-02T03:05:59Z","exit_code":0,"stdout":"hi\n"}],"outputs":[{"url":"/mnt/x","path":"/x","size_bytes":5000000000}],"metadata":{"node":"n1"}}"#;
        attempts.insert((1, 1), row(lost).as_slice()).unwrap();
        attempts.insert((1, 2), row(ended).as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}
