//! crun in runc's place, where it works: in a guest with cgroup version 2 alone. Where both versions are
//! mounted the agent says at once that it does not.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use teamster_integration::cluster::{Marks, Options, eventually, shell_task, teamster};
use teamster_integration::guest::{self, Guest};
use teamster_integration::stand::Stand;

/// Where crun keeps what it knows of a container.
const STATE: &str = "/run/containerd/crun/teamster";

fn options() -> Options {
    Options { agent_toml: "runtime = 'crun'\n[sandbox]\npids_max = 64\n".to_owned(), ..Options::default() }
}

#[test]
fn in_the_guest() {
    let Some(guest) = Guest::prepare() else { return };
    guest.run_own_tests(&["codes_and_limits_are_the_same"], &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_and_limits_are_the_same_with_crun() {
    if !guest::is_inside() {
        // The guest runs this.
        return;
    }
    let stand = Stand::start().await;
    let cluster = stand.cluster(&options()).await;
    // A guest on a busy machine takes its time to say what it has.
    let node = eventually("the node to say what it runs", async || {
        let nodes = cluster.client.get("/v1/nodes").await;
        nodes["nodes"][0]["versions"].get("crun").is_some().then(|| nodes["nodes"][0].clone())
    })
    .await;
    assert!(node["versions"]["crun"].is_string() && node["versions"]["runc"].is_null(), "{node:#}");
    assert_eq!(node["lacks"], json!([]));

    let marks = Marks::new(&cluster.shared());
    let gate = format!("{}; {}; echo seen", marks.shell("begun"), marks.shell_gate("gate"));
    let held = cluster.client.submit(&shell_task("held", &[gate])).await;
    eventually("the task to run", async || (marks.count("begun") == 1).then_some(())).await;
    let known: Vec<String> =
        fs::read_dir(STATE).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(known, [format!("{held}-1-0")], "crun made it");

    let run = async |script: &str| {
        let id = cluster.client.submit(&shell_task("task", &[script.to_owned()])).await;
        cluster.client.wait(&id).await
    };
    let code = |task: &Value| task["logs"][0]["logs"][0]["exit_code"].as_i64();
    let reason = |task: &Value| task["logs"][0]["metadata"]["reason"].as_str().unwrap_or_default().to_owned();
    assert_eq!(code(&run("exit 0").await), Some(0));
    assert_eq!(code(&run("exit 42").await), Some(42));
    let killed = run("kill -KILL $$").await;
    assert_eq!((code(&killed), reason(&killed).as_str()), (Some(137), "COMMAND_FAILED"), "{killed:#}");
    let memory = run("tail /dev/zero").await;
    assert_eq!((code(&memory), reason(&memory).as_str()), (Some(137), "OUT_OF_MEMORY"), "{memory:#}");
    let forks = run("i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; wait").await;
    assert_eq!(reason(&forks), "PROCESS_LIMIT", "{forks:#}");
    let confined = run("grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; id -u; touch /x").await;
    let printed = confined["logs"][0]["logs"][0]["stdout"].as_str().unwrap();
    assert_eq!(printed, "CapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n65534\n", "{confined:#}");
    assert_eq!(code(&confined), Some(1), "the root cannot be written to");

    let mut missing = shell_task("missing", &["true".to_owned()]);
    missing["executors"][0]["command"] = json!(["no-such-program"]);
    let id = cluster.client.submit(&missing).await;
    assert_eq!(cluster.client.wait(&id).await["state"], "EXECUTOR_ERROR");

    marks.open_gate("gate");
    let held = cluster.client.wait(&held).await;
    assert_eq!(held["logs"][0]["logs"][0]["stdout"], "seen\n", "{held:#}");
    let cpu = held["logs"][0]["metadata"]["cpu_time_ms"].as_str().map(|text| text.parse::<f64>().unwrap());
    assert!(cpu > Some(0.0), "{held:#}");
    eventually("crun to forget them all", async || {
        fs::read_dir(STATE).map_or(true, |mut entries| entries.next().is_none()).then_some(())
    })
    .await;
}

#[test]
fn it_is_refused_where_it_cannot_work() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let has = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    if !has("cgroup") || !has("cgroup2") {
        // Here it works.
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let agent = Command::new(teamster())
        .args(["agent", "--runtime", "crun", "--coordinator", "127.0.0.1:1", "--data-dir"])
        .arg(home.path().join("agent"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&agent.stderr).into_owned();
    assert!(!agent.status.success() && said.contains("runtime = \"runc\""), "{said}");
}

#[test]
fn no_other_program_is_taken() {
    let output =
        Command::new(teamster()).args(["agent", "--runtime", "kata", "--check-config"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("neither 'runc' nor 'crun'"), "{said}");
}
