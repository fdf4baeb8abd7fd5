//! The life of a container through repeated calls, crashes of containerd, and to its end: nothing runs
//! twice, no exit code is lost or made up, and nothing is left.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal as UnixSignal, kill};
use nix::unistd::Pid;
use teamster_agent::runtime::{
    ContainerSpec, ContainerState, Containerd, Programs, Runtime, RuntimeError, Signal,
};
use teamster_integration::containerd::attempt_cgroups;

use crate::stand::Stand;

impl Stand {
    /// What `ctr` says of what is ours.
    fn ctr(&self, words: &[&str]) -> String {
        let mut ctr = std::process::Command::new("ctr");
        ctr.arg("--address").arg(self.containerd.socket()).args(["--namespace", "teamster"]).args(words);
        let output = ctr.output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether containerd has nothing of ours but images.
    pub(crate) async fn runtime_is_empty(&self) -> bool {
        let count = |words: &[&str]| {
            let text = self.ctr(words);
            // Snapshots of images are committed, those of containers are not.
            text.lines().filter(|line| !line.is_empty() && !line.contains("Committed")).count()
        };
        let left = [
            count(&["containers", "list", "--quiet"]),
            count(&["tasks", "list", "--quiet"]),
            count(&["leases", "list", "--quiet"]),
            count(&["snapshots", "list"]) - 1,
        ];
        left == [0; 4] && self.containerd.mounts().is_empty() && self.containerd.shims().is_empty()
    }

    async fn assert_nothing_left(&self, spec: &ContainerSpec) {
        assert!(self.runtime.list().await.unwrap().is_empty());
        assert!(attempt_cgroups(&spec.id.attempt.to_string()).is_empty());
        // Shims end by themselves a moment after their last task.
        self.until("the shim ends", || self.containerd.shims().is_empty()).await;
        assert!(self.runtime_is_empty().await);
    }

    /// Has containerd forget a task that has ended.
    fn delete_task(&self, spec: &ContainerSpec) {
        let mut ctr = std::process::Command::new("ctr");
        ctr.arg("--address").arg(self.containerd.socket());
        ctr.args(["--namespace", "teamster", "tasks", "delete"]).arg(spec.id.to_string());
        assert!(ctr.output().unwrap().status.code().is_some_and(|code| [0, 4].contains(&code)));
    }

    async fn until_output(&self, spec: &ContainerSpec, words: &str) {
        let look = || fs::read_to_string(&spec.stdout).unwrap().contains(words);
        self.until(words, look).await;
    }
}

#[tokio::test]
async fn every_step_may_be_repeated() {
    let Some(stand) = Stand::new().await else { return };
    let runtime = &stand.runtime;
    let spec = stand.shell("echo once; sleep 0.3; exit 4").await;
    assert_eq!(runtime.state(spec.id).await.unwrap(), ContainerState::Missing);
    assert!(matches!(runtime.start(spec.id).await, Err(RuntimeError::NotFound(_))));
    for _ in 0..2 {
        runtime.prepare_attempt(spec.id.attempt, &spec.limits).await.unwrap();
    }
    for _ in 0..2 {
        runtime.create(&spec).await.unwrap();
        assert_eq!(runtime.state(spec.id).await.unwrap(), ContainerState::Created);
    }
    assert_eq!(runtime.list().await.unwrap(), [spec.id]);
    for _ in 0..2 {
        runtime.start(spec.id).await.unwrap();
        runtime.create(&spec).await.unwrap();
    }
    for _ in 0..2 {
        assert_eq!(stand.wait(&spec).await.unwrap().code, 4);
        runtime.start(spec.id).await.unwrap();
        runtime.create(&spec).await.unwrap();
    }
    let ContainerState::Exited(exit) = runtime.state(spec.id).await.unwrap() else { panic!("it ended") };
    assert_eq!(exit.code, 4);
    // A containerd that was killed before it could answer, and has cleaned up since.
    stand.delete_task(&spec);
    runtime.start(spec.id).await.unwrap();
    assert_eq!(stand.wait(&spec).await.unwrap().code, 4);
    runtime.signal(spec.id, Signal::Term).await.unwrap();
    assert_eq!(fs::read_to_string(&spec.stdout).unwrap(), "once\n", "it ran once");
    for _ in 0..2 {
        stand.remove(&spec).await;
        runtime.signal(spec.id, Signal::Kill).await.unwrap();
    }
    assert_eq!(stand.wait(&spec).await.unwrap().code, 4, "it is on record");
    stand.assert_nothing_left(&spec).await;
}

#[tokio::test]
async fn removing_kills_what_runs_and_all_that_it_started() {
    let Some(stand) = Stand::new().await else { return };
    let spec = stand
        .shell("trap '' TERM; for i in 1 2 3; do setsid sh -c 'trap \"\" TERM; sleep 1000' & done; echo up; wait")
        .await;
    stand.start(&spec).await.unwrap();
    stand.until_output(&spec, "up").await;
    stand.runtime.signal(spec.id, Signal::Term).await.unwrap();
    assert_eq!(stand.runtime.state(spec.id).await.unwrap(), ContainerState::Running, "it ignores TERM");
    stand.remove(&spec).await;
    stand.assert_nothing_left(&spec).await;
}

#[tokio::test]
async fn many_at_once_do_not_disturb_each_other() {
    let Some(stand) = Stand::new().await else { return };
    let run = async |code: u32| {
        let ended = stand.run(&stand.shell(&format!("echo {code}; exit {code}")).await).await;
        assert_eq!((ended.exit.code, ended.stdout), (code, format!("{code}\n")));
    };
    futures_util::future::join_all((1..=16).map(run)).await;
    assert!(stand.runtime.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_created_container_can_be_removed() {
    let Some(stand) = Stand::new().await else { return };
    let spec = stand.shell("echo never").await;
    stand.runtime.prepare_attempt(spec.id.attempt, &spec.limits).await.unwrap();
    stand.runtime.create(&spec).await.unwrap();
    stand.remove(&spec).await;
    assert_eq!(fs::read_to_string(&spec.stdout).unwrap(), "");
    stand.assert_nothing_left(&spec).await;
}

#[tokio::test]
async fn a_half_made_container_is_made_anew() {
    let Some(stand) = Stand::new().await else { return };
    let spec = stand.shell("echo made; exit 6").await;
    stand.runtime.prepare_attempt(spec.id.attempt, &spec.limits).await.unwrap();
    // What is left when the agent dies between the container and its task.
    stand.runtime.create(&spec).await.unwrap();
    let ctr = |words: &[&str]| {
        let status = std::process::Command::new("ctr")
            .arg("--address")
            .arg(stand.containerd.socket())
            .args(["--namespace", "teamster"])
            .args(words)
            .status()
            .unwrap();
        assert!(status.success(), "{words:?}");
    };
    ctr(&["tasks", "delete", "--force", &spec.id.to_string()]);
    assert_eq!(stand.runtime.state(spec.id).await.unwrap(), ContainerState::Missing);
    assert_eq!(stand.runtime.list().await.unwrap(), [spec.id]);
    let ended = stand.run(&spec).await;
    assert_eq!((ended.exit.code, ended.stdout.as_str()), (6, "made\n"));
    stand.assert_nothing_left(&spec).await;
}

#[tokio::test]
async fn a_crash_of_containerd_does_not_disturb_what_runs() {
    let Some(mut stand) = Stand::new().await else { return };
    let flag = stand.directory("flag");
    let mut spec =
        stand.shell("echo up; until [ -e /flag/go ]; do sleep 0.02; done; echo end; exit 43").await;
    spec.binds.push(teamster_agent::runtime::Bind {
        source: flag.clone(),
        destination: teamster_values::AbsolutePath::parse("/flag").unwrap(),
        read_only: true,
        follows_mounts: false,
    });
    stand.start(&spec).await.unwrap();
    stand.until_output(&spec, "up").await;
    // The one who waits does not notice: same object, same call, two crashes.
    let programs = Programs::install(stand.home.path()).unwrap();
    let waiter = Containerd::connect(&stand.containerd.socket()).with_programs(programs);
    let id = spec.id;
    let mut waiting = tokio::task::JoinSet::new();
    waiting.spawn(async move { waiter.wait(id).await });
    stand.containerd.kill9();
    let down = stand.runtime.state(spec.id).await;
    assert!(matches!(down, Err(RuntimeError::Unavailable(_))), "{down:?}");
    stand.containerd.restart();
    stand.containerd.restart();
    assert_eq!(stand.runtime.state(spec.id).await.unwrap(), ContainerState::Running);
    fs::write(flag.join("go"), "").unwrap();
    let joined = tokio::time::timeout(Duration::from_secs(60), waiting.join_next()).await.unwrap();
    let exit = joined.unwrap().unwrap().unwrap();
    assert_eq!(exit.code, 43);
    assert_eq!(fs::read_to_string(&spec.stdout).unwrap(), "up\nend\n");
    stand.remove(&spec).await;
    stand.assert_nothing_left(&spec).await;
}

#[tokio::test]
async fn an_end_while_containerd_is_down_is_told_truly() {
    let Some(mut stand) = Stand::new().await else { return };
    let spec = stand.shell("echo up; sleep 0.5; echo end; exit 42").await;
    stand.start(&spec).await.unwrap();
    stand.until_output(&spec, "up").await;
    stand.containerd.kill9();
    stand.until_output(&spec, "end").await;
    let init_is_gone = || !fs::read_dir("/proc").unwrap().flatten().any(|entry| is_in(&entry.path(), &spec));
    stand.until("it ends", init_is_gone).await;
    stand.containerd.restart();
    // Older releases keep the exit code, newer ones drop it; the record has it.
    let exit = stand.wait(&spec).await.unwrap();
    assert_eq!((exit.code, exit.out_of_memory), (42, false));
    stand.remove(&spec).await;
    stand.assert_nothing_left(&spec).await;
}

/// Whether a process of `/proc` is in the attempt's cgroup and alive.
fn is_in(process: &std::path::Path, spec: &ContainerSpec) -> bool {
    let cgroups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    let is_zombie = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
    cgroups.contains(&spec.id.attempt.to_string()) && !is_zombie
}

#[tokio::test]
async fn a_lost_shim_is_no_exit_code() {
    let Some(stand) = Stand::new().await else { return };
    let spec = stand.shell("echo up; sleep 1000").await;
    stand.start(&spec).await.unwrap();
    stand.until_output(&spec, "up").await;
    let [shim] = stand.containerd.shims()[..] else { panic!("one shim for one container") };
    kill(Pid::from_raw(shim), UnixSignal::SIGKILL).unwrap();
    let result = stand.wait(&spec).await;
    assert!(matches!(result, Err(RuntimeError::NotFound(_))), "{result:?}");
    stand.remove(&spec).await;
    stand.assert_nothing_left(&spec).await;
}

#[tokio::test]
async fn a_process_that_lost_shim_and_containerd_is_still_ended() {
    let Some(mut stand) = Stand::new().await else { return };
    let spec = stand.shell("echo up; sleep 1000").await;
    stand.start(&spec).await.unwrap();
    stand.until_output(&spec, "up").await;
    stand.containerd.kill9();
    for shim in stand.containerd.shims() {
        kill(Pid::from_raw(shim), UnixSignal::SIGKILL).unwrap();
    }
    // First the cgroup: nothing else may know of the process by now.
    stand.runtime.release_attempt(spec.id.attempt).await.unwrap();
    assert!(!fs::read_dir("/proc").unwrap().flatten().any(|entry| is_in(&entry.path(), &spec)));
    stand.containerd.restart();
    stand.remove(&spec).await;
    stand.assert_nothing_left(&spec).await;
}

#[tokio::test]
async fn an_end_before_the_command_is_no_exit_code() {
    let Some(stand) = Stand::new().await else { return };
    let spec = stand.shell("echo never").await;
    stand.runtime.prepare_attempt(spec.id.attempt, &spec.limits).await.unwrap();
    stand.runtime.create(&spec).await.unwrap();
    // The runtime's own process, which waits to become the first of the container.
    let waiting: Vec<i32> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| is_in(&entry.path(), &spec))
        .map(|entry| entry.file_name().to_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(waiting.len(), 1);
    kill(Pid::from_raw(waiting[0]), UnixSignal::SIGTERM).unwrap();
    let ended = stand.wait(&spec).await;
    assert!(matches!(ended, Err(RuntimeError::NeverBegan(_))), "{ended:?}");
    assert_eq!(fs::read_to_string(&spec.stdout).unwrap(), "");
    stand.remove(&spec).await;
    stand.assert_nothing_left(&spec).await;
}

/// Both kinds may be on a node at once: the operator's word counts for containers that are made after it.
#[tokio::test]
async fn a_container_is_the_same_with_stand_ins_and_without() {
    let Some(stand) = Stand::new().await else { return };
    let programs = Programs::install(stand.home.path()).unwrap();
    let plain = Containerd::connect(&stand.containerd.socket()).with_programs(programs).with_stand_ins(false);
    for (runtime, made_by) in [(&stand.runtime, "teamster-shim\""), (&plain, "\"io.containerd.runc.v2\"")] {
        let spec = stand.shell("exit 3").await;
        runtime.prepare_attempt(spec.id.attempt, &spec.limits).await.unwrap();
        runtime.create(&spec).await.unwrap();
        let info = stand.ctr(&["containers", "info", &spec.id.to_string()]);
        assert!(info.contains(made_by), "{info}");
        runtime.start(spec.id).await.unwrap();
        assert_eq!(stand.wait(&spec).await.unwrap().code, 3);
        stand.remove(&spec).await;
        stand.assert_nothing_left(&spec).await;
    }
}

#[tokio::test]
async fn it_connects_when_containerd_comes_up() {
    let Some(mut stand) = Stand::new().await else { return };
    stand.containerd.kill9();
    let early = Containerd::connect(&stand.containerd.socket());
    assert!(matches!(early.versions().await, Err(RuntimeError::Unavailable(_))));
    stand.containerd.restart();
    let versions = early.versions().await.unwrap();
    let names: Vec<&str> = versions.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["containerd", "runc", "kernel", "cgroup", "disk"]);
    assert!(["v1", "v2", "hybrid"].contains(&versions[3].1.as_str()), "{versions:?}");
    assert!(
        versions[..3].iter().all(|(_, version)| version.starts_with(|first: char| first.is_ascii_digit()))
    );
}
