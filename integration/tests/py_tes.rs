//! py-tes of both generations, as scripts and engines use it, against the whole system.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use teamster_integration::cluster::Options;
use teamster_integration::pypi::{self, Environment};
use teamster_integration::stand::{IMAGE, Stand};

async fn run(version: &str) {
    // Old versions forget to say that they need six.
    let Some(environment) = Environment::with(
        &format!("py-tes-{version}"),
        &[&format!("py-tes=={version}"), "six==1.17.0", "setuptools<81"],
    ) else {
        return;
    };
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let shared = cluster.shared();
    let out = shared.join(format!("py-{version}"));
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = environment.python();
    command
        .arg(pypi::beside_tests("py_tes.py"))
        .arg(cluster.client.base())
        .arg(shared)
        .args([IMAGE, version]);
    let printed = pypi::run(command).await;
    assert_eq!(printed.matches("right: ").count(), 5, "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn version_1_1() {
    run("1.1.2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn version_0_4() {
    run("0.4.2").await;
}
