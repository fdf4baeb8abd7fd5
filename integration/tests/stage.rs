//! Staging for real: the staging child is the program itself, run as root, with real mounts. Containers are
//! not needed; the tests play the task by writing, as the task's user, where the container would. Attacks on
//! staging are in `stage/attacks.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a bench stops at what fails, and says what it skips"
)]

#[path = "stage/attacks.rs"]
mod attacks;
#[path = "stage/bench.rs"]
mod bench;
#[path = "stage/kills.rs"]
mod kills;

use std::os::unix::fs::MetadataExt;

use bench::{Bench, UID, content, input, matching, output};
use teamster_agent::attempt_dir::AttemptDir;
use teamster_agent::stage::StageError;

#[tokio::test]
async fn a_bound_directory_is_the_storage_itself() {
    let Some(mut bench) = Bench::new() else { return };
    bench.store("data/in.txt", "input");
    bench.store("call/execution/script", "#!/bin/sh");
    let inside = |name: &str| format!("/ce/call/{name}");
    bench.task.inputs = vec![
        input(&inside("inputs/in.txt"), &bench.url("data/in.txt")),
        input(&inside("execution/script"), &bench.url("call/execution/script")),
    ];
    bench.task.outputs = ["rc", "stdout", "script", "sub/x", "optional"]
        .map(|name| {
            output(&inside(&format!("execution/{name}")), &bench.url(&format!("call/execution/{name}")))
        })
        .into();
    bench.task.executors[0].stdout = Some(bench::at(&inside("execution/stdout")));
    bench.stage_in().await.unwrap();

    let script = bench.on_host(&inside("execution/script"));
    assert_eq!(std::fs::metadata(&script).unwrap().ino(), bench.stored("call/execution/script").ino());
    let link = std::fs::read_link(bench.on_host(&inside("inputs/in.txt"))).unwrap();
    assert_eq!(link, bench.storage().join("data/in.txt"));
    assert_eq!(bench.stored("call/execution/sub").uid(), UID, "parents of outputs are the task's user's");

    // What Cromwell's script does: it tees to the file that the stream is captured for, and renames.
    bench.write(&inside("execution/stdout"), "part of it");
    bench.write(&inside("execution/rc.tmp"), "0");
    let rc = bench.on_host(&inside("execution/rc"));
    std::fs::rename(bench.on_host(&inside("execution/rc.tmp")), rc).unwrap();
    bench.write(&inside("execution/sub/x"), "12345");
    bench.captured("stdout", "all of it");
    bench.stager.install_streams(&bench.plan(), 0).await.unwrap();
    let done = bench.stager.stage_out(&bench.plan()).await.unwrap();
    assert_eq!(bench.read("call/execution/stdout"), "all of it");
    assert_eq!(bench.stored("call/execution/stdout").uid(), UID);
    assert_eq!(bench.read("call/execution/rc"), "0");
    let sizes: Vec<_> = done.files.iter().map(|file| file.size_bytes).collect();
    assert_eq!(sizes, [1, 9, 9, 5]);
    assert_eq!(done.warnings, [format!("output {} was not found", inside("execution/optional"))]);

    assert!(!bench.mounts().is_empty());
    bench.release().await.unwrap();
    assert!(bench.mounts().is_empty());
    assert_eq!(bench.read("call/execution/script"), "#!/bin/sh", "nothing is deleted through a mount");
    assert!(bench.dir.logs().is_dir() && !bench.dir.scratch().exists());
}

#[tokio::test]
async fn scratch_is_filled_and_emptied_by_copies() {
    let Some(mut bench) = Bench::new() else { return };
    bench.store("data/reads.fq", "ACGT");
    bench.store("data/more/deep/file", "x");
    bench.task.inputs = vec![
        input("/work/reads.fq", &bench.url("data/reads.fq")),
        input("/work/more/", &bench.url("data/more")),
        content("/work/run.sh", "#!/bin/sh\n"),
        content("/tmp/run.sh", "#!/bin/sh\n"),
    ];
    bench.task.outputs = vec![
        output("/work/out.bam", &bench.url("results/deep/er/out.bam")),
        output("/work/qc/", &format!("file://{}/", bench.url("results/q c").replace(' ', "%20"))),
        output("/work/reads.fq", &bench.url("data/reads.fq")),
        output("/work/none", &bench.url("results/none")),
    ];
    bench.task.executors[0].stdin = Some(bench::at("/work/reads.fq"));
    bench.task.executors[0].stderr = Some(bench::at("/logs/deep/err"));
    bench.stage_in().await.unwrap();
    bench.stager.capture_stdin(&bench.plan(), 0).await.unwrap();
    assert_eq!(std::fs::read_to_string(bench.dir.stdin(0)).unwrap(), "ACGT");
    for script in ["/work/run.sh", "/tmp/run.sh"] {
        let script = std::fs::metadata(bench.on_host(script)).unwrap();
        assert_eq!((script.uid(), script.mode() & 0o7777), (UID, 0o755));
    }
    assert_eq!(std::fs::metadata(bench.on_host("/tmp")).unwrap().mode() & 0o7777, 0o1777);
    assert!(bench.on_host("/work/more/deep").is_dir());

    let before = bench.stored("data/reads.fq");
    bench.write("/work/out.bam", "BAM");
    bench.write("/work/qc/a b/report", "fine");
    bench.make_directory("/work/qc/empty");
    bench.captured("stderr", "oops");
    bench.stager.install_streams(&bench.plan(), 0).await.unwrap();
    assert_eq!(std::fs::read_to_string(bench.on_host("/logs/deep/err")).unwrap(), "oops");
    let done = bench.stager.stage_out(&bench.plan()).await.unwrap();
    assert_eq!(bench.read("results/deep/er/out.bam"), "BAM");
    assert_eq!(bench.stored("results/deep/er").uid(), UID);
    assert_eq!(bench.stored("results/deep/er/out.bam").uid(), UID);
    assert!(bench.stored("results/q c/empty").is_dir());
    assert_eq!(bench.stored("data/reads.fq").ino(), before.ino(), "a file is not copied onto itself");
    let qc = done.files.iter().find(|file| file.path == "/work/qc/a b/report").unwrap();
    assert!(qc.url.starts_with("file:///") && qc.url.ends_with("/q%20c/a%20b/report"), "{}", qc.url);
    assert_eq!((done.files.len(), done.warnings.len()), (3, 1));
    let names = std::fs::read_dir(bench.storage().join("results/deep/er")).unwrap().count();
    assert_eq!(names, 1, "no temporary file is left");
    bench.release().await.unwrap();
}

#[tokio::test]
async fn wildcards_are_matched_as_the_task_sees_them() {
    let Some(mut bench) = Bench::new() else { return };
    bench.task.outputs = vec![
        matching("/work/part-?/*.txt", "/work", &bench.url("results/deep")),
        matching("/work/none/*", "/work", &bench.url("results")),
        matching("/bound/[a-c]*", "/bound", &bench.url("run")),
    ];
    bench.stage_in().await.unwrap();
    bench.write("/work/part-1/a b.txt", "one");
    bench.write("/work/part-2/whole.txt/in", "two");
    bench.write("/work/part-2/.hidden.txt", "no");
    bench.write("/work/part-10/a.txt", "no");
    bench.write("/work/secret/x.txt", "no");
    bench.link("/work/secret/x.txt", "/work/part-1/link.txt");
    bench.link("/etc", "/work/part-1/etc.txt");
    bench.write("/bound/b", "here");
    let before = bench.stored("run/b");
    let done = bench.stager.stage_out(&bench.plan()).await.unwrap();
    assert_eq!(bench.read("results/deep/part-1/a b.txt"), "one");
    assert_eq!(bench.stored("results/deep/part-1/a b.txt").uid(), UID);
    assert_eq!(bench.read("results/deep/part-2/whole.txt/in"), "two");
    assert_eq!(bench.stored("run/b").ino(), before.ino(), "a bound directory needs no copy");
    let files: Vec<_> = done.files.iter().map(|file| file.path.as_str()).collect();
    let expected = ["/work/part-1/a b.txt", "/work/part-1/link.txt", "/work/part-2/whole.txt/in", "/bound/b"];
    assert_eq!(files, expected);
    assert_eq!(done.files[3].url, bench.url("run/b"));
    let warnings = done.warnings.join("\n");
    assert!(warnings.contains("etc.txt was left out") && warnings.contains("nothing matches"), "{warnings}");
    assert_eq!(done.warnings.len(), 2);
    bench.release().await.unwrap();
}

#[tokio::test]
async fn steps_may_be_done_again() {
    let Some(mut bench) = Bench::new() else { return };
    bench.store("a/in", "x");
    bench.task.inputs = vec![input("/in/in", &bench.url("a/in")), content("/in/c", "c")];
    bench.task.outputs = vec![output("/out/o", &bench.url("b/o")), output("/two/", &bench.url("c"))];
    bench.stage_in().await.unwrap();
    let mounts = bench.mounts();
    assert_eq!(mounts.len(), 2);
    bench.stage_in().await.unwrap();
    assert_eq!(bench.mounts(), mounts, "a pin is made once");
    bench.write("/out/o", "o");
    for _ in 0..2 {
        assert_eq!(bench.stager.stage_out(&bench.plan()).await.unwrap().files.len(), 1);
    }
    for _ in 0..2 {
        bench.release().await.unwrap();
    }
    assert!(bench.mounts().is_empty());
    assert_eq!(bench.read("b/o"), "o");
}

#[tokio::test]
async fn a_task_without_files_starts_no_child() {
    let Some(mut bench) = Bench::new() else { return };
    bench.stager = teamster_agent::stage::Stager::new("/nonexistent".into());
    bench.stage_in().await.unwrap();
    assert_eq!(std::fs::metadata(bench.on_host("/var/tmp")).unwrap().uid(), UID);
    bench.stager.capture_stdin(&bench.plan(), 0).await.unwrap();
    bench.stager.install_streams(&bench.plan(), 0).await.unwrap();
    bench.stager.stage_out(&bench.plan()).await.unwrap();
    bench.release().await.unwrap();
    bench.task.inputs = vec![content("/in/c", "c")];
    assert!(matches!(bench.stage_in().await, Err(StageError::Node(_))), "with files it needs one");
    bench.release().await.unwrap();
}

#[tokio::test]
async fn what_is_still_mounted_is_not_deleted() {
    let Some(bench) = Bench::new() else { return };
    bench.store("precious", "x");
    bench.stage_in().await.unwrap();
    let stray = bench.on_host("/tmp").join("stray");
    std::fs::create_dir(&stray).unwrap();
    bench::bind(&bench.storage(), &stray);
    let refused = bench.release().await;
    bench::unmount(&stray);
    assert!(matches!(&refused, Err(StageError::Node(text)) if text.contains("still mounted")), "{refused:?}");
    assert_eq!(bench.read("precious"), "x");
    bench.release().await.unwrap();
    let nowhere = AttemptDir::new(std::path::Path::new("/nonexistent"), bench.task.id);
    bench.stager.release(&nowhere).await.unwrap();
}

#[tokio::test]
async fn the_health_of_a_directory_is_told() {
    use teamster_agent::storage::{DirectoryMounter, Health, Mounter};
    let Some(bench) = Bench::new() else { return };
    let mounter = DirectoryMounter::new(bench::program());
    let mut storage = bench.config[0].clone();
    mounter.ensure(&storage).await.unwrap();
    assert_eq!(mounter.health(&storage).await, Health::Ok);
    storage.path = storage.path.join("none").unwrap();
    assert_eq!(mounter.health(&storage).await, Health::Stale);
    assert!(mounter.ensure(&storage).await.unwrap_err().to_string().contains("does not exist"));
}
