//! What tasks could leave behind on a node: everything is looked for where it would be, not where Teamster
//! says that it is.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::cluster::Cluster;
use crate::stand::Stand;
use crate::world;

/// How many seconds the processes sleep that this test's tasks leave behind: a number that nobody else has.
pub fn sleeper_seconds() -> String {
    (900_000_000 + u64::from(std::process::id())).to_string()
}

/// Everything that was found, by kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Remains {
    containers: BTreeSet<String>,
    tasks: BTreeSet<String>,
    snapshots: BTreeSet<String>,
    leases: BTreeSet<String>,
    content: BTreeSet<String>,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    processes: BTreeSet<String>,
    directories: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    links: BTreeSet<String>,
    rules: BTreeSet<String>,
}

impl Remains {
    /// Looks for all of it. Other tests' tasks may run beside: of what all share, only what bears one of
    /// the names of `tasks` counts.
    pub fn look(stand: &Stand, cluster: &Cluster, tasks: &[String]) -> Self {
        let ctr = |arguments: &[&str]| ctr(&stand.containerd.socket(), arguments);
        let base = stand.dir().to_string_lossy().into_owned();
        Self {
            containers: ctr(&["containers", "ls", "-q"]),
            tasks: ctr(&["tasks", "ls", "-q"]),
            snapshots: ctr(&["snapshots", "ls"]),
            leases: ctr(&["leases", "ls", "-q"]),
            content: ctr(&["content", "ls", "-q"]),
            mounts: mounts_below(&base),
            cgroups: cgroups(tasks),
            processes: shims_and_sleepers(&base),
            directories: directories(stand, cluster, tasks),
            namespaces: network_namespaces(&base),
            links: world::links().into_iter().filter(|name| name.starts_with("tmst")).collect(),
            rules: world::rules().lines().map(str::to_owned).collect(),
        }
    }
}

/// What `ctr` prints of the namespace of tasks, line by line.
///
/// # Panics
/// When it fails.
pub fn ctr(socket: &Path, arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new("ctr").arg("-a").arg(socket).args(["-n", "teamster"]).args(arguments).output();
    let output = output.expect("run ctr");
    assert!(output.status.success(), "ctr {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn mounts_below(base: &str) -> BTreeSet<String> {
    let mounts = procfs::process::Process::myself().unwrap().mountinfo().unwrap();
    let points = mounts.into_iter().map(|mount| mount.mount_point.to_string_lossy().into_owned());
    points.filter(|point| point.starts_with(base)).collect()
}

/// What the agent keeps of attempts, containerd of their shims, and runc, whose directory is everybody's, of
/// their containers.
fn directories(stand: &Stand, cluster: &Cluster, tasks: &[String]) -> BTreeSet<String> {
    let bundles =
        ["root", "state"].map(|at| stand.dir().join(at).join("io.containerd.runtime.v2.task/teamster"));
    let own = bundles.into_iter().chain([cluster.agent_dir().join("tasks")]);
    let own = own.flat_map(|directory| below(&directory)).filter(|path| !is_being_removed(path));
    let shared = below(Path::new("/run/containerd/runc/teamster")).into_iter();
    own.chain(shared.filter(|path| tasks.iter().any(|task| path.contains(task.as_str())))).collect()
}

/// containerd hides the directory of a shim before it removes it. One that is killed just then never looks at it
/// again, and nobody else is told where it is.
fn is_being_removed(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with('.'))
}

fn cgroups(tasks: &[String]) -> BTreeSet<String> {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let hierarchies = hierarchies.chain(["/sys/fs/cgroup".into()]);
    let found = hierarchies.flat_map(|hierarchy| below(&hierarchy.join("teamster")));
    found.filter(|path| tasks.iter().any(|task| path.contains(task.as_str()))).collect()
}

fn below(directory: &Path) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return BTreeSet::new() };
    let paths = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    paths.map(|path| path.to_string_lossy().into_owned()).collect()
}

/// What runs for containers of this containerd, keepers among it, and the sleepers that test tasks leave behind.
fn shims_and_sleepers(base: &str) -> BTreeSet<String> {
    let processes = procfs::process::all_processes().unwrap().filter_map(Result::ok);
    let seconds = sleeper_seconds();
    processes
        .filter_map(|process| {
            let words = process.cmdline().ok()?;
            let program = words.first()?;
            let names = ["containerd-shim", "teamster-keeper", "teamster-init", "runc"];
            let is_shim = names.iter().any(|name| program.contains(name));
            let is_shim = is_shim && words.iter().any(|word| word.contains(base));
            let is_sleeper = words.contains(&seconds) && words[0].contains("sleep");
            (is_shim || is_sleeper).then(|| format!("{} {}", process.pid, words.join(" ")))
        })
        .collect()
}

/// Network namespaces that live: those in which something runs that belongs to this containerd, those that one of
/// these processes holds open, and those that are mounted anywhere.
fn network_namespaces(base: &str) -> BTreeSet<String> {
    let processes = procfs::process::all_processes().unwrap().filter_map(Result::ok);
    let ours = processes
        .filter(|process| process.cmdline().is_ok_and(|words| words.iter().any(|word| word.contains(base))));
    let of_process = |process: procfs::process::Process| {
        let at = format!("/proc/{}", process.pid);
        let open = std::fs::read_dir(format!("{at}/fd")).into_iter().flatten().flatten();
        let links = open.map(|entry| entry.path()).chain([format!("{at}/ns/net").into()]);
        links.filter_map(|link| Some(std::fs::read_link(link).ok()?.to_string_lossy().into_owned()))
    };
    let mounts = procfs::process::Process::myself().unwrap().mountinfo().unwrap();
    let mounted = mounts.into_iter().filter(|mount| mount.fs_type == "nsfs").map(|mount| mount.root);
    let all = ours.flat_map(of_process).chain(mounted);
    all.filter(|name| name.trim_start_matches('/').starts_with("net:[")).collect()
}
