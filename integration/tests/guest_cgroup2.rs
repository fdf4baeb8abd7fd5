//! The whole product where cgroup version 2 is all there is: this program runs its second test in a guest. On
//! this machine that test runs as well, with the cgroups that this machine has.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use teamster_integration::cluster::{Options, shell_task};
use teamster_integration::guest::{self, Guest};
use teamster_integration::stand::Stand;

#[test]
fn in_the_guest() {
    let Some(guest) = Guest::prepare() else { return };
    guest.run_own_tests(&["tasks_are_limited_and_measured"], &[]);
}

#[tokio::test]
async fn tasks_are_limited_and_measured() {
    let stand = Stand::start().await;
    let cluster = stand.cluster(&Options::default()).await;
    let nodes = cluster.client.get("/v1/nodes").await;
    let node = &nodes["nodes"][0];
    if guest::is_inside() {
        assert_eq!((&node["versions"]["cgroup"], &node["lacks"]), (&"v2".into(), &serde_json::json!([])));
    } else {
        assert!(node["versions"]["cgroup"].is_string(), "{node}");
    }

    let well = cluster.client.submit(&shell_task("well", &["echo hello; exit 0".to_owned()])).await;
    // tail keeps all of a line that never ends.
    let bomb = cluster.client.submit(&shell_task("bomb", &["tail /dev/zero".to_owned()])).await;
    let well = cluster.client.wait(&well).await;
    assert_eq!(well["state"], "COMPLETE", "{well:#}");
    let metadata = &well["logs"][0]["metadata"];
    let number = |name: &str| metadata[name].as_str().and_then(|text| text.parse::<f64>().ok());
    assert!(number("peak_memory_bytes") > Some(0.0), "{metadata:#}");
    assert!(number("cpu_time_ms") > Some(0.0), "{metadata:#}");
    let bomb = cluster.client.wait(&bomb).await;
    assert_eq!(bomb["state"], "EXECUTOR_ERROR", "{bomb:#}");
    assert_eq!(bomb["logs"][0]["metadata"]["oom"], "true", "{bomb:#}");
}
