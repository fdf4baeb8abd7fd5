//! A program that tries to get out runs as a task, beside another task and on a node with all its services.
//! Each of its findings is compared with the table of what must be found.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

mod wanted;

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use serde_json::{Value, json};
use teamster_agent::runtime::image;
use teamster_integration::cluster::{Cluster, Marks, Options, eventually};
use teamster_integration::image::TestImage;
use teamster_integration::stand::Stand;

const IMAGE: &str = "sandbox-probe";

/// The program that is run as a task.
const PROBE: &str = env!("CARGO_BIN_EXE_sandbox-probe");

fn task(arguments: &[String]) -> Value {
    let command: Vec<&str> =
        std::iter::once("/bin/sandbox-probe").chain(arguments.iter().map(String::as_str)).collect();
    json!({
        "resources": {"cpu_cores": 1, "ram_gb": 0.25, "disk_gb": 0.1},
        "executors": [{"image": IMAGE, "command": command}],
    })
}

/// What runs on the host and must not be reached: held for as long as the probe runs.
struct Host {
    port: TcpListener,
    name: String,
    _socket: UnixListener,
}

impl Host {
    fn open() -> Self {
        let name = format!("teamster-probe-host-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        Self {
            port: TcpListener::bind("127.0.0.1:0").unwrap(),
            name,
            _socket: UnixListener::bind_addr(&address).unwrap(),
        }
    }

    /// Where the probe is to knock, in threes.
    fn targets(&self, stand: &Stand, cluster: &Cluster) -> Vec<String> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let host = self.port.local_addr().unwrap().to_string();
        [
            ("tcp", "host-loopback", host),
            ("tcp", "coordinator-http", cluster.client.base().trim_start_matches("http://").to_owned()),
            ("tcp", "coordinator-grpc", cluster.grpc.to_string()),
            ("tcp", "coordinator-agents", cluster.link.address().to_string()),
            ("abstract", "host-abstract", self.name.clone()),
            ("path", "containerd-socket", path(&stand.containerd.socket())),
            ("path", "system-containerd-socket", "/run/containerd/containerd.sock".to_owned()),
            ("path", "shim-sockets", "/run/containerd/s".to_owned()),
            ("path", "agent-data", path(&cluster.agent_dir())),
        ]
        .into_iter()
        .flat_map(|(kind, name, value)| [kind.to_owned(), name.to_owned(), value])
        .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_finds_no_way_out() {
    let stand = Stand::start().await;
    let probe = Path::new(PROBE);
    let image = TestImage::named(IMAGE)
        .program(probe, "/bin/sandbox-probe")
        .set_user_id(probe, "/bin/setuid-probe")
        .directory("var/tmp");
    image::import(&stand.containerd.socket(), Cursor::new(image.oci_archive())).await.unwrap();
    let cluster = stand.cluster(&Options::default()).await;
    let marks = Marks::new(&cluster.shared());
    let host = Host::open();

    let gate = cluster.shared().join("marks/gate");
    let neighbour =
        cluster.client.submit(&task(&["neighbour".into(), gate.to_string_lossy().into_owned()])).await;
    eventually("the neighbour to be there", async || gate.with_extension("ready").exists().then_some(()))
        .await;
    let mut arguments = vec!["all".to_owned()];
    arguments.extend(host.targets(&stand, &cluster));
    let id = cluster.client.submit(&task(&arguments)).await;
    let ended = cluster.client.wait(&id).await;
    marks.open_gate("gate");
    let neighbour = cluster.client.wait(&neighbour).await;

    assert_eq!(neighbour["state"], "COMPLETE", "the neighbour saw nothing of it: {neighbour:#}");
    assert_eq!(ended["state"], "COMPLETE", "{ended:#}");
    let printed = ended["logs"][0]["logs"][0]["stdout"].as_str().unwrap();
    let host_name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let found: BTreeMap<&str, &str> =
        printed.lines().map(|line| line.split_once(": ").unwrap_or((line, "no result"))).collect();
    assert_ne!(found["hostname"], host_name.trim(), "the host's name is the host's");
    wanted::compare(&found);
}
