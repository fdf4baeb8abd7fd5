//! Tasks whose images must be pulled, through the whole system: one that is there, one that is not, and one
//! whose registry is down at first.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use serde_json::{Value, json};
use teamster_integration::cluster::Options;
use teamster_integration::image::TestImage;
use teamster_integration::odd_registry::{OddRegistry, Oddity};
use teamster_integration::registry::digest;
use teamster_integration::stand::Stand;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn task(image: &str) -> Value {
    json!({
        "resources": {"cpu_cores": 1, "ram_gb": 0.0625, "disk_gb": 0.1},
        "executors": [{"image": image, "command": ["/bin/sh", "-c", "echo it runs"]}],
    })
}

#[tokio::test]
async fn a_task_brings_its_image() {
    let stand = Stand::start().await;
    let registry = OddRegistry::start().await;
    let (layer, config) = TestImage::named("unused").parts();
    let entry = |media_type: &str, content: &[u8]| json!({"mediaType": media_type, "digest": digest(content), "size": content.len()});
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": entry("application/vnd.oci.image.config.v1+json", &config),
        "layers": [entry("application/vnd.oci.image.layer.v1.tar", &layer)]});
    registry.put("lab/tool/manifests/1", MANIFEST, manifest.to_string().as_bytes());
    for blob in [&layer, &config] {
        registry.put(&format!("lab/tool/blobs/{}", digest(blob)), "application/octet-stream", blob);
    }
    registry.next("lab/tool/manifests/1", Oddity::Status(503, String::new()));
    let host = registry.host();
    let agent_toml = format!("[[registry]]\nhost = '{host}'\nplain_http = true\n");
    let cluster = stand.cluster(&Options { agent_toml, ..Options::default() }).await;

    let id = cluster.client.submit(&task(&format!("{host}/lab/tool:1"))).await;
    let done = cluster.client.wait(&id).await;
    assert_eq!(done["state"], "COMPLETE", "{done}");
    let log = &done["logs"][0];
    assert_eq!(log["logs"][0]["stdout"], "it runs\n", "{done}");
    let line = log["system_logs"].as_array().unwrap().iter().find_map(|line| line.as_str()).unwrap();
    assert!(line.contains("pulled") && line.contains(host), "{log}");

    let id = cluster.client.submit(&task(&format!("{host}/lab/nothing:7"))).await;
    let failed = cluster.client.wait(&id).await;
    assert_eq!(failed["state"], "SYSTEM_ERROR", "{failed}");
    assert_eq!(failed["logs"].as_array().unwrap().len(), 1, "it would fail elsewhere too");
    let log = &failed["logs"][0];
    assert_eq!(log["metadata"]["reason"], "IMAGE_NOT_FOUND");
    assert!(log["system_logs"].to_string().contains("no such thing (MANIFEST_UNKNOWN)"), "{log}");
}
