//! Images that leave a node when they are no longer needed, and those that stay.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::time::Duration;

use teamster_agent::config::ImageSettings;
use teamster_agent::runtime::{Containerd, Programs, Runtime, image};
use teamster_integration::image::TestImage;
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
