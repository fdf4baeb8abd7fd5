//! Images that leave a node when they are no longer needed, and those that stay.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::process::Command;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use teamster_agent::config::ImageSettings;
use teamster_agent::runtime::{Containerd, Programs, Runtime, image};
use teamster_integration::containerd::{PrivateContainerd, can_run_containers};
use teamster_integration::image::TestImage;
use teamster_integration::odd_registry::OddRegistry;
use teamster_integration::pieces::Packing;
use teamster_values::Period;

use crate::puller::{Puller, odd, plain_http};
use crate::stand::Stand;
use teamster_integration::pieces::MANIFEST;

/// A node whose disk is always fuller than it should be.
fn is_full(settings: &mut ImageSettings) {
    settings.disk_high_percent = 1;
    settings.disk_low_percent = 1;
    settings.idle_min = Period(Duration::ZERO);
}

#[tokio::test]
async fn what_is_not_needed_goes_when_the_disk_fills_up() {
    let (registry, pieces) = odd().await;
    let Some(mut puller) = Puller::new(registry.host()) else { return };
    let manifest = pieces.manifest.to_string();
    let at = |tag: &str| format!("{}/lab/tool:{tag}", registry.host());
    for tag in ["wanted", "beforehand", "idle", "busy"] {
        registry.put(&format!("lab/tool/manifests/{tag}"), MANIFEST, manifest.as_bytes());
    }
    is_full(&mut puller.settings);
    puller.settings.prepull = vec![at("beforehand")];
    let runtime = puller.runtime();
    for tag in ["wanted", "beforehand", "idle", "1"] {
        runtime.image(&at(tag)).await.unwrap();
    }
    let archive = TestImage::named("docker.io/library/imported:1").oci_archive();
    image::import(&puller.containerd.socket(), Cursor::new(archive)).await.unwrap();

    // Used a moment ago is too early, whatever the disk says.
    let mut patient = Puller { settings: puller.settings.clone(), ..Puller::new(registry.host()).unwrap() };
    patient.settings.idle_min = Period(Duration::from_secs(600));
    let patient_runtime = patient.runtime();
    patient_runtime.image(&at("idle")).await.unwrap();
    patient_runtime.sweep_images(&BTreeSet::new()).await.unwrap();
    assert_eq!(patient.names().await, [at("idle")]);

    let wanted = BTreeSet::from([format!("docker://{}", at("wanted"))]);
    runtime.sweep_images(&wanted).await.unwrap();
    assert_eq!(
        puller.names().await,
        [at("beforehand"), at("wanted"), "docker.io/library/imported:1".to_owned()]
    );
    // What went comes back when it is asked for, and the others still work.
    assert!(runtime.image(&at("idle")).await.unwrap().pulled.is_some());
    assert!(runtime.image(&at("wanted")).await.unwrap().pulled.is_none());

    // A disk with room, and nobody who minds old images.
    puller.settings.disk_high_percent = 100;
    puller.runtime().sweep_images(&BTreeSet::new()).await.unwrap();
    assert_eq!(puller.names().await.len(), 4);
    // Age alone is a reason as well.
    puller.settings.unused_max = Period(Duration::from_nanos(1));
    puller.settings.prepull.clear();
    puller.runtime().sweep_images(&BTreeSet::new()).await.unwrap();
    assert_eq!(puller.names().await, ["docker.io/library/imported:1"]);
}

#[tokio::test]
async fn an_image_with_a_container_stays() {
    let (registry, _) = odd().await;
    let Some(mut stand) = Stand::new().await else { return };
    let (mut settings, rules) = (ImageSettings::default(), plain_http(registry.host()));
    is_full(&mut settings);
    let programs = Programs::install(stand.home.path()).unwrap();
    let runtime = Containerd::pulling(&stand.containerd.socket(), settings, vec![rules]);
    stand.runtime = runtime.with_programs(programs);
    let reference = format!("{}/lab/tool:1", registry.host());
    let mut spec = stand.container(&["true"]).await;
    spec.image = stand.runtime.image(&reference).await.unwrap();
    stand.runtime.prepare_attempt(spec.id.attempt, &spec.limits).await.unwrap();
    stand.runtime.create(&spec).await.unwrap();
    let names = async || image::list(&stand.containerd.socket()).await.unwrap().len();
    stand.runtime.sweep_images(&BTreeSet::new()).await.unwrap();
    assert_eq!(names().await, 2);
    stand.runtime.remove(spec.id).await.unwrap();
    stand.runtime.release_attempt(spec.id.attempt).await.unwrap();
    stand.runtime.sweep_images(&BTreeSet::new()).await.unwrap();
    assert_eq!(names().await, 1, "only what was imported");
}

#[tokio::test]
async fn nothing_is_left_of_an_image_that_went() {
    let (registry, _) = odd().await;
    let Some(mut puller) = Puller::new(registry.host()) else { return };
    is_full(&mut puller.settings);
    let reference = format!("{}/lab/tool:1", registry.host());
    puller.image(&reference).await.unwrap();
    let snapshots = puller.containerd.home().join("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
    assert!(snapshots.read_dir().unwrap().next().is_some());
    puller.runtime().sweep_images(&BTreeSet::new()).await.unwrap();
    assert!(puller.is_empty().await);
    assert_eq!(snapshots.read_dir().unwrap().count(), 0);
}

/// A disk of so many MiB in memory, which goes with this value.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(size_mib: u64) -> Self {
        let directory = tempfile::Builder::new().prefix("sd").tempdir_in("/tmp").unwrap();
        let options = format!("size={size_mib}m,mode=755");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "disk"]).arg(directory.path());
        assert!(mount.status().unwrap().success());
        Self(directory)
    }

    fn fill_percent(&self) -> u64 {
        let disk = statvfs(self.0.path()).unwrap();
        100 - disk.blocks_available() * 100 / disk.blocks()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_small_disk_is_emptied_down_to_the_mark_and_no_further() {
    if !can_run_containers() {
        return;
    }
    let registry = OddRegistry::start().await;
    let at = |number: usize| format!("{}/lab/tool:{number}", registry.host());
    for number in 0..6 {
        let text = number.to_string().repeat(6 << 20);
        let image = TestImage::named("unused").script("/large", &text).pieces(Packing::Gzip);
        registry.put_image("lab/tool", &number.to_string(), &image);
    }
    let disk = SmallDisk::new(96);
    let containerd = PrivateContainerd::start_in(disk.0.path(), None);
    let settings = ImageSettings {
        disk_high_percent: 55,
        disk_low_percent: 40,
        idle_min: Period(Duration::ZERO),
        ..ImageSettings::default()
    };
    let puller = Puller { containerd, settings, registry: plain_http(registry.host()) };
    let runtime = puller.runtime();
    let mut number = 0;
    while disk.fill_percent() <= 55 {
        // Below the upper mark nothing goes.
        runtime.sweep_images(&BTreeSet::new()).await.unwrap();
        assert_eq!(puller.names().await.len(), number);
        runtime.image(&at(number)).await.unwrap();
        number += 1;
    }
    // The first one is the one that was used last.
    runtime.image(&at(0)).await.unwrap();
    let before = disk.fill_percent();
    runtime.sweep_images(&BTreeSet::new()).await.unwrap();
    let (after, left) = (disk.fill_percent(), puller.names().await);
    let expected: Vec<_> = std::iter::once(0).chain(number + 1 - left.len()..number).map(at).collect();
    assert_eq!(left, expected, "the least recently used went");
    let share = (before - after) / (number - left.len()) as u64;
    assert!(after <= 40 && after + share > 40, "{before} % before, {after} % after, {share} % for each");
    assert!(runtime.image(&at(1)).await.unwrap().pulled.is_some(), "and there is room again");
}
