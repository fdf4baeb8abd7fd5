//! The walls around a container, tried from inside.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use teamster_agent::runtime::Bind;
use teamster_integration::containerd::attempt_cgroups;
use teamster_values::AbsolutePath;

use crate::stand::{Stand, WHO};

fn bind(source: PathBuf, destination: &str, read_only: bool) -> Bind {
    let destination = AbsolutePath::parse(destination).unwrap();
    Bind { source, destination, read_only, follows_mounts: false }
}

#[tokio::test]
async fn a_task_has_no_privileges() {
    let Some(stand) = Stand::new().await else { return };
    let status = stand.say("cat /proc/self/status").await;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap_or_else(|| panic!("no {name}")).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");
    assert_eq!(field("Uid"), ["4711"; 4].join(" "));
    assert_eq!(field("Gid"), ["4712"; 4].join(" "));
    assert_eq!(field("Groups"), "");
    assert_eq!(field("Umask"), "0022");
    assert_eq!(stand.say("cat /proc/self/oom_score_adj").await, "500\n");
    assert_eq!(stand.say("ulimit -c; [ $(ulimit -n) -gt 1000 ] && echo many").await, "0\nmany\n");
}

#[tokio::test]
async fn the_root_is_read_only_and_binds_are_as_asked() {
    let Some(stand) = Stand::new().await else { return };
    let (open, closed) = (stand.directory("open"), stand.directory("closed"));
    fs::write(closed.join("input"), "given").unwrap();
    let mut spec = stand
        .shell(
            "for at in / /bin /etc /dev /sys /closed; do touch $at/x 2>/dev/null && echo wrote $at; done
             rm -f /closed/input 2>/dev/null && echo removed
             cat /closed/input; echo out > /open/result; ln -s /etc /open/link; echo; umask",
        )
        .await;
    spec.binds = vec![bind(open.clone(), "/open", false), bind(closed.clone(), "/closed", true)];
    let ended = stand.run(&spec).await;
    assert_eq!(ended.stdout, "given\n0022\n");
    let result = fs::metadata(open.join("result")).unwrap();
    assert_eq!((result.uid(), result.gid(), result.mode() & 0o777), (WHO.uid, WHO.gid, 0o644));
}

/// A file system of the test's own, gone with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: &Path) -> Self {
        fs::create_dir_all(path).unwrap();
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("mode=777")).unwrap();
        mount(None::<&str>, path, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_mount_made_later_reaches_a_running_container() {
    let Some(stand) = Stand::new().await else { return };
    let parent = Mounted::at(&stand.directory("storage"));
    let mut spec = stand.shell("until cat /storage/leaf/file 2>/dev/null; do sleep 0.02; done").await;
    let mut storage = bind(parent.0.clone(), "/storage", false);
    storage.follows_mounts = true;
    spec.binds.push(storage);
    stand.start(&spec).await.unwrap();
    let leaf = Mounted::at(&parent.0.join("leaf"));
    fs::write(leaf.0.join("file"), "mounted later\n").unwrap();
    assert_eq!(stand.wait(&spec).await.unwrap().code, 0);
    assert_eq!(fs::read_to_string(&spec.stdout).unwrap(), "mounted later\n");
    stand.remove(&spec).await;
}

#[tokio::test]
async fn read_only_reaches_what_is_mounted_below() {
    let Some(stand) = Stand::new().await else { return };
    let parent = Mounted::at(&stand.directory("storage"));
    let _leaf = Mounted::at(&parent.0.join("leaf"));
    let mut spec = stand.shell("touch /storage/x /storage/leaf/x 2>/dev/null; ls -R /storage").await;
    spec.binds.push(bind(parent.0.clone(), "/storage", true));
    assert_eq!(stand.run(&spec).await.stdout, "/storage:\nleaf\n\n/storage/leaf:\n");
}

#[tokio::test]
async fn it_sees_neither_host_nor_network() {
    let Some(stand) = Stand::new().await else { return };
    let spec = stand
        .shell("hostname; tr '\\0' '\\n' < /proc/1/cmdline | head -n 1; ls -1 /proc | grep -c '^[0-9]'; ip -o link | wc -l; ip -o link | grep -c 'lo:.*UP'; cat /proc/kcore | wc -c")
        .await;
    let short: String = spec.id.attempt.task.to_string().chars().skip(14).collect();
    let ended = stand.run(&spec).await;
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines[0], short);
    assert_eq!(lines[1], "/dev/teamster/teamster-init", "a pid namespace of its own");
    assert!(lines[2].parse::<u32>().unwrap() < 6, "{ended:?}");
    assert_eq!((lines[3], lines[4]), ("1", "1"), "only loopback, and it is up: {ended:?}");
    assert_eq!(lines[5], "0");
}

#[tokio::test]
async fn it_finds_itself_in_etc() {
    let Some(stand) = Stand::new().await else { return };
    let mut spec = stand
        .shell("id; cat /etc/passwd /etc/group /etc/hostname /etc/resolv.conf; grep -c localhost /etc/hosts")
        .await;
    spec.env.push("HOME=/home/me".to_owned());
    let ended = stand.run(&spec).await;
    let text = &ended.stdout;
    assert!(text.contains("uid=4711(teamster) gid=4712(teamster)"), "{ended:?}");
    assert!(text.contains("root:x:0:0:root:/root:/bin/sh\n"), "the image's own lines stay: {text}");
    assert!(text.contains("teamster:x:4711:4712::/home/me:/bin/sh\n"), "{text}");
    assert!(text.ends_with("2\n"), "{text}");
}

#[tokio::test]
async fn memory_is_limited_and_its_end_is_told_apart() {
    let Some(stand) = Stand::new().await else { return };
    // tail keeps all of a line that never ends.
    let ended = stand.run(&stand.container(&["tail", "/dev/zero"]).await).await;
    assert_eq!((ended.exit.code, ended.exit.out_of_memory), (137, true), "{ended:?}");
    // A child's death counts too, and the exit code is still the command's own.
    let ended = stand.run(&stand.shell("tail /dev/zero; exit 5").await).await;
    assert_eq!((ended.exit.code, ended.exit.out_of_memory), (5, true), "{ended:?}");
    let ended = stand.run(&stand.shell("exit 137").await).await;
    assert_eq!((ended.exit.code, ended.exit.out_of_memory), (137, false));
    // Half of the memory may be shared memory.
    let size = stand.say("df -k /dev/shm | tail -1 | awk '{print $2}'").await;
    assert_eq!(size, "32768\n");
}

#[tokio::test]
async fn limits_are_exact_and_on_the_attempt() {
    let Some(stand) = Stand::new().await else { return };
    let mut spec = stand.shell("sleep 1000").await;
    spec.limits.cpu_milli = 1500;
    stand.start(&spec).await.unwrap();
    let places = attempt_cgroups(&spec.id.attempt.to_string());
    let read = |names: [&str; 2]| {
        let mut files = places.iter().flat_map(|place| names.map(|name| place.join(name)));
        let found = files.find_map(|file| fs::read_to_string(file).ok());
        found.unwrap_or_else(|| panic!("none of {names:?}")).trim().to_owned()
    };
    assert_eq!(read(["memory.limit_in_bytes", "memory.max"]), (64 << 20).to_string());
    assert_eq!(read(["pids.max", "pids.max"]), "64");
    assert!(["150000", "150000 100000"].contains(&read(["cpu.cfs_quota_us", "cpu.max"]).as_str()));
    stand.remove(&spec).await;
    assert!(attempt_cgroups(&spec.id.attempt.to_string()).is_empty());
}

#[tokio::test]
async fn a_limit_too_low_to_start_is_the_users_error_or_an_oom() {
    let Some(stand) = Stand::new().await else { return };
    let mut spec = stand.shell("true").await;
    spec.limits.memory_bytes = 1 << 20;
    match stand.start(&spec).await {
        Err(teamster_agent::runtime::RuntimeError::CommandUnusable(reason)) => {
            assert!(reason.contains("memory"), "{reason}");
        }
        Ok(()) => assert!(stand.wait(&spec).await.unwrap().out_of_memory),
        other => panic!("{other:?}"),
    }
    stand.remove(&spec).await;
}

#[tokio::test]
async fn processes_are_limited() {
    let Some(stand) = Stand::new().await else { return };
    let mut spec =
        stand.shell("i=0; while [ $i -lt 100 ]; do sleep 100 & i=$((i+1)); done; echo unlimited").await;
    spec.pids_max = 20;
    let ended = stand.run(&spec).await;
    assert!(ended.stderr.contains("can't fork"), "{ended:?}");
    assert!(!ended.stdout.contains("unlimited"), "{ended:?}");
}
