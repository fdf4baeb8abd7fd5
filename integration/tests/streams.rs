//! What tasks write and how they end, whatever they do: floods, full disks, outputs larger than a log,
//! processes that do not want to end, a lease that ends with nobody there.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use teamster_integration::cluster::{Cluster, Marks, Options, eventually, shell_task};
use teamster_integration::stand::Stand;

const MIB: u64 = 1 << 20;

fn small_logs() -> Options {
    Options {
        coordinator_toml: "max_attempts = 1\n".to_owned(),
        agent_toml: "log_max = '4MiB'\n".to_owned(),
        ..Options::default()
    }
}

fn executor(task: &Value) -> &Value {
    &task["logs"][0]["logs"][0]
}

async fn kept_log(cluster: &Cluster, id: &str) -> Vec<u8> {
    let path = cluster.agent_dir().join("logs").join(id).join("1/0.stdout");
    eventually("the log to be kept", async || fs::read(&path).ok()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_cut_in_the_middle_and_holds_up_nobody() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&small_logs()).await;
    let flood = "echo first; yes 0123456789abcde | head -c 1073741824; echo last; exit 7";
    let flood = cluster.client.submit(&shell_task("flood", &[flood.to_owned()])).await;
    cluster.client.wait_state(&flood, "RUNNING").await;
    let small = cluster.client.submit(&shell_task("small", &["echo beside".to_owned()])).await;
    let task = cluster.client.wait(&small).await;
    assert_eq!((&task["state"], &executor(&task)["stdout"]), (&json!("COMPLETE"), &json!("beside\n")));
    let task = cluster.client.wait(&flood).await;
    assert_eq!((&task["state"], &executor(&task)["exit_code"]), (&json!("EXECUTOR_ERROR"), &json!(7)));
    assert!(executor(&task)["stdout"].as_str().unwrap().ends_with("0123456789abcde\nlast\n"));
    let log = kept_log(&cluster, &flood).await;
    assert!((4 * MIB..4 * MIB + 1000).contains(&(log.len() as u64)), "{}", log.len());
    assert!(log.starts_with(b"first\n0123456789abcde\n") && log.ends_with(b"last\n"));
    let cut = 1_073_741_824 + 11 - 4 * MIB;
    let text = String::from_utf8(log).unwrap();
    assert!(text.contains(&format!("[teamster: {cut} bytes are cut out here]\n")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_names_a_file_for_is_whole() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&small_logs()).await;
    let out = cluster.shared().join("out.txt");
    let mut task = shell_task("whole", &["seq 1 2000000".to_owned()]);
    task["executors"][0]["stdout"] = json!("/tmp/out.txt");
    task["outputs"] = json!([{ "path": "/tmp/out.txt", "url": out.to_string_lossy(), "type": "FILE" }]);
    let task = cluster.client.wait(&cluster.client.submit(&task).await).await;
    assert_eq!(task["state"], "COMPLETE", "{task:#}");
    let expected: String = (1..=2_000_000).map(|line| format!("{line}\n")).collect();
    assert!(expected.len() as u64 > 8 * MIB && fs::read_to_string(&out).unwrap() == expected);
}

/// Unmounted when the test ends.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn at(path: &Path, size: &str) -> Self {
        fs::create_dir_all(path).unwrap();
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(size)).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_bytes_and_no_task() {
    let stand = Stand::start().await;
    let _disk = SmallDisk::at(&stand.dir().join("cluster/agent"), "size=32m");
    let options = Options { agent_toml: "disk_floor = '0B'\n".to_owned(), ..small_logs() };
    let cluster = stand.cluster(&options).await;
    let marks = Marks::new(&cluster.shared());
    let script = format!("echo first; {}; exit 3", marks.shell_gate("flood-over"));
    let beside = cluster.client.submit(&shell_task("beside", &[script])).await;
    cluster.client.wait_state(&beside, "RUNNING").await;
    let flood = "yes 0123456789abcde | head -c 209715200; exit 5".to_owned();
    let task = cluster.client.wait(&cluster.client.submit(&shell_task("flood", &[flood])).await).await;
    assert_eq!(
        (&task["state"], &executor(&task)["exit_code"]),
        (&json!("EXECUTOR_ERROR"), &json!(5)),
        "{task:#}"
    );
    let lines = task["logs"][0]["system_logs"].to_string();
    assert!(lines.contains("bytes of stdout") && lines.contains("lost"), "{lines}");
    marks.open_gate("flood-over");
    let task = cluster.client.wait(&beside).await;
    assert_eq!((&executor(&task)["exit_code"], &executor(&task)["stdout"]), (&json!(3), &json!("first\n")));

    // An output of which bytes are lost is no output.
    let mut named = shell_task("named", &["yes 0123456789abcde | head -c 209715200".to_owned()]);
    named["executors"][0]["stdout"] = json!("/tmp/out.txt");
    let task = cluster.client.wait(&cluster.client.submit(&named).await).await;
    assert_eq!(task["state"], "SYSTEM_ERROR", "{task:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_command_is_the_end_of_all_it_started() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let marks = Marks::new(&cluster.shared());
    let length = (2_000_000 + std::process::id()).to_string();
    // Daemons that listen to nothing and hold the streams open; zombies of a parent that never looks; a
    // count of what pid 1 has not reaped.
    let script = format!(
        "for i in 1 2 3; do (trap '' TERM HUP INT; setsid sleep {length} &) ; done
         for i in $(seq 20); do (true &) ; done; sleep 0.2
         grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l; {}; exit 9",
        marks.shell("ended")
    );
    let task = cluster.client.wait(&cluster.client.submit(&shell_task("daemons", &[script])).await).await;
    assert_eq!(
        (&executor(&task)["exit_code"], &executor(&task)["stdout"]),
        (&json!(9), &json!("0\n")),
        "{task:#}"
    );
    let sleepers = || {
        let processes = procfs::process::all_processes().unwrap().filter_map(Result::ok);
        processes.filter(|process| process.cmdline().unwrap_or_default().contains(&length)).count()
    };
    assert_eq!(sleepers(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polite_signal_reaches_the_command_and_what_it_runs() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let marks = Marks::new(&cluster.shared());
    let script =
        format!("trap '{}; exit 1' TERM; {}; sleep 100000 & wait", marks.shell("asked"), marks.shell("up"));
    let id = cluster.client.submit(&shell_task("polite", &[script])).await;
    eventually("it runs", async || (marks.count("up") == 1).then_some(())).await;
    cluster.client.cancel(&id).await;
    assert_eq!(cluster.client.wait(&id).await["state"], "CANCELED");
    assert_eq!(marks.count("asked"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_cannot_get_at_what_watches_it() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let script = "cd /dev/teamster; ls -A run | wc -l; \
        for file in mem fd/0 environ maps exe; do cat /proc/1/$file > /dev/null 2>&1 && echo \"reads $file\"; done; \
        ls /proc/1/fd > /dev/null 2>&1 && echo 'lists its files'; \
        cat teamster-init > /dev/null 2>&1 && echo 'reads the program'; \
        touch x run/x 2> /dev/null && echo writes; rm -f teamster-init 2> /dev/null && echo removes; \
        kill -9 1; kill -STOP 1; echo alive; exit 6";
    let task =
        cluster.client.wait(&cluster.client.submit(&shell_task("nosy", &[script.to_owned()])).await).await;
    assert_eq!(
        (&executor(&task)["stdout"], &executor(&task)["exit_code"]),
        (&json!("0\nalive\n"), &json!(6)),
        "{task:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_with_the_agent_dead() {
    let stand = Stand::start().await;
    let options = Options {
        coordinator_toml: "lease = '4s'\nlease_margin = '10min'\nmax_attempts = 1\n".to_owned(),
        ..Options::default()
    };
    let mut cluster = stand.cluster(&options).await;
    let marks = Marks::new(&cluster.shared());
    let length = (3_000_000 + std::process::id()).to_string();
    let script = format!("{}; sleep {length}", marks.shell("up"));
    let id = cluster.client.submit(&shell_task("leased", &[script])).await;
    eventually("it runs", async || (marks.count("up") == 1).then_some(())).await;
    let sleepers = || {
        let processes = procfs::process::all_processes().unwrap().filter_map(Result::ok);
        processes
            .filter(|process| process.cmdline().unwrap_or_default() == ["sleep", length.as_str()])
            .count()
    };
    // Longer than a lease: with an agent it is renewed.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(sleepers(), 1);
    cluster.kill_agent();
    eventually("the keeper to end it", async || (sleepers() == 0).then_some(())).await;
    cluster.start_agent(&[]);
    let task = cluster.client.wait(&id).await;
    assert_eq!(task["state"], "SYSTEM_ERROR", "{task:#}");
    assert!(task["logs"][0]["system_logs"].to_string().contains("not heard"), "{task:#}");
}
