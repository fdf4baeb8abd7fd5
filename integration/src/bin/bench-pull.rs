//! Pulling: `teamster image pull` against `ctr images pull`, the same image from the same registry on loopback
//! into the same containerd, in turns, in random order, with nothing of it on the node before each. What is
//! printed are ratios, because absolute figures of a busy machine mean little.
//!
//! Usage: `bench-pull [BLOCKS] [small|middle|large …]`

#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use teamster_integration::cluster::teamster;
use teamster_integration::containerd::PrivateContainerd;
use teamster_integration::cpu;
use teamster_integration::figures::Spread;
use teamster_integration::image::TestImage;
use teamster_integration::pieces::{Packing, Pieces};
use teamster_integration::registry::PrivateRegistry;

/// Files of a layer have at most this size.
const FILE_BYTES: usize = 1 << 20;

/// An image by the sizes of its layers before compression, in KiB.
struct Shape {
    name: &'static str,
    layers_kib: &'static [usize],
    /// Small pulls vary more, and cost less.
    turns_per_block: usize,
}

const SHAPES: [Shape; 3] = [
    // A small distribution, and what a Dockerfile of a dozen lines adds.
    Shape {
        name: "small",
        layers_kib: &[4096, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64],
        turns_per_block: 4,
    },
    Shape { name: "middle", layers_kib: &[32 << 10; 6], turns_per_block: 1 },
    // A tool with its libraries: little that can be done at a time.
    Shape { name: "large", layers_kib: &[64 << 10, 256 << 10, 4 << 10, 128 << 10], turns_per_block: 1 },
];

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let blocks: usize = arguments.next().map_or(Ok(8), |text| text.parse())?;
    let wanted: Vec<String> = arguments.collect();
    for name in &wanted {
        ensure!(SHAPES.iter().any(|shape| shape.name == name), "there is no shape '{name}'");
    }
    let (registry, containerd) = (PrivateRegistry::start(None), PrivateContainerd::start());
    let config = containerd.home().join("agent.toml");
    std::fs::write(&config, format!("[[registry]]\nhost = '{}'\nplain_http = true\n", registry.host()))?;
    for shape in
        SHAPES.iter().filter(|shape| wanted.is_empty() || wanted.iter().any(|name| name == shape.name))
    {
        let (repository, image) = (format!("bench/{}", shape.name), made(shape)?);
        registry.push_image(&repository, "1", &image).await;
        let bench = Bench {
            socket: containerd.socket(),
            config: config.clone(),
            reference: format!("{}/{repository}:1", registry.host()),
            daemons: [containerd.process().context("containerd runs")?, registry.process()],
        };
        let mib = image.layers.iter().map(Vec::len).sum::<usize>() as f64 / f64::from(1 << 20);
        let (layers, turns) = (image.layers.len(), blocks * shape.turns_per_block);
        println!("{}: {turns} pulls each way, {layers} layers, {mib:.1} MiB compressed", shape.name);
        bench.compare(turns)?;
    }
    println!("a ratio is ctr's / Teamster's: below 1 means that Teamster takes more");
    Ok(())
}

/// One pull.
struct Run {
    time: Duration,
    client: Duration,
    containerd: Duration,
    registry: Duration,
}

impl Run {
    fn cpu(&self) -> Duration {
        self.client + self.containerd + self.registry
    }
}

struct Bench {
    socket: PathBuf,
    config: PathBuf,
    reference: String,
    /// containerd and the registry.
    daemons: [u32; 2],
}

impl Bench {
    fn compare(&self, turns: usize) -> Result<()> {
        // Both warm: page cache of the registry's files, programs.
        self.teamster()?;
        self.ctr()?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..turns {
            if RandomState::new().build_hasher().finish().is_multiple_of(2) {
                ours.push(self.teamster()?);
                theirs.push(self.ctr()?);
            } else {
                theirs.push(self.ctr()?);
                ours.push(self.teamster()?);
            }
        }
        report(&ours, &theirs);
        Ok(())
    }

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
        let spent = || (self.daemons.map(cpu::of_process), cpu::of_ended_children());
        let (started, ([containerd, registry], client)) = (Instant::now(), spent());
        let output = command.arg(&self.reference).stdin(Stdio::null()).output()?;
        let (time, ([containerd_now, registry_now], client_now)) = (started.elapsed(), spent());
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let removed =
            ctr(&self.socket, namespace).args(["images", "rm", "--sync", &self.reference]).output()?;
        ensure!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
        let left = ctr(&self.socket, namespace).args(["content", "ls", "-q"]).output()?;
        ensure!(left.stdout.is_empty(), "a part of the image is still there: {left:?}");
        Ok(Run {
            time,
            client: client_now - client,
            containerd: containerd_now - containerd,
            registry: registry_now - registry,
        })
    }
}

fn ctr(socket: &Path, namespace: &str) -> Command {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(socket).args(["--namespace", namespace]);
    command
}

fn made(shape: &Shape) -> Result<Pieces> {
    let layers = shape.layers_kib.iter().enumerate();
    let layers = layers.map(|(number, kib)| Ok((Packing::Gzip, layer(number, *kib)?)));
    Ok(Pieces::new(&layers.collect::<Result<Vec<_>>>()?, TestImage::named("unused").config()))
}

/// Files that compress about as well as programs do: random letters out of few, the same in each run.
fn layer(number: usize, kib: usize) -> Result<Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ (number as u64 + 1);
    let mut archive = tar::Builder::new(Vec::new());
    let (mut file, mut left) = (0, kib << 10);
    while left > 0 {
        let size = left.min(FILE_BYTES);
        let mut content = Vec::with_capacity(size);
        while content.len() < size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            content.extend(state.to_le_bytes().map(|byte| b"teamster: sixteen"[usize::from(byte & 15)]));
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("opt/{number}/{file}"), &content[..size])?;
        (file, left) = (file + 1, left - size);
    }
    Ok(archive.into_inner()?)
}

fn report(ours: &[Run], theirs: &[Run]) {
    let ratio = |of: fn(&Run) -> Duration| {
        Spread::of(ours.iter().zip(theirs).map(|(a, b)| of(b).as_secs_f64() / of(a).as_secs_f64()))
    };
    println!("  time ratio  {}", ratio(|run| run.time));
    println!("  CPU ratio   {}", ratio(Run::cpu));
    for (name, runs) in [("Teamster", ours), ("ctr", theirs)] {
        let median =
            |of: fn(&Run) -> Duration| Spread::of(runs.iter().map(|run| of(run).as_secs_f64())).median;
        println!(
            "  {name:<10}  {:.3} s; CPU-s: {:.3} client, {:.3} containerd, {:.3} registry",
            median(|run| run.time),
            median(|run| run.client),
            median(|run| run.containerd),
            median(|run| run.registry)
        );
    }
}
