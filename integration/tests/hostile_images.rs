//! Images whose makers mean harm: what their configuration says beyond environment and working directory is
//! not obeyed, and links where the kernel's file systems are mounted lead nowhere outside. A task in such an
//! image runs as any other, or is refused with a reason; the host is afterwards as it was.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use serde_json::{Value, json};
use teamster_agent::runtime::image;
use teamster_integration::cluster::{Cluster, Marks, Options, eventually};
use teamster_integration::image::TestImage;
use teamster_integration::stand::Stand;

/// Prints what an image might have changed.
const LOOK: &str = "echo user $(id -u) $(id -g); echo at $(pwd); echo init $(cat /proc/1/comm 2>/dev/null)
    grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; head -n 1 /etc/passwd; echo end";

fn task(image: &str, script: &str) -> Value {
    json!({
        "name": image,
        "resources": {"cpu_cores": 1, "ram_gb": 0.0625, "disk_gb": 0.1},
        "executors": [{"image": image, "command": ["/bin/sh", "-c", script]}],
    })
}

async fn import(stand: &Stand, image: &TestImage) -> Result<(), String> {
    let archive = Cursor::new(image.oci_archive());
    image::import(&stand.containerd.socket(), archive).await.map(drop).map_err(|error| error.to_string())
}

/// Runs a task in the image; what it printed, or why it was refused.
async fn look(cluster: &Cluster, name: &str) -> Result<String, String> {
    let id = cluster.client.submit(&task(name, LOOK)).await;
    let ended = cluster.client.wait(&id).await;
    let log = &ended["logs"][0];
    match ended["state"].as_str().unwrap() {
        "COMPLETE" => Ok(log["logs"][0]["stdout"].as_str().unwrap().to_owned()),
        _ => Err(format!("{} {}", log["system_logs"], log["logs"])),
    }
}

/// A task that ran was confined like any other.
fn assert_confined(name: &str, printed: &str) {
    for line in ["user 65534 65534", "end"] {
        assert!(printed.lines().any(|found| found == line), "{name}: no '{line}' in:\n{printed}");
    }
    assert!(!printed.contains("root:$") && !printed.contains("root:*"), "{name} shows the host's shadow");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_configuration_is_obeyed_that_could_do_harm() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let image = |name: &str| TestImage::named(name);
    let users = [json!("root"), json!("0:0"), json!("4294967296"), json!("-1"), json!(":0"), json!("\u{0}")];
    let mut images: Vec<TestImage> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut add = |name: &str, change: &dyn Fn(TestImage) -> TestImage| {
        images.push(change(image(name)));
        names.push(name.to_owned());
    };
    for (index, user) in users.iter().enumerate() {
        add(&format!("user-{index}"), &|image| image.config_field("User", user.clone()));
    }
    for (index, volume) in ["/../../../etc", "/proc", "/", "\u{0}", "/bin"].iter().enumerate() {
        add(&format!("volume-{index}"), &|image| image.config_field("Volumes", json!({*volume: {}})));
    }
    let workdirs =
        ["/proc/self/fd/8", "/proc/self/cwd", "/dev/fd/3", "../../../etc", "/a/../../etc", "\u{0}"];
    for (index, workdir) in workdirs.iter().enumerate() {
        add(&format!("workdir-{index}"), &|image| image.workdir(workdir));
    }
    let entrypoint = json!(["/bin/sh", "-c", "echo owned\u{0}", "/proc/self/exe"]);
    add("entrypoint", &|image| image.config_field("Entrypoint", entrypoint.clone()));
    let stop = |image: TestImage| {
        let health = json!({"Test": ["CMD-SHELL", "touch /tmp/owned"]});
        image.config_field("StopSignal", json!("SIGSTOP")).config_field("Healthcheck", health)
    };
    add("stop-signal", &stop);
    let preload = |image: TestImage| {
        image
            .env("LD_PRELOAD=/evil.so")
            .env("BAD")
            .env("=nameless")
            .env("NUL=a\u{0}b")
            .env("LISTEN_FDS=99")
            .env("_OCI_STARTPIPE=1")
    };
    add("environment", &preload);
    for (name, image) in names.iter().zip(&images) {
        if let Err(reason) = import(&stand, image).await {
            // What matters to a task and is no good is told when the image is brought in.
            let place = name.starts_with("workdir") && reason.contains("working directory");
            assert!(place || name == "entrypoint" && reason.contains("entry point"), "{name}: {reason}");
            continue;
        }
        assert_ne!(name, "entrypoint", "an entry point with a NUL in it is refused when it is brought in");
        match look(&cluster, name).await {
            Ok(printed) => {
                assert_confined(name, &printed);
                let place = printed.lines().find(|line| line.starts_with("at ")).unwrap();
                assert!(!place.contains("proc") && !place.contains("dev"), "{name}: {printed}");
                assert!(printed.contains("NoNewPrivs:\t1") && printed.contains("Seccomp:\t2"), "{printed}");
            }
            // The only field of these that matters to a task is where it starts.
            Err(reason) => {
                assert!(name.starts_with("workdir"), "{name}: {reason}");
                assert!(reason.contains("working directory"), "{name}: {reason}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_of_ten_megabytes_is_refused_or_ignored() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let large = TestImage::named("large").config_field("User", json!("1".repeat(10 << 20)));
    match import(&stand, &large).await {
        Ok(()) => match look(&cluster, "large").await {
            Ok(printed) => assert_confined("large", &printed),
            Err(reason) => assert!(reason.contains("large"), "{reason}"),
        },
        Err(reason) => assert!(reason.contains("large"), "{reason}"),
    }
    // The node is well.
    import(&stand, &TestImage::named("small")).await.unwrap();
    assert_confined("small", &look(&cluster, "small").await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_containerd_would_obey_stay_in_the_image() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let marks = Marks::new(&cluster.shared());
    let owned = stand.dir().join("owned");
    let labels = json!({
        "containerd.io/restart.status": "running",
        "containerd.io/restart.loguri": format!("binary:///bin/touch?{}", owned.display()),
        "containerd.io/gc.root": "1",
        "io.containerd.runc.v2.group": "owned",
        "io.containerd.image.unpack": "owned",
        "org.systemd.property.ExecStart": "owned",
    });
    import(&stand, &TestImage::named("labels").config_field("Labels", labels)).await.unwrap();
    let id = cluster.client.submit(&task("labels", &marks.shell_gate("gate"))).await;
    cluster.client.wait_state(&id, "RUNNING").await;
    let info = eventually("the container to be there", async || {
        let output = Command::new("ctr")
            .arg("--address")
            .arg(stand.containerd.socket())
            .args(["--namespace", "teamster", "containers", "info", &format!("{id}-1-0")])
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    })
    .await;
    marks.open_gate("gate");
    assert_eq!(cluster.client.wait(&id).await["state"], "COMPLETE");
    let info: Value = serde_json::from_str(&info).unwrap();
    let names: Vec<&String> = info["Labels"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["teamster/attempt"], "{info:#}");
    assert!(!info.to_string().contains("owned"), "{info:#}");
    assert!(!owned.exists());
}

/// What of the host a bad link could have changed.
fn host() -> Vec<String> {
    let mut facts = Vec::new();
    for path in ["/etc/passwd", "/etc/shadow", "/etc/hosts", "/dev/null", "/dev", "/proc", "/tmp"] {
        let found = fs::metadata(path).unwrap();
        facts.push(format!("{path} {:o} {} {} {}", found.mode(), found.uid(), found.dev(), found.ino()));
    }
    let outside = ["/etc", "/dev", "/proc", "/bin", "/usr", "/root"];
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    facts
        .extend(points.filter(|point| outside.iter().any(|path| point.starts_with(path))).map(str::to_owned));
    facts
}

#[tokio::test(flavor = "multi_thread")]
async fn links_in_the_place_of_mounts_lead_nowhere() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let before = host();
    let far = "../../../../../../../../../../../..";
    let links = [
        ("dev", "/"),
        ("dev", "proc"),
        ("dev", &format!("{far}/dev")),
        ("proc", "/"),
        ("proc", "/tmp"),
        ("proc", &format!("{far}/proc")),
        ("sys", "/"),
        ("sys", "proc"),
        ("tmp", "/"),
        ("tmp", "/proc/self/fd"),
        ("tmp", &format!("{far}/tmp")),
        ("etc", "/"),
        ("etc", "/proc/1/root/etc"),
        ("etc", &format!("{far}/etc")),
        ("etc/passwd", &format!("{far}/etc/shadow")),
        ("etc/passwd", "/proc/self/environ"),
        ("etc/hosts", &format!("{far}/etc/hosts")),
        ("etc/resolv.conf", "/dev/null"),
        ("home", "/proc/1/root"),
        ("root", "/"),
    ];
    for (index, (path, target)) in links.iter().enumerate() {
        let name = format!("link-{index}");
        let what = format!("{path} → {target}");
        import(&stand, &TestImage::named(&name).link(path, target)).await.unwrap();
        match look(&cluster, &name).await {
            Ok(printed) => {
                println!("{what}: runs");
                assert_confined(&what, &printed);
            }
            Err(reason) => {
                println!("{what}: {reason}");
                assert!(reason.contains("cannot be used: '/"), "{what}: {reason}");
            }
        }
        assert_eq!(host(), before, "{what} changed the host");
    }
    // And the node goes on.
    import(&stand, &TestImage::named("honest")).await.unwrap();
    assert_confined("honest", &look(&cluster, "honest").await.unwrap());
}
