//! Images: from archives of both forms into containerd, and from references to what containers are made of.

use std::io::Cursor;

use teamster_agent::runtime::{Containerd, Runtime, RuntimeError, image};
use teamster_integration::containerd::{PrivateContainerd, can_run_containers};
use teamster_integration::image::TestImage;

use crate::stand::Stand;

#[tokio::test]
async fn archives_of_both_forms_are_imported_and_run() {
    let Some(stand) = Stand::new().await else { return };
    let socket = stand.containerd.socket();
    let oci = TestImage::named("quay.io/lab/tool:1.2").env("A=oci").workdir("/tmp");
    let docker = TestImage::named("lab/tool:7").env("A=docker");
    let imported = image::import(&socket, Cursor::new(oci.oci_archive())).await.unwrap();
    assert_eq!(imported.len(), 1);
    assert_eq!(imported[0].name, "quay.io/lab/tool:1.2");
    let imported = image::import(&socket, Cursor::new(docker.docker_archive())).await.unwrap();
    assert_eq!(imported[0].name, "docker.io/lab/tool:7");

    let names: Vec<String> =
        image::list(&socket).await.unwrap().into_iter().map(|image| image.name).collect();
    assert_eq!(names, ["docker.io/lab/tool:7", "docker.io/library/busybox:latest", "quay.io/lab/tool:1.2"]);
    let stored = image::list(&socket).await.unwrap();
    assert!(stored.iter().all(|image| image.size_bytes > 500_000), "{stored:?}");

    for (reference, env) in [("docker://quay.io/lab/tool:1.2", "A=oci"), ("lab/tool:7", "A=docker")] {
        let found = stand.runtime.image(reference).await.unwrap();
        assert!(found.env.iter().any(|entry| entry == env), "{found:?}");
        let mut spec = stand.shell("echo it runs").await;
        spec.image = found;
        assert_eq!(stand.run(&spec).await.stdout, "it runs\n");
    }
    let found = stand.runtime.image("quay.io/lab/tool:1.2").await.unwrap();
    assert_eq!(found.workdir.unwrap().as_str(), "/tmp");
}

#[tokio::test]
async fn an_image_outlives_the_lease_of_its_import() {
    let Some(mut stand) = Stand::new().await else { return };
    stand.containerd.restart();
    let ctr = |words: &[&str]| {
        std::process::Command::new("ctr")
            .arg("--address")
            .arg(stand.containerd.socket())
            .args(["--namespace", "teamster"])
            .args(words)
            .output()
            .unwrap()
    };
    // Deleting a lease in this way runs the garbage collector to its end.
    assert!(ctr(&["leases", "create", "--id", "collect"]).status.success());
    assert!(ctr(&["leases", "delete", "--sync", "collect"]).status.success());
    assert_eq!(stand.say("echo alive").await, "alive\n");
}

#[tokio::test]
async fn a_name_moves_to_the_newer_image() {
    let Some(stand) = Stand::new().await else { return };
    let before = stand.runtime.image("busybox").await.unwrap();
    let newer = TestImage::named("busybox").env("NEWER=yes");
    image::import(&stand.containerd.socket(), Cursor::new(newer.oci_archive())).await.unwrap();
    let after = stand.runtime.image("busybox").await.unwrap();
    assert_ne!(before.digest, after.digest);
    assert!(after.env.contains(&"NEWER=yes".to_owned()));
    assert_eq!(before.chain_id, after.chain_id, "the layers are the same");
}

#[tokio::test]
async fn an_image_that_is_not_unpacked_is_unpacked_when_it_is_wanted() {
    if !can_run_containers() {
        return;
    }
    let containerd = PrivateContainerd::start();
    let runtime = Containerd::connect(&containerd.socket());
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("image.tar");
    std::fs::write(&file, TestImage::named("docker.io/library/raw:1").oci_archive()).unwrap();
    let status = std::process::Command::new("ctr")
        .arg("--address")
        .arg(containerd.socket())
        .args(["--namespace", "teamster", "images", "import", "--no-unpack"])
        .arg(&file)
        .status()
        .unwrap();
    assert!(status.success());
    let (first, second) = tokio::join!(runtime.image("raw:1"), runtime.image("raw:1"));
    assert_eq!(first.unwrap(), second.unwrap());
}

#[tokio::test]
async fn what_is_not_there_or_no_good_is_said() {
    let Some(stand) = Stand::new().await else { return };
    let missing = stand.runtime.image("no-such-image").await;
    assert!(matches!(missing, Err(RuntimeError::ImageNotFound { .. })), "{missing:?}");
    for odd in ["", "Not A Name", "a:b:c"] {
        let result = stand.runtime.image(odd).await;
        assert!(matches!(result, Err(RuntimeError::ImageUnusable { .. })), "{odd}: {result:?}");
    }
}

#[tokio::test]
async fn bad_archives_are_refused_and_leave_nothing() {
    let Some(stand) = Stand::new().await else { return };
    let socket = stand.containerd.socket();
    let before = blobs(&stand);
    let good = TestImage::named("bad/one:1").env("X=y").oci_archive();
    let truncated = good[..good.len() / 2].to_vec();
    let text = |archive: Vec<u8>, from: &str, to: &str| {
        let at = archive.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
        let mut archive = archive;
        archive[at..at + to.len()].copy_from_slice(to.as_bytes());
        archive
    };
    let damaged = text(good.clone(), "\"X=y\"", "\"X=z\"");
    let unnamed = text(good.clone(), "io.containerd.image.name", "io.containerd.image.nome");
    let misnamed = text(good.clone(), "bad/one:1", "BAD/one:1");
    let missing =
        text(TestImage::named("bad/two:1").docker_archive(), "[\"one/layer.tar\"]", "[\"two/layer.tar\"]");
    for (what, archive, words) in [
        ("nothing", Vec::new(), "index.json"),
        ("text", b"this is no archive, whatever the name of the file says".repeat(40).to_vec(), "tar"),
        ("gzip", vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0], "decompress"),
        ("truncated", truncated, ""),
        ("damaged", damaged, "damaged"),
        ("unnamed", unnamed, "called"),
        ("misnamed", misnamed, "BAD"),
        ("missing layer", missing, "two/layer.tar"),
    ] {
        let error = image::import(&socket, Cursor::new(archive)).await.expect_err(what).to_string();
        assert!(error.contains(words), "{what}: {error}");
    }
    assert_eq!(image::list(&socket).await.unwrap().len(), 1);
    assert_eq!(blobs(&stand), before, "the garbage collector took what was stored");
    assert!(stand.runtime_is_empty().await);
}

/// Digests in the content store.
fn blobs(stand: &Stand) -> Vec<String> {
    let output = std::process::Command::new("ctr")
        .arg("--address")
        .arg(stand.containerd.socket())
        .args(["--namespace", "teamster", "content", "list", "--quiet"])
        .output()
        .unwrap();
    let mut blobs: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    blobs.sort_unstable();
    blobs
}
