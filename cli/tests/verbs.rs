//! The user's verbs against a prepared coordinator: what they ask, what they print, how they end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod stub;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use stub::Stub;

const ID: &str = "06bq4m2s1wabcdefghijklmnop";
const OTHER: &str = "06bq4m2s1wabcdefghijklmnoq";

fn teamster(stub: &Stub, words: &[&str]) -> Output {
    command(stub, words).output().unwrap()
}

fn command(stub: &Stub, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_teamster"));
    command.args(words).env("TEAMSTER_SERVER", stub.url()).env_remove("TEAMSTER_IMAGE");
    // Nobody listens there, so verbs that would rather be told have to ask.
    command.env("TEAMSTER_GRPC", "127.0.0.1:1");
    command
}

/// What is on standard error after the one line about that.
fn after_notice(output: &Output) -> &str {
    let (notice, rest) = text(&output.stderr).split_once('\n').unwrap();
    assert!(notice.starts_with("teamster: cannot watch at http://127.0.0.1:1"), "{notice}");
    assert!(!rest.contains("cannot watch"), "it is said once: {rest}");
    rest
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn log(stream: &str) -> String {
    format!("GET /v1/tasks/{ID}/logs?stream={stream}")
}

fn follow() -> String {
    format!("GET /v1/tasks/{ID}/logs?follow=true")
}

fn event(id: &str, name: &str, text: &str) -> String {
    format!("id: {id}\nevent: {name}\ndata: {text:?}\n\n")
}

#[test]
fn run_shows_what_the_command_writes() {
    // The first answer breaks off in the middle of an event.
    let broken = event("1-0-2-0", "stdout", "o\n") + "id: 1-0-4-0\nevent: std";
    let rest = event("1-0-4-0", "stdout", "ut\n") + &event("1-0-4-4", "stderr", "err\n");
    let rest = rest + &event("1-1-0-0", "system", "why\n") + &event("1-1-0-0", "end", "COMPLETE");
    let stub = Stub::start(&[
        ("POST /v1/tasks", 200, &format!(r#"{{"id":"{ID}"}}"#)),
        (&follow(), 200, &broken),
        (&follow(), 200, &rest),
    ]);
    let output = teamster(&stub, &["run", "--cpus", "2", "echo out"]);
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("o\nut\n", "err\n"));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stub.questions().len(), 3, "it is told how things go, and does not ask");
    let (_, body) = stub.questions().swap_remove(0);
    assert!(body.contains(r#""cpu_cores":2"#) && body.contains(r#"["/bin/sh","-c","echo out"]"#), "{body}");
}

#[test]
fn run_of_a_failing_command_ends_with_one() {
    let events = event("1-0-0-3", "stderr", "no\n") + &event("1-1-0-0", "end", "EXECUTOR_ERROR");
    let stub = Stub::start(&[
        ("POST /v1/tasks", 200, &format!(r#"{{"id":"{ID}"}}"#)),
        (&follow(), 200, &events),
        (&format!("GET /v1/tasks/{ID}?view=FULL"), 200, r#"{"logs":[{"logs":[{"exit_code":7}]}]}"#),
        (&log("system"), 200, "why\n"),
    ]);
    let output = teamster(&stub, &["run", "false"]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("no\nteamster: task {ID} ended as EXECUTOR_ERROR (exit code 7)\nwhy\n");
    assert_eq!(text(&output.stderr), expected);
}

#[test]
fn logs_are_followed_to_the_end() {
    let events = event("1-0-2-0", "stdout", "a\n") + &event("1-1-0-0", "system", "why\n");
    let events = events + &event("1-1-0-0", "end", "EXECUTOR_ERROR");
    let question = format!("{}&tail=5", follow());
    let stub = Stub::start(&[(&question, 200, &events)]);
    let output = teamster(&stub, &["task", "logs", "-f", "--tail", "5", ID]);
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("a\n", "why\n"));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn create_takes_several_documents_from_standard_input() {
    let stub = Stub::start(&[
        ("POST /v1/tasks", 200, &format!(r#"{{"id":"{ID}"}}"#)),
        ("POST /v1/tasks", 200, &format!(r#"{{"id":"{OTHER}"}}"#)),
    ]);
    let mut child = command(&stub, &["task", "create", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(br#"{"name":"a"} {"name":"b"}"#).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), format!("{ID}\n{OTHER}\n"));
    let bodies: Vec<_> = stub.questions().into_iter().map(|(_, body)| body).collect();
    assert_eq!(bodies, [r#"{"name":"a"}"#, r#"{"name":"b"}"#]);
}

#[test]
fn a_refusal_is_told_in_the_coordinators_words() {
    let stub =
        Stub::start(&[("POST /v1/tasks", 400, r#"{"status_code":400,"msg":"executors: is missing"}"#)]);
    let output = teamster(&stub, &["run", "x"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("executors: is missing (HTTP 400)"), "{}", text(&output.stderr));
}

#[test]
fn list_follows_pages_and_shows_ids_that_differ() {
    let first =
        format!(r#"{{"tasks":[{{"id":"{ID}","state":"RUNNING","name":"one"}}],"next_page_token":"t"}}"#);
    let second = format!(r#"{{"tasks":[{{"id":"{OTHER}","state":"QUEUED"}}]}}"#);
    let query = "GET /v1/tasks?view=BASIC&page_size";
    let stub = Stub::start(&[
        (&format!("{query}=50&state=RUNNING&name_prefix=o"), 200, &first),
        (&format!("{query}=49&state=RUNNING&name_prefix=o&page_token=t"), 200, &second),
    ]);
    let output = teamster(&stub, &["task", "list", "--state", "running", "--name-prefix", "o"]);
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let lines: Vec<Vec<&str>> = stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ID", "STATE", "NAME", "AGE", "NODE"]);
    assert_eq!(lines[1], [ID, "RUNNING", "one"], "the ids differ only at their ends");
    assert_eq!(lines[2], [OTHER, "QUEUED"]);
}

#[test]
fn a_beginning_of_an_id_is_enough_when_it_is_the_only_one() {
    let both =
        format!(r#"{{"tasks":[{{"id":"{ID}","state":"X"}},{{"id":"07xx{}","state":"X"}}]}}"#, &ID[4..]);
    let stub = Stub::start(&[
        ("GET /v1/tasks?view=MINIMAL&page_size=1000", 200, &both),
        (&format!("POST /v1/tasks/{ID}:cancel"), 200, "{}"),
    ]);
    assert_eq!(teamster(&stub, &["task", "cancel", "06bq"]).status.code(), Some(0));
    assert_eq!(stub.questions().last().unwrap().0, format!("POST /v1/tasks/{ID}:cancel"));
    for unclear in ["0", "zz", "../nodes"] {
        assert_eq!(teamster(&stub, &["task", "cancel", unclear]).status.code(), Some(2), "{unclear}");
    }
}

#[test]
fn wait_tells_each_end_and_fails_with_any() {
    let stub = Stub::start(&[
        (&format!("GET /v1/tasks/{ID}?view=MINIMAL"), 200, r#"{"state":"RUNNING"}"#),
        (&format!("GET /v1/tasks/{ID}?view=MINIMAL"), 200, r#"{"state":"COMPLETE"}"#),
        (&format!("GET /v1/tasks/{OTHER}?view=MINIMAL"), 200, r#"{"state":"CANCELED"}"#),
    ]);
    let output = teamster(&stub, &["task", "wait", ID, OTHER, ID]);
    assert_eq!(after_notice(&output), "");
    assert_eq!(text(&output.stdout), format!("{OTHER} CANCELED\n{ID} COMPLETE\n"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn what_a_task_waits_for_is_no_part_of_its_log() {
    let waiting = "event: waiting\ndata: \"waiting for a larger node\"\n\n";
    let events = format!("{waiting}event: news\ndata: \"of another version\"\n\n");
    let events = events + &event("1-0-2-0", "stdout", "a\n") + &event("1-1-0-0", "end", "COMPLETE");
    for (words, query) in [(&[][..], ""), (&["--stream", "stdout"], "&stream=stdout")] {
        let stub = Stub::start(&[(&format!("{}{query}", follow()), 200, &events)]);
        let output = teamster(&stub, &[&["task", "logs", "-f", ID], words].concat());
        assert_eq!(text(&output.stdout), "a\n");
        assert_eq!(text(&output.stderr), "teamster: waiting for a larger node\n");
    }
    let created = format!(r#"{{"id":"{ID}"}}"#);
    let stub = Stub::start(&[("POST /v1/tasks", 200, &created), (&follow(), 200, &events)]);
    let output = teamster(&stub, &["run", "echo a"]);
    assert_eq!(text(&output.stdout), "a\n");
    assert_eq!(text(&output.stderr), "teamster: waiting for a larger node\n");
}

#[test]
fn logs_can_be_taken_apart() {
    let stub = Stub::start(&[
        (&log("stdout"), 200, "ac"),
        (&log("stderr"), 200, "b"),
        (&log("system"), 200, "second\n"),
    ]);
    for (stream, expected) in [("stdout", "ac"), ("stderr", "b"), ("system", "second\n")] {
        let output = teamster(&stub, &["task", "logs", ID, "--stream", stream]);
        assert_eq!(text(&output.stdout), expected, "{stream}");
    }
    let output = teamster(&stub, &["task", "logs", ID]);
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("ac", "b"));
}
