//! A stand-in for Cromwell runs calls on the whole system, as a user of its own, in both layouts of its
//! directories, and deletes what is left of its workflows.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use teamster_integration::cluster::{Cluster, Options, eventually};
use teamster_integration::cromwell::request::{Call, Output, Roots};
use teamster_integration::cromwell::script::glob_name;
use teamster_integration::cromwell::user::User;
use teamster_integration::cromwell::{Cromwell, Outcome};
use teamster_integration::stand::Stand;
use tokio::task::JoinSet;

/// Whom Cromwell runs as.
const CROMWELL: User = User(12_345);

/// Whom tasks run as where nothing is configured.
const NOBODY: u32 = 65_534;

/// Cluster and engine.
struct World {
    cromwell: Cromwell,
    cluster: Cluster,
    _stand: Stand,
}

impl World {
    /// With tasks that run as `tasks`. `docker_root` is layout A's; without one it is layout B.
    async fn new(tasks: u32, docker_root: Option<&str>) -> Self {
        let stand = Stand::start().await;
        // Who is not root must get as far as the shared storage.
        fs::set_permissions(stand.dir(), fs::Permissions::from_mode(0o711)).unwrap();
        let agent_toml = format!("[sandbox]\nuid = {tasks}\ngid = {tasks}\n");
        let cluster = stand.cluster(&Options { agent_toml, ..Options::default() }).await;
        let root = cluster.shared().join("cromwell-executions");
        let docker_root = docker_root.map_or_else(|| root.clone(), PathBuf::from);
        let cromwell = Cromwell::new(cluster.client.base(), Roots { root, docker_root }, CROMWELL);
        Self { cromwell, cluster, _stand: stand }
    }

    fn workflow(&self, id: &str) -> PathBuf {
        self.cromwell.roots.root.join("wf").join(id)
    }

    async fn run(&self, call: Call) -> Outcome {
        self.cromwell.run(call).await
    }

    fn stream(&self, call: &Call, name: &str) -> String {
        CROMWELL.read(&self.cromwell.execution(call).join(name)).unwrap()
    }
}

/// What a call that went well has.
fn done(outcome: Outcome) -> BTreeMap<String, Option<String>> {
    match outcome {
        Outcome::Done(found) => found,
        other => panic!("the call did not go well: {other:?}"),
    }
}

fn holds(found: &BTreeMap<String, Option<String>>, name: &str) -> String {
    found.get(name).cloned().flatten().unwrap_or_else(|| panic!("{name} in {found:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn layout_a_with_the_engine_s_own_uid() {
    let world = World::new(CROMWELL.0, Some("/cromwell-executions")).await;
    everything(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layout_b_with_the_engine_s_own_uid() {
    let world = World::new(CROMWELL.0, None).await;
    everything(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layout_a_with_another_uid() {
    let world = World::new(NOBODY, Some("/cromwell-executions")).await;
    without_deleting(&world).await;
    // Cromwell leaves its own directories open to others, so that it may delete in them. It may not in those
    // that the task made.
    let plain = Call::new("plain", "say", "echo hello > greeting", &[Output::File("greeting")]);
    done(world.run(plain).await);
    CROMWELL.remove_all(&world.workflow("plain")).unwrap();
    let made = Call::new("made", "say", "mkdir d; echo hello > d/greeting", &[Output::File("d/greeting")]);
    done(world.run(made).await);
    let refused = CROMWELL.remove_all(&world.workflow("made")).unwrap_err();
    assert!(refused.contains("Permission denied"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn layout_b_with_another_uid() {
    let world = World::new(NOBODY, None).await;
    without_deleting(&world).await;
}

/// All scenarios; nothing is left of any workflow afterwards.
async fn everything(world: &World) {
    without_deleting(world).await;
    scatter(world).await;
    for entry in fs::read_dir(world.cromwell.roots.root.join("wf")).unwrap().flatten() {
        CROMWELL.remove_all(&entry.path()).unwrap();
    }
}

async fn without_deleting(world: &World) {
    single_call(world).await;
    files_that_come_and_files_that_do_not(world).await;
    larger_than_32_bits_can_say(world).await;
    failing_and_retried(world).await;
    aborted(world).await;
}

/// Inputs of three kinds, both streams, the cost that moves it to the small view.
async fn single_call(world: &World) {
    let outside = world.cluster.shared().join("data in/name[1].txt");
    fs::create_dir_all(outside.parent().unwrap()).unwrap();
    fs::write(&outside, "outside\n").unwrap();
    let first = Call::new("single", "first", "echo inside > made", &[Output::File("made")]);
    done(world.run(first.clone()).await);

    let gate = world.cluster.shared().join("gate");
    let command = format!(
        "cat '@INPUT0@' '@INPUT1@' '@INPUT2@' > all; echo to-stdout; echo to-stderr >&2; \
         until [ -e {} ]; do sleep 0.1; done",
        gate.display()
    );
    let mut call = Call::new("single", "second", &command, &[Output::File("all")]);
    call.inputs = vec![outside, world.cromwell.execution(&first).join("made")];
    call.lines = Some("line 1\nline 2\n".to_owned());
    let mut job = world.cromwell.submit(call.clone()).await.unwrap();
    let cromwell = world.cromwell.clone();
    let mut waiting = JoinSet::new();
    waiting.spawn(async move {
        let outcome = cromwell.wait(&mut job).await;
        (outcome, job.polls)
    });
    // It is watched for a while as a running task before it may end.
    eventually("the call to run", async || {
        world.cromwell.execution(&call).join("all").exists().then_some(())
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    fs::write(gate, "").unwrap();
    let (outcome, (full, minimal)) = waiting.join_next().await.unwrap().unwrap();
    assert_eq!(holds(&done(outcome), "all"), "outside\ninside\nline 1\nline 2\n");
    assert!(minimal > 0, "it was polled {full} times in full, and never with the small view");
    // Written by the task and by the server, and there once.
    assert_eq!(world.stream(&call, "stdout"), "to-stdout\n");
    assert_eq!(world.stream(&call, "stderr"), "to-stderr\n");
}

/// Hard-linked globs, an optional output that is missing, an empty directory, one that is missing and must
/// not be.
async fn files_that_come_and_files_that_do_not(world: &World) {
    let outputs = [Output::Glob("*.txt"), Output::Optional("perhaps"), Output::File("d/one")];
    let command = "mkdir d empty; echo 1 > d/one; echo a > a.txt; echo b > b.txt";
    let call = Call::new("files", "many", command, &outputs);
    let mut job = world.cromwell.submit(call.clone()).await.unwrap();
    let found = done(world.cromwell.wait(&mut job).await);
    let task = world.cluster.client.task(&job.id).await;
    let lines = task["logs"][0]["system_logs"].as_array().unwrap();
    let is_told = |line: &serde_json::Value| {
        line.as_str().is_some_and(|line| line.starts_with("warning: ") && line.contains("/perhaps"))
    };
    assert!(lines.iter().any(is_told), "{task:#}");
    let directory = glob_name("*.txt");
    assert_eq!(holds(&found, &format!("{directory}.list")), "a.txt\nb.txt\n");
    assert_eq!(holds(&found, &format!("{directory}/b.txt")), "b\n");
    assert_eq!(found["perhaps"], None);
    assert!(is_same_file(&world.cromwell.execution(&call), "a.txt", &format!("{directory}/a.txt")));

    let missing = Call::new("files", "missing", "true", &[Output::File("nothing")]);
    let outcome = world.run(missing).await;
    assert!(matches!(&outcome, Outcome::Failed(reason) if reason.contains("nothing")), "{outcome:?}");
}

/// An output whose size old clients cannot hold: they are told no size rather than one that fails them, everybody else
/// is told the true one. Nothing is written of it, so it takes no room.
async fn larger_than_32_bits_can_say(world: &World) {
    let length_bytes = 3u64 << 30;
    let command = "truncate -s 3G huge; echo small > little";
    let call = Call::new("large", "huge", command, &[Output::Large("huge"), Output::File("little")]);
    let mut job = world.cromwell.submit(call).await.unwrap();
    let found = done(world.cromwell.wait(&mut job).await);
    assert_eq!(holds(&found, "huge"), length_bytes.to_string());
    let size = |task: &serde_json::Value, name: &str| {
        let outputs = task["logs"][0]["outputs"].as_array().unwrap();
        let output = outputs.iter().find(|output| output["path"].as_str().unwrap().ends_with(name));
        output.unwrap_or_else(|| panic!("{name} in {task:#}"))["size_bytes"].clone()
    };
    let (old, new) = (world.cromwell.told(&job).await.unwrap(), world.cluster.client.task(&job.id).await);
    assert!(size(&old, "/huge").is_null(), "{old:#}");
    assert_eq!((size(&old, "/little"), size(&new, "/little")), ("6".into(), "6".into()));
    assert_eq!(size(&new, "/huge"), length_bytes.to_string());
}

fn is_same_file(directory: &Path, one: &str, other: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    let [one, other] = [one, other].map(|name| fs::metadata(directory.join(name)).unwrap());
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// The task of a failing command is COMPLETE; the second attempt has a directory of its own.
async fn failing_and_retried(world: &World) {
    let seen = world.cluster.shared().join("seen");
    let command =
        format!("[ -e {0} ] || {{ echo first >&2; : > {0}; exit 1; }}; echo second > out", seen.display());
    let mut call = Call::new("retried", "twice", &command, &[Output::File("out")]);
    let mut job = world.cromwell.submit(call.clone()).await.unwrap();
    let outcome = world.cromwell.wait(&mut job).await;
    let task = world.cluster.client.task(&job.id).await;
    assert_eq!(outcome, Outcome::Failed("the command's exit code is 1".to_owned()), "{task:#}");
    assert_eq!(task["state"], "COMPLETE");
    assert_eq!(world.stream(&call, "stderr"), "first\n");
    call.attempt = 2;
    assert_eq!(holds(&done(world.run(call).await), "out"), "second\n");
}

/// Nothing of an aborted call goes on once the engine has been told.
async fn aborted(world: &World) {
    let command = "while :; do echo beat >> beats; sleep 0.05; done";
    let call = Call::new("aborted", "endless", command, &[Output::File("beats")]);
    let mut job = world.cromwell.submit(call.clone()).await.unwrap();
    let beats = world.cromwell.execution(&call).join("beats");
    eventually("the call to run", async || beats.exists().then_some(())).await;
    world.cromwell.abort(&job).await.unwrap();
    assert_eq!(world.cromwell.wait(&mut job).await, Outcome::Aborted);
    let length = fs::metadata(&beats).unwrap().len();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(fs::metadata(&beats).unwrap().len(), length, "it went on");
    world.cromwell.abort(&job).await.unwrap();
    assert_eq!(world.stream(&call, "rc"), "143\n");
}

/// Fifty shards at once.
async fn scatter(world: &World) {
    let mut running = start_scatter(world, "scatter", "echo $((@N@ * @N@)) > square");
    while let Some(finished) = running.join_next().await {
        let (shard, outcome) = finished.unwrap();
        assert_eq!(holds(&done(outcome), "square"), format!("{}\n", shard * shard));
    }
}

fn start_scatter(world: &World, workflow: &str, command: &str) -> JoinSet<(u32, Outcome)> {
    let mut running = JoinSet::new();
    for shard in 0..50 {
        let command = command.replace("@N@", &shard.to_string());
        let mut call = Call::new(workflow, "square", &command, &[Output::File("square")]);
        call.shard = Some(shard);
        let cromwell = world.cromwell.clone();
        running.spawn(async move { (shard, cromwell.run(call).await) });
    }
    running
}

/// An engine whose server is killed and started again in the middle of a scatter notices nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_of_a_scatter() {
    let mut world = World::new(CROMWELL.0, Some("/cromwell-executions")).await;
    let command = "echo run >> ran; echo @N@ > square; sleep 0.2";
    let mut running = start_scatter(&world, "restart", command);
    let mut ended = 0;
    let mut check = |world: &World, finished: Result<(u32, Outcome), _>| {
        let (shard, outcome) = finished.unwrap();
        assert_eq!(holds(&done(outcome), "square"), format!("{shard}\n"));
        let mut call = Call::new("restart", "square", command, &[]);
        call.shard = Some(shard);
        assert_eq!(world.stream(&call, "ran"), "run\n", "it ran once");
        ended += 1;
    };
    while let Some(finished) = running.join_next().await {
        check(&world, finished);
        if running.len() == 40 || running.len() == 20 {
            world.cluster.kill_coordinator();
            world.cluster.start_coordinator();
        }
    }
    assert_eq!(ended, 50);
}
