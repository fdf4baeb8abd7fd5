//! `teamster task …`: submit tasks and look at them. It shows what the coordinator says and keeps nothing.

mod shown;

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::Context;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::Value;

use self::shown::Task;
use crate::args::{Format, FormatArgs, GrpcArgs, ServerArgs, UsageError};
use crate::client::{Client, ClientError, Filter, LogsWanted, Stream, View};
use crate::follow;
use crate::wait::{self, News};
use crate::watch::Watch;
use crate::{FAILED, FINE, table};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Submit TES documents and print the ids of the new tasks
    #[command(after_help = "\
Examples:
  teamster task create task.json
  jq '.name = \"again\"' task.json | teamster task create -

A file may hold several documents one after the other.")]
    Create {
        /// JSON files; `-` is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<String>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show one task
    #[command(after_help = "\
Examples:
  teamster task get 06bq4m2s1w
  teamster task get 06bq4m2s1w --output json --view full | jq .logs")]
    Get {
        /// Its id, or the beginning of it
        id: String,
        /// How much of it JSON output holds
        #[arg(long, value_enum, ignore_case = true, default_value_t = View::Full)]
        view: View,
        #[command(flatten)]
        format: FormatArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// List tasks, newest first
    #[command(after_help = "\
Examples:
  teamster task list --state RUNNING
  teamster task list --name-prefix align- --limit 500 --output json | jq -r '.[].id'")]
    List(ListArgs),
    /// Wait until tasks have ended; exits with 1 unless all of them are COMPLETE
    #[command(after_help = "\
Example:
  teamster task wait $(teamster task create a.json b.json)

Prints a line for each task as it ends. Where the gRPC API cannot be reached, it asks the REST API again and
again instead.")]
    Wait {
        /// Their ids, or the beginnings of them
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        grpc: GrpcArgs,
    },
    /// Ask for tasks to end
    Cancel {
        /// Their ids, or the beginnings of them
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Print what the last attempt at a task wrote, or follow it while it runs
    #[command(after_help = "\
Examples:
  teamster task logs 06bq4m2s1w                   standard output and error, each where it belongs
  teamster task logs 06bq4m2s1w --follow          the same as it is written, until the task has ended
  teamster task logs 06bq4m2s1w --stream system   what Teamster has to say about it

The whole of it comes from the node, which keeps it for a day unless configured otherwise; after that the end
of it (64 KiB of each stream) is left, and a line on standard error says so.")]
    Logs {
        /// Its id, or the beginning of it
        id: String,
        /// Only this
        #[arg(long, value_enum)]
        stream: Option<Stream>,
        /// Print it as it is written, until the task has ended
        #[arg(long, short)]
        follow: bool,
        /// Only so many bytes of the end
        #[arg(long, value_name = "BYTES")]
        tail: Option<u64>,
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// What `task list` takes.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only tasks in this state, such as QUEUED, RUNNING, COMPLETE, EXECUTOR_ERROR
    #[arg(long, value_parser = |text: &str| Ok::<_, String>(text.to_uppercase().replace('-', "_")))]
    state: Option<String>,
    /// Only tasks whose name begins so
    #[arg(long, value_name = "TEXT")]
    name_prefix: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: usize,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Does what was asked.
pub(crate) async fn run(command: TaskCommand) -> anyhow::Result<u8> {
    match command {
        TaskCommand::Create { files, server } => create(&Client::new(&server)?, &files).await,
        TaskCommand::Get { id, view, format, server } => {
            get(&Client::new(&server)?, &id, view, format.format).await
        }
        TaskCommand::List(args) => list(args).await,
        TaskCommand::Wait { ids, server, grpc } => {
            let client = Client::new(&server)?;
            wait_for(&client, &Watch::new(&grpc, &client)?, &ids).await
        }
        TaskCommand::Cancel { ids, server } => cancel(&Client::new(&server)?, &ids).await,
        TaskCommand::Logs { id, stream, follow, tail, server } => {
            logs(&Client::new(&server)?, &id, LogsWanted { stream, tail }, follow).await
        }
    }
}

async fn create(client: &Client, files: &[String]) -> anyhow::Result<u8> {
    for file in files {
        let text = read(file)?;
        for document in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
            let document = document.map_err(|error| UsageError(format!("{file} is not JSON: {error}")))?;
            table::say(&client.create(&document).await?);
        }
    }
    Ok(FINE)
}

fn read(file: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    match file {
        "-" => std::io::stdin().read_to_string(&mut text).context("read standard input").map(drop)?,
        path => text = std::fs::read_to_string(path).map_err(|e| UsageError(format!("read {path}: {e}")))?,
    }
    Ok(text)
}

async fn get(client: &Client, id: &str, view: View, format: Format) -> anyhow::Result<u8> {
    let id = client.resolve(id).await?;
    match format {
        Format::Json => table::print_json(&client.get(&id, view).await?)?,
        Format::Table => table::write(&full(client, &id).await?.described()),
    }
    Ok(FINE)
}

/// Everything that is known of a task.
async fn full(client: &Client, id: &str) -> anyhow::Result<Task> {
    serde_json::from_value(client.get(id, View::Full).await?).context("read the coordinator's task")
}

/// What the last command that ran ended with.
pub(crate) async fn exit_code(client: &Client, id: &str) -> anyhow::Result<Option<i64>> {
    Ok(full(client, id).await?.exit_code())
}

async fn list(args: ListArgs) -> anyhow::Result<u8> {
    let client = Client::new(&args.server)?;
    let filter = Filter { state: args.state, name_prefix: args.name_prefix };
    let tasks = client.list(&filter, View::Basic, args.limit).await?;
    if args.format.format == Format::Json {
        table::print_json(&tasks)?;
        return Ok(FINE);
    }
    let tasks: Vec<Task> =
        tasks.into_iter().map(serde_json::from_value).collect::<Result<_, _>>().context("read the list")?;
    let now = Timestamp::now();
    let ids: Vec<&str> = tasks.iter().map(|task| task.id.as_str()).collect();
    let rows: Vec<[String; 5]> = tasks
        .iter()
        .zip(table::short_ids(&ids))
        .map(|(task, id)| {
            let age = task.creation_time.map(|time| table::age(time, now)).unwrap_or_default();
            let node = task.node().unwrap_or_default().to_owned();
            [id.to_owned(), task.state.clone(), task.name.clone(), age, node]
        })
        .collect();
    table::print(["ID", "STATE", "NAME", "AGE", "NODE"], &rows);
    Ok(FINE)
}

async fn wait_for(client: &Client, watch: &Watch, ids: &[String]) -> anyhow::Result<u8> {
    let mut whole = Vec::with_capacity(ids.len());
    for id in ids {
        whole.push(client.resolve(id).await?);
    }
    whole.sort_unstable();
    whole.dedup();
    let bar = wait::bar(whole.len());
    let mut all_complete = true;
    let mut states = BTreeMap::new();
    wait::until_ended(client, watch, &whole, |News { id, state }| {
        states.insert(id.to_owned(), state.to_owned());
        bar.set_message(wait::counts(states.values()));
        if wait::is_terminal(state) {
            all_complete &= state == wait::COMPLETE;
            bar.suspend(|| table::say(&format!("{id} {state}")));
            bar.inc(1);
        }
    })
    .await?;
    bar.finish_and_clear();
    Ok(if all_complete { FINE } else { FAILED })
}

async fn cancel(client: &Client, ids: &[String]) -> anyhow::Result<u8> {
    for id in ids {
        client.cancel(&client.resolve(id).await?).await?;
    }
    Ok(FINE)
}

async fn logs(client: &Client, id: &str, wanted: LogsWanted, is_followed: bool) -> anyhow::Result<u8> {
    let id = client.resolve(id).await?;
    if is_followed {
        follow::until_ended(client, &id, &wanted, |event| match event.name.as_str() {
            "waiting" => table::write_error(&format!("teamster: {}\n", event.text)),
            "stdout" => table::write(&event.text),
            "stderr" | "system" if wanted.stream.is_some() => table::write(&event.text),
            "stderr" | "system" => table::write_error(&event.text),
            _ => {}
        })
        .await?;
        return Ok(FINE);
    }
    match wanted.stream {
        Some(_) => copy(client, &id, &wanted, table::write_bytes).await?,
        None => {
            let of = |stream| LogsWanted { stream: Some(stream), ..wanted };
            copy(client, &id, &of(Stream::Stdout), table::write_bytes).await?;
            copy(client, &id, &of(Stream::Stderr), table::write_error_bytes).await?;
        }
    }
    Ok(FINE)
}

/// Copies a log as it comes, however long it is.
pub(crate) async fn copy(
    client: &Client,
    id: &str,
    wanted: &LogsWanted,
    write: fn(&[u8]),
) -> Result<(), ClientError> {
    let mut answer = client.log(id, wanted).await?;
    let is_tail = answer.headers().get("teamster-logs").is_some_and(|extent| extent == "tail");
    while let Some(piece) = client.piece(&mut answer).await? {
        write(&piece);
    }
    if is_tail {
        table::write_error("teamster: only the end of this log is left\n");
    }
    Ok(())
}
