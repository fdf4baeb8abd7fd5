//! The laws of the source tree, checked from the source. A law that hurts is changed here and in
//! ARCHITECTURE.md together, never worked around.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Crates whose modules the laws speak of.
const CRATES: [&str; 7] = ["values", "proto", "coordinator", "agent", "cli", "init", "integration"];

/// A source file: its path in the repository, and its code without comments and without test modules.
struct Source {
    path: String,
    whole: String,
    code: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            walk(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

/// All Rust files of the crates, test files left out unless `with_tests`.
fn sources(with_tests: bool) -> Vec<Source> {
    let root = root();
    let mut files = Vec::new();
    for name in CRATES {
        walk(&root.join(name), &mut files);
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
    let test_files: BTreeSet<PathBuf> =
        files.iter().flat_map(|path| test_modules_of(path, &read(path))).collect();
    assert!(files.len() > 50, "the walk finds the sources");
    files
        .iter()
        .filter(|path| with_tests || !(test_files.contains(*path) || is_under_tests(&root, path)))
        .map(|path| {
            let whole = read(path);
            let path = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            Source { path, code: code_of(&whole), whole }
        })
        .collect()
}

fn is_under_tests(root: &Path, path: &Path) -> bool {
    let mut parts = path.strip_prefix(root).unwrap().components();
    parts.any(|part| part.as_os_str() == "tests" || part.as_os_str() == "benches")
}

/// Files that `#[cfg(test)] mod name;` in `text` pulls in.
fn test_modules_of(path: &Path, text: &str) -> Vec<PathBuf> {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let mut found = Vec::new();
    for (index, _) in lines.iter().enumerate().filter(|(_, line)| **line == "#[cfg(test)]") {
        let rest = &lines[index + 1..];
        let explicit = rest[0].strip_prefix("#[path = \"").and_then(|line| line.strip_suffix("\"]"));
        let declaration = if explicit.is_some() { rest[1] } else { rest[0] };
        let Some(name) = declaration.strip_prefix("mod ").and_then(|line| line.strip_suffix(';')) else {
            continue;
        };
        let directory = path.parent().unwrap();
        let is_root = matches!(path.file_stem().unwrap().to_str(), Some("mod" | "lib" | "main"));
        let beside = if is_root { directory.to_owned() } else { directory.join(path.file_stem().unwrap()) };
        match explicit {
            Some(file) => found.push(directory.join(file)),
            None => found.extend([beside.join(format!("{name}.rs")), beside.join(name).join("mod.rs")]),
        }
    }
    found
}

/// Code without comments, cut at an in-file test module.
fn code_of(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//")).fold(
        String::new(),
        |mut code, line| {
            code.push_str(line);
            code.push('\n');
            code
        },
    )
}

fn has_word(code: &str, word: &str) -> bool {
    let is_part = |character: Option<char>| character.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).any(|(at, _)| {
        !is_part(code[..at].chars().next_back()) && !is_part(code[at + word.len()..].chars().next())
    })
}

/// Fails with every place where a file that `applies` has one of `words`.
fn forbid(words: &[&str], why: &str, applies: impl Fn(&str) -> bool) {
    let mut broken = Vec::new();
    let mut looked_at = 0;
    for source in sources(false).iter().filter(|source| applies(&source.path)) {
        looked_at += 1;
        for word in words.iter().filter(|word| has_word(&source.code, word)) {
            broken.push(format!("{} has `{word}`", source.path));
        }
    }
    assert!(looked_at > 0, "the law applies to some file");
    assert!(broken.is_empty(), "{why}:\n{}", broken.join("\n"));
}

#[test]
fn the_model_is_pure() {
    let words = [
        "tokio",
        "axum",
        "tonic",
        "redb",
        "serde",
        "teamster_proto",
        "std::fs",
        "std::net",
        "std::thread",
        "async",
        "Instant",
        "SystemTime",
        "Timestamp",
        "Uuid",
        "rand",
        "HashMap",
        "HashSet",
    ];
    forbid(&words, "cluster/ is the model: no I/O, no clock, no chance", |path| {
        path.starts_with("coordinator/src/cluster/")
    });
}

#[test]
fn only_the_controller_writes_the_store() {
    forbid(&["Writer", "writer"], "one writer, moved into the controller's thread", |path| {
        path.starts_with("coordinator/src/")
            && !path.starts_with("coordinator/src/store/")
            && !path.starts_with("coordinator/src/controller/")
            && path != "coordinator/src/server.rs"
    });
    let writer = sources(false).into_iter().find(|s| s.path == "coordinator/src/store/writer.rs").unwrap();
    let before = writer.code.split("pub struct Writer").next().unwrap();
    let derive = before.lines().rev().find(|line| line.contains("derive")).unwrap_or("");
    assert!(!derive.contains("Clone") && !writer.code.contains("Clone for Writer"), "Writer is not Clone");
}

#[test]
fn the_rooms_of_the_coordinator_keep_apart() {
    let no_way = |from: &str, to: &[&str]| {
        let prefix = format!("coordinator/src/{from}");
        let words: Vec<String> = to.iter().map(|room| format!("crate::{room}")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        forbid(&words, &format!("{from} must not import {to:?}"), |path| path.starts_with(&prefix));
    };
    no_way("api/", &["session"]);
    no_way("session/", &["store", "api"]);
    no_way("cluster/", &["store", "api", "session", "spec", "board", "controller"]);
    no_way("store/", &["api", "session", "controller", "cluster", "board"]);
}

#[test]
fn coordinator_and_agent_never_import_each_other() {
    for (name, other) in [("coordinator", "teamster-agent"), ("agent", "teamster-coordinator")] {
        let manifest = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        assert!(!manifest.contains(other), "{name} must not depend on {other}");
    }
}

#[test]
fn the_wire_is_known_only_at_the_edge() {
    forbid(&["teamster_proto"], "only sessions, api/grpc and the program's watch know proto", |path| {
        let edges = [
            "coordinator/src/session",
            "coordinator/src/api/grpc",
            "agent/src/session",
            "cli/src/watch.rs",
            "proto/",
            // The benchmarks of the coordinator alone stand in for the agents; all watch by the wire.
            "integration/src/bin/bench-containers.rs",
            "integration/src/bin/bench-scale.rs",
            "integration/src/stub_agent.rs",
            "integration/src/bin/bench-orchestration.rs",
        ];
        !edges.iter().any(|edge| path.starts_with(edge))
    });
}

#[test]
fn one_room_speaks_to_containerd() {
    forbid(&["containerd_client"], "only runtime/containerd and runtime/image know the client", |path| {
        !path.starts_with("agent/src/runtime/containerd")
            && !path.starts_with("agent/src/runtime/image")
            && !path.starts_with("integration/")
    });
}

#[test]
fn mount_calls_stand_in_one_file() {
    let words = ["sys_mount", "rustix::mount", "nix::mount", "move_mount", "open_tree", "unmount", "umount2"];
    let calls = |path: &str| path.starts_with("agent/src/") && path != "agent/src/storage/mount.rs";
    forbid(&words[..3], "mounts are made in storage/mount.rs", calls);
}

#[test]
fn modules_of_a_crate_import_each_other_one_way() {
    for name in ["coordinator", "agent", "cli", "values"] {
        let prefix = format!("{name}/src/");
        let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for source in sources(false).iter().filter(|source| source.path.starts_with(&prefix)) {
            let module = source.path[prefix.len()..].split('/').next().unwrap().trim_end_matches(".rs");
            if matches!(module, "lib" | "main") {
                continue;
            }
            let from = imports.entry(module.to_owned()).or_default();
            from.extend(imported_modules(&source.code).into_iter().filter(|to| to != module));
        }
        let known: BTreeSet<String> = imports.keys().cloned().collect();
        for to in imports.values_mut() {
            to.retain(|module| known.contains(module));
        }
        if let Some(cycle) = find_cycle(&imports) {
            panic!("{name}: modules import each other in a circle: {}", cycle.join(" → "));
        }
    }
}

/// Top-level modules named by `crate::module` or `use crate::{a, b::c}`.
fn imported_modules(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let end = group.find(|c| {
                depth += i32::from(c == '{') - i32::from(c == '}');
                depth < 0
            });
            let mut nested = 0;
            for part in group[..end.unwrap_or(group.len())].split(',') {
                if nested == 0 {
                    found.insert(first_word(part.trim()));
                }
                nested += part.matches('{').count() as i32 - part.matches('}').count() as i32;
            }
        } else {
            found.insert(first_word(rest));
        }
    }
    found
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn find_cycle(imports: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        module: &str,
        imports: &BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(at) = path.iter().position(|seen| seen == module) {
            path.push(module.to_owned());
            return Some(path[at..].to_vec());
        }
        if done.contains(module) {
            return None;
        }
        path.push(module.to_owned());
        for next in imports.get(module).into_iter().flatten() {
            if let Some(cycle) = visit(next, imports, path, done) {
                return Some(cycle);
            }
        }
        path.pop();
        done.insert(module.to_owned());
        None
    }
    let mut done = BTreeSet::new();
    imports.keys().find_map(|module| visit(module, imports, &mut Vec::new(), &mut done))
}

#[test]
fn nothing_is_called_a_drawer() {
    let mut files = Vec::new();
    walk(&root(), &mut files);
    let drawers = ["utils", "util", "helpers", "helper", "common", "misc"];
    for path in files {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(!drawers.contains(&stem.as_str()), "{}: say what is in it", path.display());
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for source in sources(true) {
        assert!(source.whole.starts_with("//!"), "{} does not open with `//!`", source.path);
    }
}

#[test]
fn no_task_runs_without_an_owner() {
    let words = ["tokio::spawn", "tokio::task::spawn", "task::spawn"];
    forbid(&words, "spawn in a JoinSet or a TaskTracker", |_| true);
}

#[test]
fn no_work_is_left_in_the_code() {
    let words = ["TODO", "FIXME", "XXX"];
    for source in sources(true).iter().filter(|source| source.path != "integration/tests/tidy.rs") {
        let left = words.iter().find(|word| has_word(&source.whole, word));
        assert!(left.is_none(), "{} has {left:?}: do it, or write it where it is planned", source.path);
    }
}

#[test]
fn a_circle_is_found() {
    let imports = |pairs: &[(&str, &str)]| {
        let mut map: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in pairs {
            map.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        map
    };
    assert_eq!(find_cycle(&imports(&[("a", "b"), ("b", "c")])), None);
    assert!(find_cycle(&imports(&[("a", "b"), ("b", "c"), ("c", "a")])).is_some());
    let code = "use crate::a::B;\nuse crate::{c, d::{e, f}, g};\nlet x = crate::h();";
    assert_eq!(imported_modules(code).into_iter().collect::<Vec<_>>(), ["a", "c", "d", "g", "h"]);
}
