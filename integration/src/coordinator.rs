//! A coordinator alone, as a process on ports of its own: for tests of its listeners and of what it does
//! without a node. Never restarted in place; whoever needs that keeps the addresses itself.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::client::Client;
use crate::cluster::{eventually, teamster};

/// A coordinator that runs. It is killed at the end.
#[derive(Debug)]
pub struct Coordinator {
    /// The REST API.
    pub http: SocketAddr,
    /// The gRPC API.
    pub grpc: SocketAddr,
    /// Where agents dial.
    pub agents: SocketAddr,
    log: PathBuf,
    child: Child,
}

impl Coordinator {
    /// Starts one with its files in `dir` and more lines in its configuration, and waits until it takes tasks.
    pub async fn start(dir: &Path, more_toml: &str) -> Self {
        let (log, config) = (dir.join("coordinator.log"), dir.join("coordinator.toml"));
        let any = "127.0.0.1:0";
        // The machine's disk may be nearly full, and that is no concern of these tests.
        let usual = format!("disk_floor = '0B'\nhttp = '{any}'\ngrpc = '{any}'\nagents = '{any}'");
        let data_dir = dir.join("coordinator");
        fs::write(&config, format!("data_dir = '{}'\n{usual}\n{more_toml}", data_dir.display())).unwrap();
        let child = Command::new(teamster())
            .arg("coordinator")
            .arg("--config")
            .arg(&config)
            .env("TEAMSTER_LOG", "info")
            .env("TEAMSTER_LOG_FORMAT", "text")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .expect("start teamster");
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut this = Self { http: nowhere, grpc: nowhere, agents: nowhere, log, child };
        let names = ["http", "grpc", "agents"];
        let [http, grpc, agents] = eventually("the coordinator to say where it listens", async || {
            let log = this.log();
            assert!(this.child.try_wait().unwrap().is_none(), "it ended: {log}");
            let found = names.map(|name| bound(&log, name));
            log.contains("coordinator is up").then(|| found.map(|address| address.expect("one line each")))
        })
        .await;
        (this.http, this.grpc, this.agents) = (http, grpc, agents);
        this.client().get("/readyz").await;
        this
    }

    /// A client of its REST API.
    pub fn client(&self) -> Client {
        Client::new(self.http)
    }

    /// All that it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// How much memory it holds now, and the most that it ever held.
    pub fn memory_bytes(&self) -> (u64, u64) {
        let process = procfs::process::Process::new(self.child.id() as i32).unwrap();
        let status = process.status().unwrap();
        (status.vmrss.unwrap() << 10, status.vmhwm.unwrap() << 10)
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Where `listener` is, by the log.
fn bound(log: &str, listener: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains(&format!("listening listener=\"{listener}\"")))?;
    line.split("address=").nth(1)?.split_whitespace().next()?.parse().ok()
}
