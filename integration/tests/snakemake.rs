//! Snakemake with its TES plugin runs a small workflow on the whole system to its end. The image is made of
//! this machine's Python and of what is installed beside it, so that tasks need no network.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use teamster_agent::runtime::image;
use teamster_integration::cluster::Options;
use teamster_integration::image::TestImage;
use teamster_integration::pypi::{self, Environment};
use teamster_integration::stand::Stand;

/// Installed where the workflow is started, and in the image.
const PACKAGES: [&str; 5] = [
    "snakemake==9.27.1",
    "snakemake-executor-plugin-tes==0.1.3",
    "snakemake-storage-plugin-fs==1.1.3",
    "six==1.17.0",
    "setuptools<81",
];

/// Whom tasks run as where nothing is configured.
const TASKS: u32 = 65_534;

/// Two files are counted, and the counts are sorted.
const WORKFLOW: &str = "
rule all:
    input: 'counts.txt'

rule count:
    input: 'in/{name}.txt'
    output: 'counts/{name}.txt'
    resources: mem_mb=500, disk_mb=100
    shell: 'wc -w < {input} > {output}'

rule gather:
    input: 'counts/a.txt', 'counts/b.txt'
    output: 'counts.txt'
    resources: mem_mb=500, disk_mb=100
    shell: 'sort -n {input} > {output}'
";

/// An image with bash, rsync, and the environment's Python with its packages.
async fn image(environment: &Environment) -> TestImage {
    let mut parts = environment.python();
    parts.arg(pypi::beside_tests("parts.py")).args(["/bin/bash", "/usr/bin/rsync"]);
    let mut image = TestImage::named("snakemake-test")
        .env("PYTHONPATH=/opt/packages")
        .env("PYTHONDONTWRITEBYTECODE=1")
        .copy(Path::new("/bin/bash"), "bin/bash")
        .copy(Path::new("/usr/bin/rsync"), "bin/rsync")
        // What it would install is there already.
        .script("bin/pip", "#!/bin/sh\nexit 0\n");
    for line in pypi::run(parts).await.lines() {
        let (kind, path) = line.split_once(' ').unwrap();
        image = match kind {
            "python" => {
                let start = format!("#!/bin/sh\nexec {path} \"$@\"\n");
                image.copy(Path::new(path), path).script("bin/python", &start)
            }
            "packages" => image.copy(Path::new(path), "opt/packages"),
            _ => image.copy(Path::new(path), path),
        };
    }
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_workflow() {
    let Some(environment) = Environment::with("snakemake", &PACKAGES) else { return };
    let stand = Stand::start().await;
    let archive = image(&environment).await.oci_archive();
    image::import(&stand.containerd.socket(), std::io::Cursor::new(archive)).await.unwrap();
    let cluster = stand.cluster(&Options::default()).await;

    let project = cluster.shared().join("project");
    for directory in [project.clone(), project.join("in"), project.join("counts")] {
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    }
    fs::write(project.join("in/a.txt"), "one two three\n").unwrap();
    fs::write(project.join("in/b.txt"), "four\n").unwrap();
    let here = stand.dir().join("workflow");
    fs::create_dir(&here).unwrap();
    fs::write(here.join("Snakefile"), WORKFLOW).unwrap();
    // Read by the plugin where a job has failed, so that it can go on to say so.
    fs::write(here.join("funnel.log"), "a job has failed\n").unwrap();

    std::os::unix::fs::chown(&here, Some(TASKS), Some(TASKS)).unwrap();
    for path in [stand.dir().to_owned(), stand.dir().join("cluster")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o711)).unwrap();
    }

    // What Snakemake leaves for its tasks only its own user may read, so it runs as tasks do. This machine's
    // Python may lie in root's home.
    let mut snakemake = Command::new("setpriv");
    snakemake
        .args([format!("--reuid={TASKS}"), format!("--regid={TASKS}"), "--clear-groups".to_owned()])
        .args(["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"])
        .arg(environment.python().get_program())
        .args(["-m", "snakemake", "--snakefile", "Snakefile", "--jobs", "4", "--executor", "tes"])
        .args(["--tes-url", cluster.client.base(), "--container-image", "snakemake-test"])
        .args(["--default-storage-provider", "fs", "--default-storage-prefix"])
        .arg(&project)
        .args(["--seconds-between-status-checks", "1", "--latency-wait", "5"])
        .env("GITHUB_WORKSPACE", &here)
        .env("no_proxy", "127.0.0.1")
        .env("HOME", &here)
        .current_dir(&here);
    let ended = tokio::task::spawn_blocking(move || snakemake.output()).await.unwrap().unwrap();
    let printed = pypi::text_of(&ended);
    let tasks = cluster.client.get("/v1/tasks?view=FULL").await;
    assert!(ended.status.success(), "{printed}\n{tasks:#}");
    assert_eq!(fs::read_to_string(project.join("counts.txt")).unwrap(), "1\n3\n", "{printed}");
    assert_eq!(cluster.client.count("COMPLETE").await, 3, "{printed}");
}
