//! The program from outside: help that teaches, exit codes, configurations that are checked.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::process::{Command, Output};

fn teamster(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_teamster"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TEAMSTER_")) {
        command.env_remove(name);
    }
    command.args(words).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn help_teaches_by_example() {
    let all: [&[&str]; 13] = [
        &[],
        &["up"],
        &["coordinator"],
        &["agent"],
        &["run"],
        &["task", "create"],
        &["task", "get"],
        &["task", "list"],
        &["task", "wait"],
        &["task", "logs"],
        &["node", "list"],
        &["image", "import"],
        &["task"],
    ];
    for words in &all[..12] {
        let output = teamster(&[words, &["--help"][..]].concat());
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(text(&output.stdout).contains("Example"), "{words:?} shows no example");
    }
    assert!(!text(&teamster(&["--help"]).stdout).contains("stage"), "the staging child is nobody's verb");
}

#[test]
fn wrong_usage_is_two() {
    let wrong: [&[&str]; 8] = [
        &[],
        &["fly"],
        &["run"],
        &["run", "--memory", "4", "true"],
        &["run", "--cpus", "-1", "true"],
        &["--server", "x", "task", "list"],
        &["task", "list", "--server", "https://somewhere"],
        &["task", "wait", "--grpc", "https://somewhere", "x"],
    ];
    for words in wrong {
        let output = teamster(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", text(&output.stderr));
    }
}

#[test]
fn an_absent_coordinator_is_three() {
    // Bound and let go: nobody listens on it now.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = format!("http://{address}");
    let verbs: [&[&str]; 4] = [
        &["task", "list"],
        &["run", "true"],
        &["node", "list"],
        &["task", "get", "06bq4m2s1wabcdefghijklmnop"],
    ];
    for words in verbs {
        let output = teamster(&[words, &["--server", &server][..]].concat());
        assert_eq!(output.status.code(), Some(3), "{words:?}");
        let stderr = text(&output.stderr);
        assert!(stderr.contains(&server) && stderr.contains("teamster up"), "{stderr}");
    }
}

#[test]
fn check_config_prints_what_is_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, "grace_period = '5s'\n[sandbox]\nuid = 1000\n").unwrap();
    let file = file.to_str().unwrap();
    let output = teamster(&["agent", "--config", file, "--check-config", "--sandbox-gid", "1001"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let printed: toml::Table = text(&output.stdout).parse().unwrap();
    assert_eq!(printed["grace_period"].as_str(), Some("5s"));
    assert_eq!(printed["sandbox"]["uid"].as_integer(), Some(1000));
    assert_eq!(printed["sandbox"]["gid"].as_integer(), Some(1001));
    // What is printed can be read again.
    let again = folder.path().join("again.toml");
    std::fs::write(&again, &output.stdout).unwrap();
    let output = teamster(&["agent", "--config", again.to_str().unwrap(), "--check-config"]);
    assert_eq!(text(&output.stdout).parse::<toml::Table>().unwrap(), printed);
}

#[test]
fn a_bad_configuration_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, "colour = 'red'").unwrap();
    let cases: [(&[&str], &str); 4] = [
        (&["coordinator", "--check-config", "--config", file.to_str().unwrap()], "colour"),
        (&["coordinator", "--check-config", "--config", "/nonexistent/x.toml"], "/nonexistent/x.toml"),
        (&["coordinator", "--check-config", "--http", "0.0.0.0:1"], "insecure-open"),
        (&["agent", "--check-config", "--sandbox-uid", "0"], "sandbox.uid"),
    ];
    for (words, part) in cases {
        let output = teamster(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
    }
}

#[test]
fn the_examples_are_accepted() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples");
    for service in ["coordinator", "agent"] {
        let output =
            teamster(&[service, "--check-config", "--config", &format!("{examples}/{service}.toml")]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
}
