//! Tasks whose images must be pulled, through the whole system: one that is there, one that is not, and one
//! whose registry is down at first.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::sync::Arc;

use serde_json::{Value, json};
use teamster_agent::runtime::image;
use teamster_integration::cluster::{Options, eventually, teamster};
use teamster_integration::containerd::{PrivateContainerd, can_run_containers};
use teamster_integration::image::TestImage;
use teamster_integration::odd_registry::{OddRegistry, Oddity};
use teamster_integration::pieces::{Packing, Pieces, digest};
use teamster_integration::stand::Stand;
use tokio::sync::Notify;

fn task(image: &str) -> Value {
    json!({
        "resources": {"cpu_cores": 1, "ram_gb": 0.0625, "disk_gb": 0.1},
        "executors": [{"image": image, "command": ["/bin/sh", "-c", "echo it runs"]}],
    })
}

/// Puts an image made for `architecture` at `lab/<name>:1`; says where its layer is.
fn put(registry: &OddRegistry, name: &str, architecture: Option<&str>) -> String {
    // No other image has this layer, so that it must come.
    let image = TestImage::named("unused").directory(name);
    let mut config = image.config();
    if let Some(architecture) = architecture {
        config["architecture"] = architecture.into();
    }
    let pieces = Pieces::new(&[(Packing::Plain, image.layer())], config);
    registry.put_image(&format!("lab/{name}"), "1", &pieces);
    format!("lab/{name}/blobs/{}", digest(&pieces.layers[0]))
}

#[tokio::test]
async fn a_task_brings_its_image() {
    let stand = Stand::start().await;
    let registry = OddRegistry::start().await;
    put(&registry, "tool", None);
    put(&registry, "early", None);
    put(&registry, "other", Some("s390x"));
    registry.next("lab/tool/manifests/1", Oddity::Status(503, String::new()));
    let host = registry.host();
    let agent_toml = format!(
        "[images]\nprepull = ['{host}/lab/early:1']\n[[registry]]\nhost = '{host}'\nplain_http = true\n"
    );
    let cluster = stand.cluster(&Options { agent_toml, ..Options::default() }).await;

    let id = cluster.client.submit(&task(&format!("{host}/lab/tool:1"))).await;
    let done = cluster.client.wait(&id).await;
    assert_eq!(done["state"], "COMPLETE", "{done}");
    let log = &done["logs"][0];
    assert_eq!(log["logs"][0]["stdout"], "it runs\n", "{done}");
    let line = log["system_logs"].as_array().unwrap().iter().find_map(|line| line.as_str()).unwrap();
    assert!(line.contains("pulled") && line.contains(host), "{log}");

    // What is on the operator's list is here before anybody asks.
    let socket = stand.containerd.socket();
    let early = format!("{host}/lab/early:1");
    eventually("the list is here", async || {
        let images = image::list(&socket).await.unwrap();
        images.iter().any(|image| image.name == early).then_some(())
    })
    .await;
    let done = cluster.client.wait(&cluster.client.submit(&task(&early)).await).await;
    assert_eq!(done["state"], "COMPLETE", "{done}");
    assert!(!done["logs"][0]["system_logs"].to_string().contains("pulled"), "{done}");

    let denied = r#"{"errors":[{"code":"DENIED","message":"not for you"}]}"#;
    registry.next("lab/secret/manifests/1", Oddity::Status(403, denied.into()));
    for (image, reason, words) in [
        ("nothing:7", "IMAGE_NOT_FOUND", "no such thing (MANIFEST_UNKNOWN)"),
        ("secret:1", "IMAGE_UNAUTHORIZED", "not for you (DENIED)"),
        ("other:1", "IMAGE_UNUSABLE", "made for linux/s390x"),
    ] {
        let id = cluster.client.submit(&task(&format!("{host}/lab/{image}"))).await;
        let failed = cluster.client.wait(&id).await;
        assert_eq!(failed["state"], "SYSTEM_ERROR", "{failed}");
        assert_eq!(failed["logs"].as_array().unwrap().len(), 1, "it would fail elsewhere too");
        let log = &failed["logs"][0];
        assert_eq!(log["metadata"]["reason"], reason);
        assert!(log["system_logs"].to_string().contains(words), "{log}");
    }
}

#[tokio::test]
async fn the_system_log_shows_how_far_a_pull_is() {
    let stand = Stand::start().await;
    let registry = OddRegistry::start().await;
    let layer = put(&registry, "tool", None);
    let go_on = Arc::new(Notify::new());
    registry.next(&layer, Oddity::Hold(1_500_000, go_on.clone()));
    let host = registry.host();
    let agent_toml =
        format!("[images]\nstall_timeout = '10min'\n[[registry]]\nhost = '{host}'\nplain_http = true\n");
    let cluster = stand.cluster(&Options { agent_toml, ..Options::default() }).await;
    let image = format!("{host}/lab/tool:1");
    let id = cluster.client.submit(&task(&image)).await;
    // What has come of the one layer, a whole piece, and the configuration.
    let expected = format!("image {image}: pulling, 1.0MiB of ");
    let shown = eventually("the pull to be shown", async || {
        let task = cluster.client.task(&id).await;
        let line = task["logs"][0]["system_logs"].as_array()?.last()?.as_str()?.to_owned();
        line.starts_with(&expected).then_some((task, line))
    })
    .await;
    assert_eq!(shown.0["state"], "INITIALIZING", "{shown:?}");
    assert!(shown.1.contains("0 of 1 layers"), "{shown:?}");
    let url = format!("{}/v1/tasks/{id}/logs?stream=system", cluster.client.base());
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    assert!(text.lines().last().unwrap().starts_with(&expected), "{text}");

    go_on.notify_one();
    let done = cluster.client.wait(&id).await;
    assert_eq!(done["state"], "COMPLETE", "{done}");
    let lines = done["logs"][0]["system_logs"].as_array().unwrap();
    assert!(matches!(&lines[..], [line] if line.as_str().unwrap().contains(": pulled ")), "{done}");
}

#[tokio::test]
async fn an_operator_pulls_and_lists() {
    if !can_run_containers() {
        return;
    }
    let (containerd, registry) = (PrivateContainerd::start(), OddRegistry::start().await);
    put(&registry, "tool", None);
    let host = registry.host();
    let config = containerd.home().join("agent.toml");
    std::fs::write(&config, format!("[[registry]]\nhost = '{host}'\nplain_http = true\n")).unwrap();
    let socket = containerd.socket();
    let run = async |words: &[&str]| {
        let mut command = tokio::process::Command::new(teamster());
        command.arg("image").args(words).arg("--containerd").arg(&socket);
        let output = command.output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (reference, config) = (format!("{host}/lab/tool:1"), config.to_str().unwrap());
    let (code, said, errors) = run(&["pull", "--config", config, &reference]).await;
    assert_eq!(code, Some(0), "{errors}");
    assert!(said.contains("pulled") && said.contains("sha256:"), "{said}");
    assert!(errors.is_empty(), "no bar where there is no terminal: {errors}");
    let (_, list, _) = run(&["list", "--output", "json"]).await;
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list[0]["name"], reference);
    assert!(list[0]["size_bytes"].as_u64().unwrap() > 500_000);
    let (code, _, errors) = run(&["pull", "--config", config, &format!("{host}/lab/nothing:1")]).await;
    assert_eq!(code, Some(1));
    assert!(errors.contains("no such thing (MANIFEST_UNKNOWN)"), "{errors}");
}
