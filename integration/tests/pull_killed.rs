//! kill -9 in the middle of a pull, of the agent and of containerd: the task gets its image all the same, what
//! had arrived is not fetched again, and nothing of the pull that died is left.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use teamster_integration::cluster::{Cluster, Options, eventually};
use teamster_integration::image::TestImage;
use teamster_integration::odd_registry::{OddRegistry, Oddity};
use teamster_integration::pieces::{Packing, Pieces, digest};
use teamster_integration::remains;
use teamster_integration::stand::Stand;
use tokio::sync::Notify;

/// Where the second layer stops coming: behind a whole piece and a part of one.
const HALF: usize = 1_500_000;

/// The least that must have been kept of it.
const PIECE: usize = 1 << 20;

/// A node whose task has an image half pulled: one layer is unpacked, one is on its way.
struct Scene {
    stand: Stand,
    cluster: Cluster,
    registry: OddRegistry,
    /// Where the layer is that comes only in part.
    layer: String,
    go_on: Arc<Notify>,
    before: Kept,
    task: String,
}

/// What containerd keeps, by kind.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    leases: BTreeSet<String>,
    ingests: BTreeSet<String>,
    snapshots: BTreeSet<String>,
    content: BTreeSet<String>,
}

impl Kept {
    fn look(stand: &Stand) -> Self {
        let ctr = |words: &[&str]| remains::ctr(&stand.containerd.socket(), words);
        Self {
            leases: ctr(&["leases", "ls", "-q"]),
            ingests: ctr(&["content", "active"]).into_iter().filter(|line| line.contains("pull-")).collect(),
            snapshots: ctr(&["snapshots", "ls"]),
            content: ctr(&["content", "ls", "-q"]),
        }
    }
}

impl Scene {
    async fn begin() -> Self {
        let (stand, registry) = (Stand::start().await, OddRegistry::start().await);
        let base = TestImage::named("unused").directory("base");
        let top = TestImage::named("unused").directory("top");
        let layers = [(Packing::Plain, base.layer()), (Packing::Plain, top.layer())];
        let image = Pieces::new(&layers, base.config());
        registry.put_image("lab/tool", "1", &image);
        let layer = format!("lab/tool/blobs/{}", digest(&image.layers[1]));
        let go_on = Arc::new(Notify::new());
        registry.next(&layer, Oddity::Hold(HALF, go_on.clone()));
        let host = registry.host();
        let agent_toml =
            format!("[images]\nstall_timeout = '10min'\n[[registry]]\nhost = '{host}'\nplain_http = true\n");
        let cluster = stand.cluster(&Options { agent_toml, ..Options::default() }).await;
        let before = Kept::look(&stand);
        let task = json!({
            "resources": {"cpu_cores": 1, "ram_gb": 0.0625, "disk_gb": 0.1},
            "executors": [{"image": format!("{host}/lab/tool:1"), "command": ["/bin/sh", "-c", "echo it runs"]}],
        });
        let task = cluster.client.submit(&task).await;
        let scene = Self { stand, cluster, registry, layer, go_on, before, task };
        eventually("one layer to be unpacked and half of the other to be there", async || {
            let task = scene.cluster.client.task(&scene.task).await;
            let line = task["logs"][0]["system_logs"].as_array()?.last()?.as_str()?.to_owned();
            (line.contains("1 of 2 layers unpacked") && scene.has_half()).then_some(())
        })
        .await;
        let now = Kept::look(&scene.stand);
        assert_eq!((now.leases.len(), now.ingests.len()), (scene.before.leases.len() + 1, 1), "{now:?}");
        assert!(now.snapshots.len() > scene.before.snapshots.len(), "{now:?}");
        scene
    }

    /// Whether containerd has all of a whole piece of the layer that comes in part.
    fn has_half(&self) -> bool {
        let ingests = self.stand.dir().join("root/io.containerd.content.v1.content/ingest");
        let ingests = std::fs::read_dir(ingests).unwrap().flatten();
        let sizes = ingests.filter_map(|ingest| Some(ingest.path().join("data").metadata().ok()?.len()));
        sizes.max() >= Some(PIECE as u64)
    }

    /// The task ends well, the layer was asked for anew from where it broke off, and in containerd there is the
    /// image and nothing else that is new.
    async fn check(&self) -> Value {
        let done = self.cluster.client.wait(&self.task).await;
        assert_eq!(done["state"], "COMPLETE", "{done:#}");
        let log = done["logs"].as_array().unwrap().last().unwrap();
        assert_eq!(log["logs"][0]["stdout"], "it runs\n", "{done:#}");
        let asked = self.registry.requests(&self.layer);
        let from = asked.last().unwrap().split("bytes=").nth(1);
        let from: usize = from.unwrap_or_else(|| panic!("{asked:?}")).trim_end_matches('-').parse().unwrap();
        assert!((PIECE..=HALF).contains(&from) && asked.len() == 2, "{asked:?}");
        eventually("nothing of the pulls to be left", async || {
            let now = Kept::look(&self.stand);
            let is_clean = now.leases == self.before.leases && now.ingests.is_empty();
            // Two layers, and manifest and configuration besides.
            let is_all = now.snapshots.len() == self.before.snapshots.len() + 2
                && now.content.len() == self.before.content.len() + 4;
            (is_clean && is_all).then_some(())
        })
        .await;
        done
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_killed_in_the_middle_of_a_pull() {
    let mut scene = Scene::begin().await;
    scene.cluster.kill_agent();
    // Nobody is there to give anything up: it is the next agent that has to.
    let now = Kept::look(&scene.stand);
    assert_eq!((now.leases.len(), now.ingests.len()), (scene.before.leases.len() + 1, 1), "{now:?}");
    scene.go_on.notify_one();
    scene.cluster.start_agent(&[]);
    let done = scene.check().await;
    assert_eq!(done["logs"].as_array().unwrap().len(), 1, "it is the same attempt: {done:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_is_killed_in_the_middle_of_a_pull() {
    let mut scene = Scene::begin().await;
    scene.stand.containerd.kill9();
    scene.go_on.notify_one();
    scene.stand.containerd.restart();
    scene.check().await;
}
