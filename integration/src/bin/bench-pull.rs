//! Pulling: `teamster image pull` against `ctr images pull`, the same image from the same registry on loopback
//! into the same containerd, in turns, in random order, with nothing of it on the node before each. What is
//! printed are ratios, because absolute figures of a busy machine mean little.
//!
//! Usage: `bench-pull [BLOCKS] [LAYERS] [MIB PER LAYER]`

#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use teamster_integration::cluster::teamster;
use teamster_integration::containerd::PrivateContainerd;
use teamster_integration::cpu;
use teamster_integration::image::TestImage;
use teamster_integration::registry::{PrivateRegistry, digest};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Files of a layer are of this size.
const FILE_BYTES: usize = 1 << 20;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let blocks: usize = arguments.next().map_or(Ok(8), |text| text.parse())?;
    let layers: usize = arguments.next().map_or(Ok(6), |text| text.parse())?;
    let layer_mib: usize = arguments.next().map_or(Ok(32), |text| text.parse())?;
    let registry = PrivateRegistry::start(None);
    let bytes = push(&registry, layers, layer_mib).await?;
    println!(
        "{blocks} blocks of one pull each way: {layers} layers, {} MiB compressed; ratio = ctr's / Teamster's",
        bytes >> 20
    );
    let containerd = PrivateContainerd::start();
    let config = containerd.home().join("agent.toml");
    std::fs::write(&config, format!("[[registry]]\nhost = '{}'\nplain_http = true\n", registry.host()))?;
    let bench =
        Bench { socket: containerd.socket(), config, reference: format!("{}/bench/pull:1", registry.host()) };
    // Both warm: page cache of the registry's files, programs.
    bench.teamster()?;
    bench.ctr()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..blocks {
        if RandomState::new().build_hasher().finish().is_multiple_of(2) {
            ours.push(bench.teamster()?);
            theirs.push(bench.ctr()?);
        } else {
            theirs.push(bench.ctr()?);
            ours.push(bench.teamster()?);
        }
    }
    report(&ours, &theirs);
    Ok(())
}

/// One side of one block.
struct Run {
    seconds: f64,
    cpu_seconds: f64,
}

struct Bench {
    socket: std::path::PathBuf,
    config: std::path::PathBuf,
    reference: String,
}

impl Bench {
    fn teamster(&self) -> Result<Run> {
        let mut command = Command::new(teamster());
        command.args(["image", "pull", "--config"]).arg(&self.config).arg("--containerd").arg(&self.socket);
        self.measured(command, "teamster")
    }

    fn ctr(&self) -> Result<Run> {
        let mut command = ctr(&self.socket, "bench");
        command.args(["images", "pull", "--plain-http"]);
        self.measured(command, "bench")
    }

    /// Runs it, and removes what it brought into its namespace: the store shares blobs between namespaces.
    fn measured(&self, mut command: Command, namespace: &str) -> Result<Run> {
        let (started, cpu_before) = (Instant::now(), cpu::used_seconds());
        let output = command.arg(&self.reference).stdin(Stdio::null()).output()?;
        let run =
            Run { seconds: started.elapsed().as_secs_f64(), cpu_seconds: cpu::used_seconds() - cpu_before };
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let removed =
            ctr(&self.socket, namespace).args(["images", "rm", "--sync", &self.reference]).output()?;
        ensure!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
        let left = ctr(&self.socket, namespace).args(["content", "ls", "-q"]).output()?;
        ensure!(left.stdout.is_empty(), "a part of the image is still there: {left:?}");
        Ok(run)
    }
}

fn ctr(socket: &Path, namespace: &str) -> Command {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(socket).args(["--namespace", namespace]);
    command
}

/// Puts an image into the registry; its compressed bytes.
async fn push(registry: &PrivateRegistry, layers: usize, layer_mib: usize) -> Result<u64> {
    let (_, config) = TestImage::named("unused").parts();
    let mut config: Value = serde_json::from_slice(&config)?;
    let (mut blobs, mut entries, mut diff_ids) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..layers {
        let layer = layer(number, layer_mib)?;
        let packed = gzip(&layer)?;
        diff_ids.push(digest(&layer));
        entries.push(entry(LAYER, &packed));
        blobs.push(packed);
    }
    config["rootfs"]["diff_ids"] = json!(diff_ids);
    let config = config.to_string().into_bytes();
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": entry(CONFIG, &config), "layers": entries});
    let bytes = blobs.iter().map(|blob| blob.len() as u64).sum();
    blobs.push(config);
    let blobs: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
    registry.push("bench/pull", "1", &blobs, &manifest).await;
    Ok(bytes)
}

fn entry(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
}

/// Files that compress about as well as programs do: random letters out of few, the same in each run.
fn layer(number: usize, mib: usize) -> Result<Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ (number as u64 + 1);
    let mut archive = tar::Builder::new(Vec::new());
    for file in 0..mib {
        let mut content = Vec::with_capacity(FILE_BYTES);
        while content.len() < FILE_BYTES {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            content.extend(state.to_le_bytes().map(|byte| b"teamster: sixteen"[usize::from(byte & 15)]));
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("opt/{number}/{file}"), &*content)?;
    }
    Ok(archive.into_inner()?)
}

fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new("gzip").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("it was asked for")?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || stdin.write_all(content));
        let output = child.wait_with_output()?;
        writer.join().expect("writing does not panic")?;
        Ok(output.stdout)
    })
}

fn report(ours: &[Run], theirs: &[Run]) {
    let ratios = |of: fn(&Run) -> f64| {
        let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| of(b) / of(a)).collect();
        ratios.sort_by(f64::total_cmp);
        let at = |share: f64| ratios[((ratios.len() - 1) as f64 * share).round() as usize];
        format!("{:.2} (quartiles {:.2} to {:.2})", at(0.5), at(0.25), at(0.75))
    };
    let median = |runs: &[Run], of: fn(&Run) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!("  wall ratio  {}", ratios(|run| run.seconds));
    println!("  CPU ratio   {}   (below 1 means that Teamster spends more)", ratios(|run| run.cpu_seconds));
    println!(
        "  per pull    Teamster {:.2} s, {:.2} CPU-s; ctr {:.2} s, {:.2} CPU-s",
        median(ours, |run| run.seconds),
        median(ours, |run| run.cpu_seconds),
        median(theirs, |run| run.seconds),
        median(theirs, |run| run.cpu_seconds)
    );
}
