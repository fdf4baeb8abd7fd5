//! Tasks in images that lack what others have, or have something else in its place: they run, or end with a
//! reason that says what is wrong with the image, and the node is never at fault.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::io::Cursor;

use serde_json::{Value, json};
use teamster_agent::runtime::image;
use teamster_integration::cluster::{Cluster, Options};
use teamster_integration::odd_image::OddImage;
use teamster_integration::stand::Stand;

/// Runs a script in the image; the whole task when it has ended.
async fn run(stand: &Stand, cluster: &Cluster, odd: OddImage, name: &str, executor: Value) -> Value {
    image::import(&stand.containerd.socket(), Cursor::new(odd.oci_archive())).await.unwrap();
    let mut whole = json!({"image": name, "command": ["/busybox", "sh", "-c", "true"]});
    for (key, value) in executor.as_object().unwrap() {
        whole[key] = value.clone();
    }
    let task = json!({"name": name, "executors": [whole], "resources": {"ram_gb": 0.0625, "disk_gb": 0.1}});
    let id = cluster.client.submit(&task).await;
    cluster.client.wait(&id).await
}

fn script(text: &str) -> Value {
    json!({"command": ["/busybox", "sh", "-c", text]})
}

fn stdout(task: &Value) -> &str {
    assert_eq!(task["state"], "COMPLETE", "{task:#}");
    task["logs"][0]["logs"][0]["stdout"].as_str().unwrap()
}

const WRITES: &str = "b=/busybox; echo made > /tmp/x && echo made > /var/tmp/x && echo made > $HOME/x && $b cat /tmp/x; \
                      $b id -un; $b hostname > /dev/null && echo $HOME";

#[tokio::test(flavor = "multi_thread")]
async fn what_an_image_lacks_is_there_all_the_same() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let expected = "made\nteamster\n/home/task\n";
    let with_name = |name: &str| OddImage::named(&format!("docker.io/odd/{name}:latest"));
    let cases = [
        ("scratch", with_name("scratch")),
        ("closed-tmp", with_name("closed-tmp").directory("tmp", 0o755).directory("var/tmp", 0o700)),
        ("tmp-is-a-link", with_name("tmp-is-a-link").directory("real", 0o755).link("tmp", "real")),
        ("tmp-leads-out", with_name("tmp-leads-out").link("tmp", "/../../../../nowhere/at/all")),
        (
            "passwd-is-a-link",
            with_name("passwd-is-a-link")
                .directory("etc", 0o755)
                .directory("private", 0o755)
                .file(b"private/passwd", "root:x:0:0:root:/root:/bin/sh\n")
                .link("etc/passwd", "/private/passwd"),
        ),
        (
            "passwd-leads-nowhere",
            with_name("passwd-leads-nowhere").directory("etc", 0o755).link("etc/passwd", "/not/there"),
        ),
        (
            "passwd-leads-out",
            with_name("passwd-leads-out").directory("etc", 0o755).link("etc/passwd", "../../../etc/shadow"),
        ),
    ];
    for (name, odd) in cases {
        let task = run(&stand, &cluster, odd, &format!("odd/{name}"), script(WRITES)).await;
        assert_eq!(stdout(&task), expected, "{name}");
    }
    let shadow = std::fs::read_to_string("/etc/shadow").unwrap_or_default();
    assert!(!shadow.contains("teamster"), "no link leads out of the image");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_directory_may_be_anything_but_a_file() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let with_name = |name: &str| OddImage::named(&format!("docker.io/odd/{name}:latest"));
    let script = || script("echo x > here; /busybox cat here; /busybox pwd -P");
    let lacks = with_name("lacks").config("WorkingDir", json!("/made/for/it"));
    assert_eq!(stdout(&run(&stand, &cluster, lacks, "odd/lacks", script()).await), "x\n/made/for/it\n");
    let link =
        with_name("link").directory("real", 0o777).link("work", "real").config("WorkingDir", json!("/work"));
    let task = run(&stand, &cluster, link, "odd/link", json!({"command": ["/busybox", "pwd", "-P"]})).await;
    assert_eq!(stdout(&task), "/real\n");
    let dangling = with_name("dangling").link("work", "/not/there").config("WorkingDir", json!("/work"));
    assert_eq!(stdout(&run(&stand, &cluster, dangling, "odd/dangling", script()).await), "x\n/not/there\n");
    // Directories that an image hides where the kernel's file systems will be mounted.
    let hidden = with_name("hidden")
        .directory("proc/self/fd/7", 0o755)
        .link("work", "/proc/self/fd/7")
        .config("WorkingDir", json!("/work"));
    let task = run(&stand, &cluster, hidden, "odd/hidden", json!({})).await;
    assert_eq!(task["state"], "EXECUTOR_ERROR", "{task:#}");
    assert!(task["logs"][0]["system_logs"].to_string().contains("belongs to the kernel"), "{task:#}");
    for (name, workdir) in
        [("file", "/busybox"), ("kernel", "/proc/self/fd/7"), ("below-a-file", "/busybox/x")]
    {
        let odd = with_name(name).config("WorkingDir", json!(workdir));
        let task = run(&stand, &cluster, odd, &format!("odd/{name}"), json!({})).await;
        // The kernel's trees are not obeyed: such a task runs at the root.
        let expected = if name == "kernel" { "COMPLETE" } else { "EXECUTOR_ERROR" };
        assert_eq!(task["state"], expected, "{name}: {task:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_which_nothing_can_be_mounted_is_its_own_fault() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let with_name = |name: &str| OddImage::named(&format!("docker.io/odd/{name}:latest"));
    let cases = [
        ("tmp-is-a-file", with_name("tmp-is-a-file").file(b"tmp", "")),
        ("etc-is-a-file", with_name("etc-is-a-file").file(b"etc", "")),
        ("passwd-is-a-directory", with_name("passwd-is-a-directory").directory("etc/passwd", 0o755)),
        ("proc-is-a-link", with_name("proc-is-a-link").directory("real", 0o755).link("proc", "/real")),
        ("proc-is-a-file", with_name("proc-is-a-file").file(b"proc", "")),
        ("dev-is-a-file", with_name("dev-is-a-file").file(b"dev", "")),
        ("tmp-is-a-loop", with_name("tmp-is-a-loop").link("tmp", "tmp")),
    ];
    for (name, odd) in cases {
        let task = run(&stand, &cluster, odd, &format!("odd/{name}"), json!({})).await;
        let log = &task["logs"][0];
        assert_eq!(log["metadata"]["reason"], "IMAGE_UNUSABLE", "{name}: {task:#}");
        assert_eq!(task["state"], "SYSTEM_ERROR", "{name}");
        assert_eq!(task["logs"].as_array().unwrap().len(), 1, "{name}: it is not tried again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_no_text_and_many_layers() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let mut odd = OddImage::named("docker.io/odd/deep:latest")
        .directory("many", 0o755)
        .file(b"many/caf\xe9", "latin")
        .file(b"many/\xff\xfe\x01", "none")
        .config("Entrypoint", json!(["/busybox", "sh", "-c"]));
    for number in 0..90 {
        odd =
            odd.layer().file(format!("many/{number}").as_bytes(), "x").file(b"many/top", &number.to_string());
    }
    let text = "b=/busybox; $b ls /many | $b wc -l; $b cat /many/top /many/caf?; $b printf '\\351\\n'";
    let task = run(&stand, &cluster, odd, "odd/deep", script(text)).await;
    assert_eq!(stdout(&task), "93\n89latin\u{fffd}\n");

    let task = json!({"executors": [{"image": "odd/deep", "command": ["echo $0 $1; exit 0", "a", "b"]}],
                      "resources": {"ram_gb": 0.0625, "disk_gb": 0.1, "backend_parameters": {"entrypoint": "image"}}});
    let id = cluster.client.submit(&task).await;
    assert_eq!(stdout(&cluster.client.wait(&id).await), "a b\n");
}
