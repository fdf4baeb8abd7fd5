//! `teamster run 'cmd'`: one shell command as a task. It makes the TES document, waits, and shows what the
//! command wrote; it transfers no files.

use clap::Args;
use serde_json::{Map, Value, json};
use teamster_values::ByteCount;

use crate::args::{ServerArgs, UsageError};
use crate::client::{Client, LogsWanted, Stream};
use crate::wait::{self, COMPLETE};
use crate::{FAILED, FINE, follow, table, task};

const GIB: f64 = (1u64 << 30) as f64;

/// What `run` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  teamster run 'uname -a'
  teamster run --cpus 2 --memory 4GiB --name sum \\
      --input /data/in.txt=/mnt/shared/in.txt --output /data/out.txt=/mnt/shared/out.txt \\
      'sort /data/in.txt | uniq -c > /data/out.txt'
  id=$(teamster run --detach 'sleep 60'); teamster task cancel \"$id\"

The node pulls the image if it has to and may; `teamster image import FILE` brings one there.
Exits with 0 when the task is COMPLETE, with 1 when it is not.")]
pub(crate) struct RunArgs {
    /// Run by /bin/sh -c in the image
    #[arg(value_name = "CMD")]
    command: String,
    /// Image that the command runs in
    #[arg(long, env = "TEAMSTER_IMAGE", default_value = "busybox")]
    image: String,
    /// CPUs; fractions are fine
    #[arg(long, value_name = "N")]
    cpus: Option<f64>,
    /// Memory, such as 512MiB or 4GiB
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteCount>,
    /// Scratch space, such as 20GiB
    #[arg(long, value_name = "SIZE")]
    disk: Option<ByteCount>,
    /// A file, or with a trailing slash a directory, that is there before the command runs
    #[arg(long, value_name = "PATH=URL", value_parser = file_document)]
    input: Vec<Value>,
    /// A file, or with a trailing slash a directory, that is put in place when the command has run
    #[arg(long, value_name = "PATH=URL", value_parser = file_document)]
    output: Vec<Value>,
    /// An environment variable
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    env: Vec<(String, String)>,
    /// Name of the task; the command's own first words when absent
    #[arg(long)]
    name: Option<String>,
    /// Directory in the container that the command runs in
    #[arg(long, value_name = "PATH")]
    workdir: Option<String>,
    /// Print the task's id and do not wait
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Does it.
pub(crate) async fn run(args: RunArgs) -> anyhow::Result<u8> {
    if args.cpus.is_some_and(|cpus| !cpus.is_finite() || cpus <= 0.0) {
        return Err(UsageError("--cpus must be a number above 0".into()).into());
    }
    let client = Client::new(&args.server)?;
    let id = client.create(&document(&args)).await?;
    if args.detach {
        table::say(&id);
        return Ok(FINE);
    }
    let title = format!("task {id}");
    let spinner = wait::spinner(title.clone());
    let ended =
        follow::until_ended(&client, &id, &LogsWanted::default(), |event| match event.name.as_str() {
            "waiting" if spinner.is_hidden() => table::write_error(&format!("teamster: {}\n", event.text)),
            "waiting" => spinner.set_message(format!("{title}: {}", event.text)),
            "stdout" | "stderr" => {
                spinner.set_message(title.clone());
                let write = if event.name == "stdout" { table::write } else { table::write_error };
                spinner.suspend(|| write(&event.text));
            }
            // It is shown at the end, if all did not go well.
            _ => {}
        })
        .await?;
    spinner.finish_and_clear();
    if ended == COMPLETE {
        return Ok(FINE);
    }
    let code = task::exit_code(&client, &id).await?.map(|code| format!(" (exit code {code})"));
    table::write_error(&format!("teamster: task {id} ended as {ended}{}\n", code.unwrap_or_default()));
    task::copy(&client, &id, &Stream::System.into(), table::write_error_bytes).await?;
    Ok(FAILED)
}

fn document(args: &RunArgs) -> Value {
    let mut executor = json!({"image": args.image, "command": ["/bin/sh", "-c", args.command]});
    if let Some(workdir) = &args.workdir {
        executor["workdir"] = json!(workdir);
    }
    if !args.env.is_empty() {
        executor["env"] = args.env.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    }
    let mut resources = Map::new();
    let mut need = |key: &str, amount: Option<f64>| {
        if let Some(amount) = amount {
            resources.insert(key.to_owned(), json!(amount));
        }
    };
    need("cpu_cores", args.cpus);
    need("ram_gb", args.memory.map(gib));
    need("disk_gb", args.disk.map(gib));
    let name = args.name.clone().unwrap_or_else(|| args.command.chars().take(40).collect());
    let mut task = json!({"name": name, "executors": [executor]});
    if !resources.is_empty() {
        task["resources"] = Value::Object(resources);
    }
    for (key, files) in [("inputs", &args.input), ("outputs", &args.output)] {
        if !files.is_empty() {
            task[key] = json!(files);
        }
    }
    task
}

fn gib(count: ByteCount) -> f64 {
    count.0 as f64 / GIB
}

fn file_document(text: &str) -> Result<Value, String> {
    let (path, url) = key_and_value(text)?;
    if !path.starts_with('/') {
        return Err(format!(
            "'{path}' must be an absolute path in the container, as in /data/x=/mnt/shared/x"
        ));
    }
    let kind = if path.ends_with('/') { "DIRECTORY" } else { "FILE" };
    Ok(json!({"path": path, "url": url, "type": kind}))
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' has no '=' with something before it")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::command_line::{Command, CommandLine};

    fn parse(words: &[&str]) -> RunArgs {
        let line = CommandLine::try_parse_from([&["teamster", "run"], words].concat()).unwrap();
        let Command::Run(args) = line.command else { panic!("not run: {line:?}") };
        *args
    }

    #[test]
    fn says_only_what_was_given() {
        let task = document(&parse(&["--image", "alpine", "true"]));
        assert_eq!(
            task,
            json!({"name": "true", "executors": [{"image": "alpine", "command": ["/bin/sh", "-c", "true"]}]})
        );
    }

    #[test]
    fn carries_everything() {
        let task = document(&parse(&[
            "--memory=512MiB",
            "--cpus=0.5",
            "--disk=1GiB",
            "--env=A=b=c",
            "--workdir=/w",
            "--name=n",
            "--input=/i/d/=/mnt/shared/d",
            "--output=/o=/mnt/shared/a=b",
            "x",
        ]));
        assert_eq!(task["resources"], json!({"cpu_cores": 0.5, "ram_gb": 0.5, "disk_gb": 1.0}));
        assert_eq!(task["inputs"], json!([{"path": "/i/d/", "url": "/mnt/shared/d", "type": "DIRECTORY"}]));
        assert_eq!(task["outputs"], json!([{"path": "/o", "url": "/mnt/shared/a=b", "type": "FILE"}]));
        assert_eq!(task["executors"][0]["env"], json!({"A": "b=c"}));
        assert_eq!(task["executors"][0]["workdir"], json!("/w"));
    }

    #[test]
    fn refuses_relative_paths() {
        assert!(CommandLine::try_parse_from(["teamster", "run", "--input=a=/b", "x"]).is_err());
        assert!(CommandLine::try_parse_from(["teamster", "run", "--env=a", "x"]).is_err());
    }
}
