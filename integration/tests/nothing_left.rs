//! After 500 mixed tasks, and after agent, containerd and shims were killed among them, the node is as it was
//! before.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use teamster_integration::cluster::{Cluster, Marks, Options, PATIENCE, eventually, shell_task};
use teamster_integration::remains::{Remains, sleeper_seconds};
use teamster_integration::skip;
use teamster_integration::stand::Stand;
use teamster_integration::world::{self, SERVER, World};

/// How many tasks there are, and how many of them run at a time.
const TASKS: usize = 500;
const CPUS: u32 = 24;

/// What lets tasks have a way out.
fn egress() -> String {
    format!("[network]\negress = true\ndns = ['{SERVER}']\n")
}

/// What a task is to do, and how it must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Succeeds,
    Fails,
    /// Is canceled, and leaves children behind that ignore SIGTERM, in a session of their own.
    Canceled,
    OutOfMemory,
    /// Has inputs and outputs and two executors.
    WithFiles,
    /// Its image is nowhere.
    NoImage,
    OutOfTime,
    /// Is canceled before or while it is prepared.
    CanceledAtOnce,
    /// Lives while other things are killed, and ends well all the same.
    Waits,
    /// Its shim is killed.
    LosesShim,
    /// The keeper of its streams is killed.
    LosesKeeper,
    /// Has a way out of the node, where that can be had, and two executors.
    Egress,
}

const KINDS: [Kind; 10] = [
    Kind::Succeeds,
    Kind::Fails,
    Kind::Canceled,
    Kind::OutOfMemory,
    Kind::WithFiles,
    Kind::NoImage,
    Kind::Waits,
    Kind::OutOfTime,
    Kind::CanceledAtOnce,
    Kind::Egress,
];

/// One of so many loses its shim, in the place of one that waits, and one its keeper.
const LOSSES: usize = 80;

impl Kind {
    fn of(number: usize) -> Self {
        match KINDS[number % KINDS.len()] {
            Self::Waits if number % LOSSES == 6 => Self::LosesShim,
            Self::Waits if number % LOSSES == 46 => Self::LosesKeeper,
            kind => kind,
        }
    }

    fn state(self) -> &'static str {
        match self {
            Self::Succeeds | Self::WithFiles | Self::Waits | Self::Egress => "COMPLETE",
            Self::Fails | Self::OutOfMemory | Self::OutOfTime => "EXECUTOR_ERROR",
            Self::Canceled | Self::CanceledAtOnce => "CANCELED",
            Self::NoImage | Self::LosesShim | Self::LosesKeeper => "SYSTEM_ERROR",
        }
    }

    /// How often its last executor may have run.
    fn may_run(self, times: usize) -> bool {
        match self {
            Self::NoImage => times == 0,
            Self::CanceledAtOnce => times <= 1,
            _ => times == 1,
        }
    }
}

fn task(number: usize, marks: &Marks, cluster: &Cluster) -> Value {
    let name = format!("t{number}");
    let mark = marks.shell(&name);
    let sleep = format!("sleep {}", sleeper_seconds());
    let simple = |script: String| shell_task(&name, &[format!("{mark}; {script}")]);
    match Kind::of(number) {
        Kind::Succeeds => simple("true".to_owned()),
        Kind::Fails => simple("exit 9".to_owned()),
        Kind::Canceled => simple(format!("trap '' TERM; setsid {sleep} & setsid {sleep} & {sleep}")),
        Kind::OutOfMemory => simple("x=x; while true; do x=$x$x$x$x; done".to_owned()),
        Kind::WithFiles => with_files(&name, &mark, cluster),
        Kind::NoImage => {
            let mut task = simple("true".to_owned());
            task["executors"][0]["image"] = json!(format!("nowhere{}:1", number % 3));
            task
        }
        Kind::OutOfTime => {
            let mut task = simple(format!("setsid {sleep} & {sleep}"));
            task["resources"]["backend_parameters"] = json!({"timeout": "2s"});
            task
        }
        Kind::CanceledAtOnce | Kind::LosesShim | Kind::LosesKeeper => simple(sleep),
        Kind::Egress => {
            let mut task = shell_task(&name, &[format!("setsid {sleep} & ls /sys/class/net"), mark]);
            if world::lacks().is_none() {
                task["resources"]["backend_parameters"] = json!({"network": "egress"});
            }
            task
        }
        Kind::Waits => simple(format!("setsid {sleep} & {}", marks.shell_gate("gate"))),
    }
}

fn with_files(name: &str, mark: &str, cluster: &Cluster) -> Value {
    let copy = "cat /in/a > /out/b; echo to-stdout".to_owned();
    let mut task = shell_task(name, &[copy, format!("{mark}; cat /out/b >> /scratch/c")]);
    let url = format!("{}/out/{name}/b", cluster.shared().display());
    task["inputs"] = json!([{"path": "/in/a", "content": "hello\n"}]);
    task["outputs"] = json!([{"path": "/out/b", "url": url}]);
    task["volumes"] = json!(["/out", "/scratch"]);
    task["executors"][0]["stdout"] = json!("/out/stdout");
    task
}

fn numbers(kind: Kind) -> impl Iterator<Item = usize> {
    (0..TASKS).filter(move |number| Kind::of(*number) == kind)
}

async fn until_running(marks: &Marks, number: usize) {
    let name = format!("t{number}");
    eventually("the task to run", async || (marks.count(&name) == 1).then_some(())).await;
}

// On one thread, because only that is in the test's own node.
#[tokio::test]
async fn five_hundred_mixed_tasks() {
    let world = enter();
    let mut stand = Stand::start().await;
    let options = Options {
        cpus: CPUS,
        coordinator_toml: "max_timeout = '1h'\n".to_owned(),
        agent_toml: format!(
            "[images]\npull = 'never'\n{}",
            world.as_ref().map_or(String::new(), |_| egress())
        ),
        ..Options::default()
    };
    let mut cluster = stand.cluster(&options).await;
    let marks = Marks::new(&cluster.shared());
    let before = Remains::look(&stand, &cluster, &[]);
    let mut ids = Vec::new();
    // Things die while tasks are in every stage, and not only while they run.
    for number in 0..TASKS {
        match number {
            150 => cluster.kill_agent(),
            170 => cluster.start_agent(&[]),
            250 => stand.containerd.restart(),
            350 => {
                cluster.kill_agent();
                stand.containerd.kill9();
            }
            370 => {
                stand.containerd.restart();
                cluster.start_agent(&[]);
            }
            _ => {}
        }
        let id = cluster.client.submit(&task(number, &marks, &cluster)).await;
        if Kind::of(number) == Kind::CanceledAtOnce && number % 3 != 0 {
            cluster.client.cancel(&id).await;
        }
        ids.push(id);
    }
    marks.open_gate("gate");
    for number in numbers(Kind::CanceledAtOnce) {
        cluster.client.cancel(&ids[number]).await;
    }
    for number in numbers(Kind::Canceled) {
        until_running(&marks, number).await;
        cluster.client.cancel(&ids[number]).await;
        if number == TASKS / 2 + 2 {
            cluster.kill_agent();
            cluster.start_agent(&[]);
        }
    }
    for (kind, program) in [(Kind::LosesShim, "containerd-shim"), (Kind::LosesKeeper, "teamster-keeper")] {
        for number in numbers(kind) {
            until_running(&marks, number).await;
            kill_beside(&ids[number], program);
        }
    }
    for (number, id) in ids.iter().enumerate() {
        let task = cluster.client.wait(id).await;
        check(number, &task, &cluster, &marks);
    }
    // The last result is told before the last directory is gone.
    let mut after = Remains::look(&stand, &cluster, &ids);
    let deadline = Instant::now() + PATIENCE;
    while after != before && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
        after = Remains::look(&stand, &cluster, &ids);
    }
    assert_eq!(after, before, "what is left over");
}

/// A node of the test's own with a network, unless the machine cannot do what egress needs.
fn enter() -> Option<World> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    if let Some(reason) = world::lacks() {
        assert!(!skip::must_run_everything(), "{reason}");
        skip::skipped("what tasks with a network leave behind", &reason);
        return None;
    }
    let world = World::enter();
    world::forward();
    Some(world)
}

/// SIGKILL to the only process of this program beside the container of this task.
fn kill_beside(id: &str, program: &str) {
    let processes = procfs::process::all_processes().unwrap().filter_map(Result::ok);
    let found = processes.filter(|process| {
        let words = process.cmdline().unwrap_or_default();
        words.first().is_some_and(|word| word.contains(program)) && words.iter().any(|word| word.contains(id))
    });
    let found: Vec<_> = found.map(|process| Pid::from_raw(process.pid)).collect();
    assert_eq!(found.len(), 1, "{program} of {id}");
    kill(found[0], Signal::SIGKILL).unwrap();
}

fn check(number: usize, task: &Value, cluster: &Cluster, marks: &Marks) {
    let (kind, log) = (Kind::of(number), &task["logs"][0]);
    assert_eq!(task["state"], kind.state(), "{kind:?}: {task:#}");
    let times = marks.count(&format!("t{number}"));
    assert!(kind.may_run(times), "{kind:?} ran {times} times: {task:#}");
    match kind {
        Kind::Fails => assert_eq!(log["logs"][0]["exit_code"], 9, "{task:#}"),
        Kind::OutOfMemory => {
            assert_eq!(log["logs"][0]["exit_code"], 137, "{task:#}");
            assert!(log["system_logs"].to_string().contains("out of memory"), "{task:#}");
        }
        Kind::OutOfTime => assert_eq!(log["metadata"]["reason"], "TIME_LIMIT", "{task:#}"),
        Kind::Egress => {
            let links = log["logs"][0]["stdout"].as_str().unwrap();
            assert_eq!(links == "eth0\nlo\n", world::lacks().is_none(), "{task:#}");
        }
        Kind::NoImage => assert_eq!(log["metadata"]["reason"], "IMAGE_NOT_FOUND", "{task:#}"),
        Kind::WithFiles => {
            let copied = cluster.shared().join(format!("out/t{number}/b"));
            assert_eq!(std::fs::read_to_string(copied).unwrap(), "hello\n");
            assert_eq!(log["outputs"][0]["size_bytes"], "6", "{task:#}");
        }
        _ => {}
    }
}
