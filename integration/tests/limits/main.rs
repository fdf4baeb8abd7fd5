//! Tasks that take more than they may, through the whole of Teamster with real containers: each ends with a
//! reason that names the limit, while a neighbour runs on undisturbed and the node goes on being heard.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

mod quota;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use teamster_integration::cluster::{Cluster, Marks, Options, eventually, shell_task};
use teamster_integration::guest::{self, Guest};
use teamster_integration::stand::{IMAGE, Stand};

fn options() -> Options {
    Options {
        // The guest has one slow CPU for tasks, agent and coordinator, so there it is the built-in one.
        heartbeat: if guest::is_inside() { "5s" } else { "300ms" },
        coordinator_toml: "max_timeout = '1h'\n".to_owned(),
        agent_toml: "[sandbox]\npids_max = 64\nfiles_max = 5000\nopen_files_max = 256\n".to_owned(),
        ..Options::default()
    }
}

/// On this machine the tests below meet the cgroups that it has; in the guest version 2 is all there is.
#[test]
fn the_same_limits_hold_on_cgroup_version_two_alone() {
    let Some(guest) = Guest::prepare() else { return };
    // All of it takes a minute or two there, and ten where others need the processors as well.
    let guest = guest.deadline(Duration::from_secs(30 * 60));
    guest.run_own_tests(&["bombs_end", "the_cpu_limit", "what_a_task_used", "quota::"], &[]);
}

/// What a test needs to know of a task that ended.
#[derive(Debug)]
struct Ended {
    state: String,
    reason: String,
    exit_code: i64,
    stdout: String,
    stderr: String,
    system_logs: String,
}

impl Ended {
    fn of(task: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let log = &task["logs"][0];
        Self {
            state: text(&task["state"]),
            reason: text(&log["metadata"]["reason"]),
            exit_code: log["logs"]
                .as_array()
                .and_then(|logs| logs.last()?["exit_code"].as_i64())
                .unwrap_or(-1),
            stdout: text(&log["logs"][0]["stdout"]),
            stderr: text(&log["logs"][0]["stderr"]),
            system_logs: log["system_logs"].to_string(),
        }
    }
}

async fn ended(cluster: &Cluster, task: &Value) -> Ended {
    let id = cluster.client.submit(task).await;
    Ended::of(&cluster.client.wait(&id).await)
}

/// A task that runs until its gate opens, and says when it has begun.
async fn neighbour(cluster: &Cluster, marks: &Marks) -> String {
    let script = format!("{}; {}; echo undisturbed", marks.shell("begun"), marks.shell_gate("gate"));
    let id = cluster.client.submit(&shell_task("neighbour", &[script])).await;
    eventually("the neighbour to run", async || (marks.count("begun") == 1).then_some(())).await;
    id
}

/// The node is there, and the neighbour comes to its own good end.
async fn all_is_well(cluster: &Cluster, marks: &Marks, neighbour: &str) {
    let nodes = cluster.client.get("/v1/nodes").await;
    assert_eq!(nodes["nodes"][0]["state"], "READY", "{nodes}");
    marks.open_gate("gate");
    let task = cluster.client.wait(neighbour).await;
    assert_eq!(task["state"], "COMPLETE", "{task}");
    assert_eq!(task["logs"][0]["logs"][0]["stdout"], "undisturbed\n");
    let log = fs::read_to_string(cluster.dir.join("logs/agent.log")).unwrap();
    // The agent may have begun before the coordinator.
    let (_, log) = log.split_once("session up").unwrap();
    assert!(!log.contains("session down"), "no heartbeat was late");
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_end_with_the_limit_that_they_met() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&options()).await;
    let marks = Marks::new(&cluster.shared());
    let neighbour = neighbour(&cluster, &marks).await;
    let run = async |scripts: &[&str]| {
        let scripts: Vec<_> = scripts.iter().map(|script| (*script).to_owned()).collect();
        ended(&cluster, &shell_task("bomb", &scripts)).await
    };

    let memory = run(&["tail /dev/zero"]).await;
    assert_eq!((memory.state.as_str(), memory.reason.as_str()), ("EXECUTOR_ERROR", "OUT_OF_MEMORY"));
    assert_eq!(memory.exit_code, 137);
    let child = run(&["true", "tail /dev/zero || { echo sorry >&2; exit 3; }"]).await;
    assert_eq!((child.reason.as_str(), child.exit_code), ("OUT_OF_MEMORY", 3), "{child:?}");
    assert!(
        child.system_logs.contains("out of memory: the kernel killed a process of executor 1"),
        "{child:?}"
    );
    // Shared memory counts as memory, and half of it may be shared memory.
    let shared = run(&["dd if=/dev/zero of=/dev/shm/x bs=1M count=20 && tail /dev/zero"]).await;
    assert_eq!(shared.reason, "OUT_OF_MEMORY", "{shared:?}");
    let shared = run(&["dd if=/dev/zero of=/dev/shm/x bs=1M"]).await;
    assert!(shared.reason == "COMMAND_FAILED" && shared.stderr.contains("No space left"), "{shared:?}");

    let forks =
        run(&["f() { f | f & }; f; i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; wait"]).await;
    assert_eq!(
        (forks.state.as_str(), forks.reason.as_str()),
        ("EXECUTOR_ERROR", "PROCESS_LIMIT"),
        "{forks:?}"
    );
    assert!(forks.system_logs.contains("limit of 64"), "{forks:?}");

    let opener = "i=3; while [ $i -lt 400 ]; do eval \"exec $i>/tmp/f\" || exit 8; i=$((i+1)); done";
    let descriptors = run(&[opener]).await;
    assert_eq!(descriptors.state, "EXECUTOR_ERROR", "{descriptors:?}");
    assert_eq!(run(&["test $(ulimit -Hn) = 256 && test $(ulimit -Hc) = 0"]).await.state, "COMPLETE");

    all_is_well(&cluster, &marks, &neighbour).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fills_the_disk_is_ended_and_nobody_else() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&options()).await;
    let marks = Marks::new(&cluster.shared());
    let neighbour = neighbour(&cluster, &marks).await;
    let run = async |script: &str| {
        let mut task = shell_task("filler", &[script.to_owned()]);
        task["resources"]["disk_gb"] = json!(0.02);
        task["volumes"] = json!(["/data"]);
        task["outputs"] = json!([{"path": "/data/kept", "url": cluster.shared().join("kept")}]);
        ended(&cluster, &task).await
    };
    for (place, script) in [
        ("a volume", "echo kept > /data/kept; dd if=/dev/zero of=/data/x bs=1M count=40; sleep 1000"),
        ("/tmp", "dd if=/dev/zero of=/tmp/x bs=1M count=40; sleep 1000"),
        ("what it prints", "dd if=/dev/zero bs=1M count=40; sleep 1000"),
        ("a file without a name", "exec 3>/tmp/x; rm /tmp/x; dd if=/dev/zero bs=1M count=40 >&3; sleep 1000"),
        (
            "many pieces",
            "cd /tmp; for i in $(seq 40); do dd if=/dev/zero of=$i bs=1M count=1; done; sleep 1000",
        ),
    ] {
        let filler = run(script).await;
        assert_eq!(
            (filler.state.as_str(), filler.reason.as_str()),
            ("EXECUTOR_ERROR", "DISK_LIMIT"),
            "{place}"
        );
        assert!(filler.system_logs.contains("may have 20.5MiB"), "{place}: {filler:?}");
        assert_eq!(filler.exit_code, 137, "{place}");
    }
    assert_eq!(
        fs::read_to_string(cluster.shared().join("kept")).unwrap(),
        "kept\n",
        "an output is put in place"
    );
    let files = run("cd /tmp; i=0; while [ $i -lt 10000 ]; do : > $i; i=$((i+1)); done; sleep 1000").await;
    assert_eq!((files.state.as_str(), files.reason.as_str()), ("EXECUTOR_ERROR", "FILE_LIMIT"), "{files:?}");

    // Holes and second names take no space, and what lies on shared storage is not the node's.
    let shared = cluster.shared();
    let modest = format!(
        "dd if=/dev/zero of=/tmp/hole bs=1 count=1 seek=1G; dd if=/dev/zero of=/tmp/a bs=1M count=15; \
         ln /tmp/a /tmp/b; ln /tmp/a /tmp/c; dd if=/dev/zero of={}/large bs=1M count=40; sleep 4",
        shared.display()
    );
    let modest = run(&format!("echo kept > /data/kept; {modest}")).await;
    assert_eq!(modest.state, "COMPLETE", "{modest:?}");
    all_is_well(&cluster, &marks, &neighbour).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_is_limited_through_a_restart_of_the_agent() {
    let stand = Stand::start().await;
    let mut cluster = stand.cluster(&options()).await;
    let marks = Marks::new(&cluster.shared());
    let neighbour = neighbour(&cluster, &marks).await;
    let timed = |scripts: &[String], timeout: &str| {
        let mut task = shell_task("timed", scripts);
        task["resources"]["backend_parameters"] = json!({"Timeout": timeout});
        task
    };
    let begun = marks.shell("timed");
    let task = timed(&["true".to_owned(), format!("{begun}; sleep 1000"), marks.shell("third")], "3");
    let id = cluster.client.submit(&task).await;
    eventually("the task to run", async || (marks.count("timed") == 1).then_some(())).await;
    cluster.kill_agent();
    cluster.start_agent(&[]);
    let found = Ended::of(&cluster.client.wait(&id).await);
    assert_eq!((found.state.as_str(), found.reason.as_str()), ("EXECUTOR_ERROR", "TIME_LIMIT"), "{found:?}");
    assert!(found.system_logs.contains("longer than its limit of 3s"), "{found:?}");
    assert_eq!(marks.count("third"), 0);

    let in_time = ended(&cluster, &timed(&["true".to_owned()], "30min")).await;
    assert_eq!(in_time.state, "COMPLETE", "{in_time:?}");
    let (status, answer) =
        cluster.client.post("/v1/tasks", timed(&["true".to_owned()], "2h").to_string()).await;
    let text = answer.to_string();
    assert!(status == 400 && text.contains("timeout") && text.contains("1h"), "{status} {text}");
    marks.open_gate("gate");
    assert_eq!(cluster.client.wait(&neighbour).await["state"], "COMPLETE");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cpu_limit_is_hard_and_holds_over_all_processes() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&options()).await;
    let figures = async |script: &str| {
        let mut task = shell_task("cpu", &[script.to_owned()]);
        task["resources"]["cpu_cores"] = json!(0.2);
        let id = cluster.client.submit(&task).await;
        let task = cluster.client.wait(&id).await;
        assert_eq!(task["state"], "COMPLETE", "{task}");
        let metadata = &task["logs"][0]["metadata"];
        ["run_seconds", "cpu_time_ms"].map(|key| metadata[key].as_str().unwrap().parse::<f64>().unwrap())
    };
    // What the runtime itself does in a container before the clock of its command begins.
    let [_, before_ms] = figures("exit 0").await;
    // Three processes that would take three CPUs; together they may have a fifth of one.
    let spin = "for i in 1 2 3; do timeout 3 sh -c 'while :; do :; done' & done; wait; exit 0";
    let [run_seconds, cpu_time_ms] = figures(spin).await;
    // Never more than the quota, however long it took; some periods may have begun before, and what the runtime does
    // takes longer at one time than at another, above all on a guest that has to share its processor. Without a limit
    // three seconds of one CPU would be the least, and what the runtime does would come on top.
    let most_ms = 0.2 * run_seconds * 1000.0 + 2.0 * before_ms + 200.0;
    assert!(cpu_time_ms <= most_ms, "{cpu_time_ms} ms in {run_seconds} s; {before_ms} ms before");
}

/// A disk of the guest's own, in a file: nothing else that it has lies on a device whose traffic is counted.
fn mount_a_disk(directory: &Path) {
    let script = "modprobe loop && truncate -s 64M /tmp/disk && mkfs.ext4 -q /tmp/disk && \
                  mount -o loop /tmp/disk \"$0\" && chmod 1777 \"$0\"";
    let output = Command::new("sh").arg("-c").arg(script).arg(directory).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_used_is_told() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&options()).await;
    let mut place = cluster.shared();
    if guest::is_inside() {
        place.push("disk");
        fs::create_dir(&place).unwrap();
        mount_a_disk(&place);
    }
    // A line of 24 MiB that has to be held whole, some counting, and a file that is on the disk before the end.
    let script = format!(
        "head -c 25165824 /dev/zero | tr '\\0' x | tail -n 1 | wc -c; i=0
         while [ $i -lt 100000 ]; do i=$((i+1)); done
         dd if=/dev/zero of={}/x bs=1M count=8 conv=fsync",
        place.display()
    );
    let id = cluster.client.submit(&shell_task("measured", &[script])).await;
    let task = cluster.client.wait(&id).await;
    assert_eq!(task["state"], "COMPLETE", "{task:#}");
    let metadata = &task["logs"][0]["metadata"];
    let figure = |key: &str| metadata[key].as_str().map(|text| text.parse::<f64>().unwrap());
    let peak = figure("peak_memory_bytes").unwrap();
    assert!((25_165_824.0..=67_108_864.0).contains(&peak), "{metadata:#}");
    assert!(figure("cpu_time_ms").unwrap() > 10.0, "{metadata:#}");
    if guest::is_inside() {
        // Version 1 counts no write that the kernel does later, and newer kernels count none there at all.
        assert!(figure("io_write_bytes") >= Some(8_388_608.0), "{metadata:#}");
        assert!(figure("io_read_bytes") < Some(8_388_608.0), "{metadata:#}");
        // What is in memory is not read again.
        fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
        let reader = shell_task("reader", &[format!("cat {0}/x {0}/x | wc -c", place.display())]);
        let task = cluster.client.wait(&cluster.client.submit(&reader).await).await;
        let metadata = &task["logs"][0]["metadata"];
        let figure = |key: &str| metadata[key].as_str().map(|text| text.parse::<f64>().unwrap());
        assert_eq!(task["logs"][0]["logs"][0]["stdout"], "16777216\n", "{task:#}");
        let once = Some(8_388_608.0)..Some(16_777_216.0);
        assert!(once.contains(&figure("io_read_bytes")), "the second time it is in memory: {metadata:#}");
        assert!(figure("io_write_bytes") < Some(1_048_576.0), "{metadata:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_room_takes_no_new_tasks() {
    let stand = Stand::start().await;
    let agent_toml = "disk_floor = '1000000TiB'\n".to_owned();
    let cluster = stand.cluster(&Options { agent_toml, ..options() }).await;
    eventually("the node to close", async || {
        let nodes = cluster.client.get("/v1/nodes").await;
        nodes["nodes"][0]["closed"].as_str().map(|reason| assert!(reason.contains("disk"), "{reason}"))
    })
    .await;
    let id = cluster.client.submit(&shell_task("waits", &["true".to_owned()])).await;
    let nodes = cluster.client.get("/v1/nodes").await;
    assert_eq!((&nodes["nodes"][0]["tasks"], &nodes["nodes"][0]["state"]), (&json!(0), &json!("READY")));
    assert_eq!(cluster.client.state(&id).await, "QUEUED");
    cluster.client.cancel(&id).await;
    assert_eq!(cluster.client.wait(&id).await["state"], "CANCELED");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_entry_point_runs_where_the_task_asks_for_it() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let task = |parameters: Value| {
        json!({"executors": [{"image": IMAGE, "command": ["echo", "command"]}],
               "resources": {"ram_gb": 0.0625, "disk_gb": 0.1, "backend_parameters": parameters}})
    };
    assert_eq!(ended(&cluster, &task(json!({}))).await.state, "COMPLETE");
    assert_eq!(ended(&cluster, &task(json!({"entrypoint": "none"}))).await.state, "COMPLETE");
    // The entry point of the test image is one that fails whatever its arguments are.
    let obeyed = ended(&cluster, &task(json!({"entrypoint": "image"}))).await;
    assert_eq!((obeyed.state.as_str(), obeyed.exit_code), ("EXECUTOR_ERROR", 1), "{obeyed:?}");
}
