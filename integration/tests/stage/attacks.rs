//! What a task, or another user of the shared storage, may try against staging. In none of these may root's
//! rights, or a file that the task itself could not read, be had.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::bench::{Bench, at, content, input, output};
use teamster_agent::stage::{StageError, StagedOut};

/// The text of an error that is the task's own fault.
fn own_fault<T: std::fmt::Debug>(result: Result<T, StageError>) -> String {
    match result {
        Err(StageError::Task(text) | StageError::Missing(text)) => text,
        other => panic!("should be the task's fault: {other:?}"),
    }
}

async fn staged_out(bench: &Bench) -> Result<StagedOut, StageError> {
    bench.stager.stage_out(&bench.plan()).await
}

#[tokio::test]
async fn a_link_out_of_the_storage_is_not_bound() {
    let Some(mut bench) = Bench::new() else { return };
    symlink("/etc", bench.storage().join("absolute")).unwrap();
    symlink("../data", bench.storage().join("upwards")).unwrap();
    for name in ["absolute", "upwards", "absolute/new/directory"] {
        bench.task.outputs = vec![output("/out/", &bench.url(name))];
        let text = own_fault(bench.stage_in().await);
        assert!(text.contains("outputs[0]") && text.contains("symbolic link"), "{text}");
    }
    assert!(bench.mounts().is_empty() && !Path::new("/etc/new").exists());
    bench.release().await.unwrap();
}

#[tokio::test]
async fn what_only_root_may_enter_is_not_bound() {
    let Some(mut bench) = Bench::new() else { return };
    // The inner directory is open to all, but nobody else gets there; nor by a link.
    bench.store("private/open/file", "secret");
    let private = bench.storage().join("private");
    std::fs::set_permissions(&private, PermissionsExt::from_mode(0o700)).unwrap();
    symlink("private/open", bench.storage().join("way-in")).unwrap();
    for name in ["private/open", "way-in", "private/new"] {
        bench.task.inputs = vec![input("/in/", &bench.url(name))];
        assert!(own_fault(bench.stage_in().await).contains("may not enter"), "{name}");
        bench.task.inputs.clear();
        bench.task.outputs = vec![output("/out/", &bench.url(name))];
        assert!(own_fault(bench.stage_in().await).contains("may not enter"), "{name}");
        bench.task.outputs.clear();
    }
    assert!(bench.mounts().is_empty() && !private.join("new").exists());
    bench.release().await.unwrap();
}

#[tokio::test]
async fn what_only_root_may_read_is_no_input() {
    let Some(mut bench) = Bench::new() else { return };
    bench.store("secret", "secret");
    std::fs::set_permissions(bench.storage().join("secret"), PermissionsExt::from_mode(0o600)).unwrap();
    bench.task.inputs = vec![input("/in/a", &bench.url("none")), input("/in/b", &bench.url("secret"))];
    let text = own_fault(bench.stage_in().await);
    assert!(text.contains("inputs[0]") && text.contains("no such file"), "{text}");
    bench.task.inputs.remove(0);
    let text = own_fault(bench.stage_in().await);
    assert!(text.contains("inputs[0]") && text.contains(&bench.url("secret")), "{text}");
    assert!(text.contains("may not read"), "{text}");
    // A link on the storage that leads to a file of the host leads nowhere in the task's view.
    symlink("/etc/shadow", bench.storage().join("shadow")).unwrap();
    bench.task.inputs = vec![input("/in/c", &bench.url("shadow"))];
    assert!(own_fault(bench.stage_in().await).contains("no such file"));
    bench.release().await.unwrap();
}

#[tokio::test]
async fn links_in_outputs_lead_where_the_task_could_go() {
    let Some(mut bench) = Bench::new() else { return };
    bench.store("secret", "secret");
    std::fs::set_permissions(bench.storage().join("secret"), PermissionsExt::from_mode(0o600)).unwrap();
    let names = ["shadow", "environ", "secret", "up", "fine"];
    let out = |name: &str| output(&format!("/work/{name}"), &bench.url(&format!("results/got-{name}")));
    bench.task.outputs = names.map(out).into();
    bench.stage_in().await.unwrap();
    bench.link("/etc/shadow", "/work/shadow");
    bench.link("/proc/1/environ", "/work/environ");
    bench.link(&bench.url("secret"), "/work/secret");
    bench.link("../../../../../../../etc/shadow", "/work/up");
    bench.write("/work/real", "fine");
    bench.link("/work/real", "/work/fine");
    let text = own_fault(staged_out(&bench).await);
    assert!(text.contains("outputs[2]") && text.contains("/work/secret"), "{text}");
    let got: Vec<_> = std::fs::read_dir(bench.storage().join("results"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(got, ["got-fine"]);
    bench.task.outputs.remove(2);
    let done = staged_out(&bench).await.unwrap();
    assert_eq!((done.files.len(), done.warnings.len()), (1, 3), "{done:?}");
    bench.release().await.unwrap();
}

#[tokio::test]
async fn what_is_no_file_is_left_out() {
    let Some(mut bench) = Bench::new() else { return };
    let out = |name: &str| output(&format!("/work/{name}"), &bench.url(&format!("results/got-{name}")));
    bench.task.outputs = ["fifo", "socket", "null"].map(out).into();
    bench.task.executors[0].stdin = Some(at("/work/fifo"));
    bench.stage_in().await.unwrap();
    let all = nix::sys::stat::Mode::from_bits_truncate(0o666);
    nix::unistd::mkfifo(&bench.on_host("/work/fifo"), all).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(bench.on_host("/work/socket")).unwrap();
    let null = nix::sys::stat::makedev(1, 3);
    nix::sys::stat::mknod(&bench.on_host("/work/null"), nix::sys::stat::SFlag::S_IFCHR, all, null).unwrap();
    let done = staged_out(&bench).await.unwrap();
    assert!(done.files.is_empty(), "{done:?}");
    for (warning, kind) in done.warnings.iter().zip(["a FIFO", "a socket", "a device"]) {
        assert!(warning.contains(kind), "{warning}");
    }
    assert_eq!(done.warnings.len(), 3);
    assert!(own_fault(bench.stager.capture_stdin(&bench.plan(), 0).await).contains("a FIFO"));
    bench.release().await.unwrap();
}

#[tokio::test]
async fn a_mount_point_that_the_task_replaced_is_not_followed() {
    let Some(mut bench) = Bench::new() else { return };
    bench.task.inputs = vec![content("/work/c", "c")];
    bench.task.outputs = vec![
        output("/work/a/b/", &bench.url("results")),
        output("/work/plain/passwd", &bench.url("plain/other-name")),
    ];
    bench.stage_in().await.unwrap();
    let (a, plain) = (bench.on_host("/work/a"), bench.on_host("/work/plain"));
    std::fs::rename(&plain, plain.with_file_name("moved")).unwrap();
    symlink("/etc", &plain).unwrap();
    let done = staged_out(&bench).await.unwrap();
    assert_eq!(done.warnings, ["output /work/plain/passwd was not found"]);
    std::fs::rename(&a, a.with_file_name("moved-too")).unwrap();
    for target in ["/etc", "moved-too", "/work/moved-too"] {
        symlink(target, &a).unwrap();
        let text = own_fault(staged_out(&bench).await);
        assert!(text.contains("/work/a/b was moved or replaced"), "{text}");
        std::fs::remove_file(&a).unwrap();
    }
    bench.release().await.unwrap();
    assert!(bench.storage().join("results").is_dir());
}

#[tokio::test]
async fn streams_are_installed_as_the_user_and_follow_nothing() {
    let Some(mut bench) = Bench::new() else { return };
    bench.store("locked/file", "theirs");
    std::fs::set_permissions(bench.storage().join("locked"), PermissionsExt::from_mode(0o755)).unwrap();
    bench.task.executors.push(bench.task.executors[0].clone());
    bench.task.executors[0].stdout = Some(at("/logs/out"));
    // Straight onto a directory of the storage that is not the user's.
    bench.task.executors[1].stdout = Some(at(&bench.url("locked/file")));
    bench.stage_in().await.unwrap();
    for name in ["0.stdout", "1.stdout"] {
        std::fs::write(bench.dir.logs().join(name), "captured").unwrap();
    }
    bench.link(&bench.url("locked/file"), "/logs/out");
    bench.stager.install_streams(&bench.plan(), 0).await.unwrap();
    assert_eq!(std::fs::read_to_string(bench.on_host("/logs/out")).unwrap(), "captured");
    assert_eq!(bench.read("locked/file"), "theirs");
    let text = own_fault(bench.stager.install_streams(&bench.plan(), 1).await);
    assert!(text.contains("executors[1].stdout") && text.contains("ermission denied"), "{text}");
    assert_eq!(bench.read("locked/file"), "theirs");
    bench.release().await.unwrap();
}

#[tokio::test]
async fn deleting_follows_no_link() {
    let Some(bench) = Bench::new() else { return };
    bench.store("precious/file", "x");
    bench.stage_in().await.unwrap();
    bench.link(&bench.url("precious"), "/tmp/link");
    bench.release().await.unwrap();
    assert_eq!(bench.read("precious/file"), "x");
}

#[tokio::test]
async fn a_directory_swapped_for_a_link_is_bound_or_refused_but_never_left() {
    let Some(mut bench) = Bench::new() else { return };
    bench.store("real/file", "mine");
    let (real, link) = (bench.storage().join("real"), bench.storage().join("link"));
    symlink("/etc", &link).unwrap();
    let right = std::fs::metadata(&real).unwrap().ino();
    bench.task.outputs = vec![output("/out/", &bench.url("real"))];
    let stop = Arc::new(AtomicBool::new(false));
    let swapping = std::thread::spawn({
        let stop = stop.clone();
        move || {
            while !stop.load(Ordering::Relaxed) {
                let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &real, nix::fcntl::AT_FDCWD, &link, flags)
                    .unwrap();
            }
        }
    });
    let (mut bound, mut refused) = (0, 0);
    for _ in 0..100 {
        match bench.stage_in().await {
            Ok(()) => {
                bound += 1;
                assert_eq!(std::fs::metadata(bench.on_host("/out")).unwrap().ino(), right);
            }
            Err(StageError::Task(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        bench.release().await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    swapping.join().unwrap();
    assert!(bound > 0 && refused > 0, "both were met: {bound} bound, {refused} refused");
}
