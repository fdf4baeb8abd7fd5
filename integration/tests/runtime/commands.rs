//! Commands as their users see them: exit codes, streams, environment, working directory.

use std::fs;

use teamster_agent::runtime::{Bind, Runtime, RuntimeError, Signal};
use teamster_integration::image::TestImage;
use teamster_values::AbsolutePath;

use crate::stand::{IMAGE, Stand};

#[tokio::test]
async fn exit_codes_are_exact() {
    let Some(stand) = Stand::new().await else { return };
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill $$", 143),
        ("kill -SEGV $$", 139),
    ] {
        let spec = stand.shell(script).await;
        let ended = stand.run(&spec).await;
        assert_eq!((ended.exit.code, ended.exit.out_of_memory), (code, false), "{script}");
    }
    assert!(stand.runtime.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_kill_from_outside_is_137_and_not_memory() {
    let Some(stand) = Stand::new().await else { return };
    let spec = stand.shell("sleep 1000").await;
    stand.start(&spec).await.unwrap();
    stand.runtime.signal(spec.id, Signal::Kill).await.unwrap();
    let exit = stand.wait(&spec).await.unwrap();
    assert_eq!((exit.code, exit.out_of_memory), (137, false));
    stand.remove(&spec).await;
}

#[tokio::test]
async fn streams_are_kept_apart_and_whole() {
    let Some(stand) = Stand::new().await else { return };
    let ended = stand.run(&stand.shell("echo out; echo err >&2; seq 1 200000; printf last").await).await;
    assert_eq!(ended.stderr, "err\n");
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 200_002);
    assert_eq!((lines[0], lines[200_000], lines[200_001]), ("out", "200000", "last"));
    // Programs open these by name too, as the task's user.
    let ended = stand.run(&stand.shell("echo a > /dev/stdout; echo b > /dev/stderr").await).await;
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("a\n", "b\n"));
}

#[tokio::test]
async fn what_a_command_leaves_running_has_its_last_words_and_no_more() {
    let Some(stand) = Stand::new().await else { return };
    // As the script of an engine does: it does not wait for what writes its output.
    let words = "(sleep 0.3; echo last) & (while :; do sleep 1000; done) & exit 7";
    let ended = stand.run(&stand.shell(words).await).await;
    assert_eq!((ended.exit.code, ended.stdout.as_str()), (7, "last\n"));
}

#[tokio::test]
async fn standard_input_is_fed_and_ends() {
    let Some(stand) = Stand::new().await else { return };
    for size in [0, 5, 3_000_000] {
        let mut spec = stand.shell("cat; echo; echo done").await;
        let file = stand.home.path().join(format!("stdin-{size}"));
        let content = "x".repeat(size);
        fs::write(&file, &content).unwrap();
        spec.stdin = Some(file.clone());
        let ended = stand.run(&spec).await;
        assert_eq!(ended.stdout, format!("{content}\ndone\n"), "{size} bytes");
        assert_eq!(fs::read_to_string(&file).unwrap(), content, "the file is only read");
    }
    // Who does not read does not hang anything.
    let mut spec = stand.shell("exit 3").await;
    let file = stand.home.path().join("unread");
    fs::write(&file, "x".repeat(3_000_000)).unwrap();
    spec.stdin = Some(file);
    assert_eq!(stand.run(&spec).await.exit.code, 3);
    assert_eq!(stand.say("cat; echo nothing").await, "nothing\n");
}

#[tokio::test]
async fn environment_is_exactly_what_was_given() {
    let Some(stand) = Stand::with(TestImage::named(IMAGE).env("FROM_IMAGE=1")).await else { return };
    let mut spec = stand.container(&["/bin/env"]).await;
    assert_eq!(spec.image.env, ["PATH=/bin", "FROM_IMAGE=1"]);
    spec.env = vec!["PATH=/bin".into(), "A=b c=d".into(), "UMLAUT=ä".into(), "HOME=/tmp".into()];
    let ended = stand.run(&spec).await;
    let mut lines: Vec<&str> = ended.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=b c=d", "HOME=/tmp", "PATH=/bin", "UMLAUT=ä"]);
}

#[tokio::test]
async fn arguments_are_exact() {
    let Some(stand) = Stand::new().await else { return };
    let ended = stand.run(&stand.container(&["printf", "%s|", "a b", "$HOME", "", "'", "ü"]).await).await;
    assert_eq!(ended.stdout, "a b|$HOME||'|ü|");
}

#[tokio::test]
async fn a_missing_workdir_becomes_scratch_and_one_of_the_image_stays() {
    let Some(stand) = Stand::with(TestImage::named(IMAGE).directory("has/inner").workdir("/has")).await
    else {
        return;
    };
    let mut spec = stand.shell("pwd; echo made > here; cat here; touch /has/x || echo read-only").await;
    spec.workdir = AbsolutePath::parse("/new/deep").unwrap();
    let ended = stand.run(&spec).await;
    assert_eq!(ended.stdout, "/new/deep\nmade\nread-only\n", "{}", ended.stderr);
    assert_eq!(fs::read_to_string(spec.workdir_scratch.join("here")).unwrap(), "made\n");

    let mut spec = stand.shell("pwd; ls").await;
    spec.workdir = spec.image.workdir.clone().unwrap();
    assert_eq!(stand.run(&spec).await.stdout, "/has\ninner\n");

    let bound = stand.directory("bound");
    fs::create_dir(bound.join("sub")).unwrap();
    let mut spec = stand.shell("pwd").await;
    spec.workdir = AbsolutePath::parse("/data/sub").unwrap();
    spec.binds.push(Bind {
        source: bound,
        destination: AbsolutePath::parse("/data").unwrap(),
        read_only: false,
        follows_mounts: false,
    });
    assert_eq!(stand.run(&spec).await.stdout, "/data/sub\n");
}

#[tokio::test]
async fn an_unusable_command_is_the_users_error() {
    let Some(stand) = Stand::with(TestImage::named(IMAGE).directory("has")).await else { return };
    let cases = [
        ("no-such-program", "/", "no-such-program"),
        ("/no/such/program", "/", "no such file or directory"),
        ("/bin/not-executable", "/", "permission denied"),
        ("/has", "/", "/has"),
        ("true", "/bin/busybox", "not a directory"),
        ("true", "/proc/self/fd/7", "belongs to the kernel"),
    ];
    for (command, workdir, words) in cases {
        let mut spec = stand.container(&[command]).await;
        spec.workdir = AbsolutePath::parse(workdir).unwrap();
        let ended = match stand.start(&spec).await {
            Ok(()) => stand.wait(&spec).await.map(drop),
            refused => refused,
        };
        match ended {
            Err(RuntimeError::CommandUnusable(reason)) => {
                assert!(reason.contains(words), "{command} in {workdir}: {reason}");
                assert!(!reason.contains("runc"), "only the useful part: {reason}");
            }
            other => panic!("{command} in {workdir}: {other:?}"),
        }
        stand.remove(&spec).await;
    }
    assert!(stand.runtime_is_empty().await);
}
