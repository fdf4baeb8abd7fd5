//! `teamster node …`: look at the nodes.

use std::collections::BTreeMap;

use anyhow::Context;
use clap::Subcommand;
use jiff::Timestamp;
use serde::Deserialize;
use teamster_values::ByteCount;

use crate::args::{Format, FormatArgs, ServerArgs};
use crate::client::Client;
use crate::{FINE, table};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes, what they offer and what of it is free
    #[command(after_help = "\
Example:
  teamster node list --output json | jq '.[] | select(.state != \"READY\")'")]
    List {
        #[command(flatten)]
        format: FormatArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    state: String,
    since: Timestamp,
    #[serde(default)]
    closed: Option<String>,
    capacity: Amount,
    free: Amount,
    tasks: usize,
    #[serde(default)]
    storage: Vec<Storage>,
    #[serde(default)]
    networks: Vec<String>,
    #[serde(default)]
    versions: BTreeMap<String, String>,
    #[serde(default)]
    lacks: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Amount {
    cpu_milli: u64,
    memory_bytes: u64,
    disk_bytes: u64,
}

#[derive(Debug, Deserialize)]
struct Storage {
    path: String,
    ok: bool,
}

/// Does what was asked.
pub(crate) async fn run(command: NodeCommand) -> anyhow::Result<u8> {
    let NodeCommand::List { format, server } = command;
    let nodes = Client::new(&server)?.nodes().await?;
    if format.format == Format::Json {
        table::print_json(&nodes)?;
        return Ok(FINE);
    }
    let now = Timestamp::now();
    let nodes: Vec<Node> =
        nodes.into_iter().map(serde_json::from_value).collect::<Result<_, _>>().context("read the nodes")?;
    let rows: Vec<[String; 11]> = nodes.iter().map(|node| row(node, now)).collect();
    let names = [
        "NODE", "STATE", "SINCE", "TASKS", "CPUS", "MEMORY", "DISK", "STORAGE", "NETWORK", "RUNS ON", "LACKS",
    ];
    table::print(names, &rows);
    Ok(FINE)
}

fn row(node: &Node, now: Timestamp) -> [String; 11] {
    let of = |free: String, capacity: String| format!("{free} of {capacity}");
    let storage: Vec<String> = node
        .storage
        .iter()
        .map(
            |storage| {
                if storage.ok { storage.path.clone() } else { format!("{} (not usable)", storage.path) }
            },
        )
        .collect();
    [
        node.id.clone(),
        match &node.closed {
            Some(reason) => format!("{} (no new tasks: {reason})", node.state),
            None => node.state.clone(),
        },
        table::age(node.since, now),
        node.tasks.to_string(),
        of(cpus(node.free.cpu_milli), cpus(node.capacity.cpu_milli)),
        of(size(node.free.memory_bytes), size(node.capacity.memory_bytes)),
        of(size(node.free.disk_bytes), size(node.capacity.disk_bytes)),
        storage.join(" "),
        if node.networks.is_empty() { "none".to_owned() } else { node.networks.join(" ") },
        versions(node),
        if node.lacks.is_empty() { "nothing".to_owned() } else { node.lacks.join("; ") },
    ]
}

fn versions(node: &Node) -> String {
    let texts: Vec<String> =
        node.versions.iter().map(|(program, version)| format!("{program} {version}")).collect();
    texts.join(", ")
}

fn cpus(milli: u64) -> String {
    format!("{}", milli as f64 / 1000.0)
}

fn size(bytes: u64) -> String {
    ByteCount(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_is_free() {
        let node: Node = serde_json::from_str(
            r#"{"id":"n1","state":"READY","since":"2025-01-01T00:00:00Z","tasks":1,
                "capacity":{"cpu_milli":2000,"memory_bytes":4294967296,"disk_bytes":10737418240},
                "free":{"cpu_milli":500,"memory_bytes":2147483648,"disk_bytes":0},
                "storage":[{"name":"shared","path":"/mnt/shared","ok":false}],"networks":["egress","host"],
                "versions":{"runc":"1.1.5","kernel":"6.1.0"},"lacks":["a","b"]}"#,
        )
        .unwrap();
        let row = row(&node, node.since);
        assert_eq!(
            row,
            [
                "n1",
                "READY",
                "0s",
                "1",
                "0.5 of 2",
                "2GiB of 4GiB",
                "0B of 10GiB",
                "/mnt/shared (not usable)",
                "egress host",
                "kernel 6.1.0, runc 1.1.5",
                "a; b"
            ]
        );
        let closed = Node { closed: Some("full".into()), ..node };
        assert_eq!(super::row(&closed, closed.since)[1], "READY (no new tasks: full)");
    }
}
