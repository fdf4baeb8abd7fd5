//! The one place where a container's confinement is decided: from a [`ContainerSpec`] to the OCI
//! specification that runc obeys. Nothing in it comes from a task or an image but argv, environment, the
//! working directory and the directories that the plan binds; there is no switch that weakens it.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxCpuBuilder, LinuxDeviceCgroup,
    LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder, LinuxNamespaceBuilder, LinuxNamespaceType,
    LinuxResources, LinuxResourcesBuilder, Mount, MountBuilder, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use rustix::process::{Resource, getrlimit};

use super::network::Names;
use super::rootfs::{Kind, Rootfs};
use super::{Bind, ContainerSpec, cgroup, etc, mount_points, programs, seccomp};
use crate::assignment::Network;

/// Others may read what a task leaves on shared storage, only its user may change it.
const UMASK: u32 = 0o022;

/// Tasks are killed for memory before anything of the node's own.
const OOM_SCORE_ADJ: i32 = 500;

/// Open files that programs get unless they ask for more: some close all that they could have, one by one.
const OPEN_FILES_SOFT: u64 = 65_536;

/// Pseudo-terminals of a container. The kernel has 4096 for the whole machine, and whoever takes them all locks
/// out every other container.
const TERMINALS_MAX: u32 = 128;

/// Files of the kernel that tell of the host.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Files of the kernel that change the host.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Character devices that a task may use, by major and minor number: null, zero, full, random, urandom, tty,
/// ptmx, and all pseudo-terminals.
const DEVICES: [(i64, Option<i64>); 8] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
];

/// Why no specification can be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum SandboxError {
    /// The user's mistake.
    #[error("{0}")]
    Workdir(String),
    /// The image's fault: no container can be made of it.
    #[error("{0}")]
    Image(String),
    /// A generated file, or a look into the image.
    #[error("prepare files of the container: {0}")]
    Io(#[from] io::Error),
    /// Should not happen: every field has a default.
    #[error("put the specification together: {0}")]
    Spec(#[from] OciSpecError),
}

/// The whole specification. Writes the generated files into `container.private`; `inside` is the directory of
/// the program that starts the command.
pub(super) fn build(
    container: &ContainerSpec,
    rootfs: &Rootfs,
    names: &Names,
    inside: &Path,
) -> Result<Spec, SandboxError> {
    let hostname = hostname(container);
    let scratch = workdir_bind(container, rootfs)?;
    let mut mounts = kernel_mounts(container)?;
    let files = etc::write(container, rootfs, &hostname, names)?;
    for file in &files {
        let options = ["bind", "rprivate", "nosuid", "nodev", "noexec", "ro"];
        mounts.push(mount("bind", &file.source, &file.destination, &options)?);
    }
    mounts.extend(init_mounts(container, inside)?);
    for bind in scratch.iter().chain(&container.binds) {
        mounts.push(bind_mount(bind)?);
    }
    let files: Vec<&Path> = files.iter().map(|file| Path::new(&file.destination)).collect();
    if let Some(obstacle) = mount_points::obstacle(rootfs, &mounts, &files)? {
        return Err(SandboxError::Image(obstacle));
    }
    let spec = SpecBuilder::default()
        .version("1.0.2")
        .hostname(hostname)
        .root(RootBuilder::default().path("rootfs").readonly(true).build()?)
        .process(process(container)?)
        .mounts(mounts)
        .linux(linux(container)?)
        .build()?;
    Ok(spec)
}

/// The end of the task's id, which is its random part: ids of one second all begin alike.
fn hostname(container: &ContainerSpec) -> String {
    let id = container.id.attempt.task.to_string();
    id[id.len() - 12..].to_owned()
}

/// The scratch directory as working directory, where neither a bind nor the image provides one.
fn workdir_bind(container: &ContainerSpec, rootfs: &Rootfs) -> Result<Option<Bind>, SandboxError> {
    let workdir = &container.workdir;
    let refuse = |why: &str| Err(SandboxError::Workdir(format!("working directory '{workdir}' {why}")));
    // Through /proc/self/fd a working directory could be one of the host's.
    if mount_points::is_kernels(workdir.as_path()) {
        return refuse("belongs to the kernel");
    }
    if container.binds.iter().any(|bind| workdir.starts_with(&bind.destination)) {
        return Ok(None);
    }
    let Some(place) = rootfs.resolve(workdir.as_path())? else {
        return refuse("is a link in the image that leads back to itself");
    };
    if mount_points::is_kernels(&place.path) {
        return refuse("is a link in the image to what belongs to the kernel");
    }
    match place.kind {
        Kind::Directory => Ok(None),
        Kind::File | Kind::Special | Kind::Blocked => refuse("is not a directory in the image"),
        Kind::Missing => Ok(Some(Bind {
            source: container.workdir_scratch.clone(),
            destination: workdir.clone(),
            read_only: false,
            follows_mounts: false,
        })),
    }
}

fn process(container: &ContainerSpec) -> Result<Process, OciSpecError> {
    let user = UserBuilder::default()
        .uid(container.identity.uid)
        .gid(container.identity.gid)
        .umask(UMASK)
        .additional_gids(Vec::<u32>::new())
        .build()?;
    // Empty and not absent: an absent set may mean "as the runtime has it".
    let none = HashSet::new;
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(none())
        .effective(none())
        .inheritable(none())
        .permitted(none())
        .ambient(none())
        .build()?;
    let init = [format!("{}/{}", teamster_init::INSIDE, programs::INIT)];
    ProcessBuilder::default()
        .terminal(false)
        .user(user)
        .args(init.into_iter().chain(container.args.iter().cloned()).collect::<Vec<_>>())
        .env(container.env.clone())
        .cwd(container.workdir.as_path())
        .capabilities(capabilities)
        .rlimits(rlimits(container.open_files_max)?)
        .no_new_privileges(true)
        .oom_score_adj(OOM_SCORE_ADJ)
        .build()
}

fn rlimits(open_files_max: u64) -> Result<Vec<PosixRlimit>, OciSpecError> {
    // Nobody may be given more than the runtime itself has, unless it holds CAP_SYS_RESOURCE.
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX).min(open_files_max);
    let limit =
        |kind, soft: u64, hard: u64| PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build();
    Ok(vec![
        limit(PosixRlimitType::RlimitNofile, OPEN_FILES_SOFT.min(most), most)?,
        limit(PosixRlimitType::RlimitCore, 0, 0)?,
    ])
}

fn kernel_mounts(container: &ContainerSpec) -> Result<Vec<Mount>, OciSpecError> {
    let shm = format!("size={}", container.shm_bytes);
    let dev = ["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"];
    let terminals = format!("max={TERMINALS_MAX}");
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", &terminals];
    let quiet = ["nosuid", "noexec", "nodev"];
    let special = |kind: &str, path: &str, options: &[&str]| mount(kind, Path::new(kind), path, options);
    let mut mounts = vec![
        special("proc", "/proc", &quiet)?,
        special("tmpfs", "/dev", &dev)?,
        special("devpts", "/dev/pts", &pts)?,
        special("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm])?,
        special("mqueue", "/dev/mqueue", &quiet)?,
        special("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"])?,
    ];
    if cgroup::is_unified() {
        // Language runtimes size themselves by the limits that they read here.
        mounts.push(special("cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])?);
    }
    Ok(mounts)
}

/// The program that starts the command, and where it meets its keeper: on the container's own `/dev`, so that
/// no image is in the way. Only the program can be executed there, and nothing can be written.
fn init_mounts(container: &ContainerSpec, inside: &Path) -> Result<[Mount; 2], OciSpecError> {
    let talk = format!("{}/{}", teamster_init::INSIDE, teamster_init::TALK);
    let options = ["bind", "rprivate", "nosuid", "nodev", "ro"];
    let no_programs = ["bind", "rprivate", "nosuid", "nodev", "noexec", "ro"];
    Ok([
        mount("bind", inside, teamster_init::INSIDE, &options)?,
        mount("bind", &container.keeping.talk, &talk, &no_programs)?,
    ])
}

fn bind_mount(bind: &Bind) -> Result<Mount, OciSpecError> {
    let mut options = vec!["rbind", "nosuid", "nodev"];
    options.push(if bind.follows_mounts { "rslave" } else { "rprivate" });
    if bind.read_only {
        // The second reaches what is mounted below the directory by now.
        options.extend(["ro", "rro"]);
    }
    mount("bind", &bind.source, bind.destination.as_str(), &options)
}

fn mount(kind: &str, source: &Path, destination: &str, options: &[&str]) -> Result<Mount, OciSpecError> {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    MountBuilder::default().typ(kind).source(source).destination(destination).options(options).build()
}

fn linux(container: &ContainerSpec) -> Result<Linux, OciSpecError> {
    use LinuxNamespaceType as Kind;
    let mut kinds = vec![Kind::Pid, Kind::Ipc, Kind::Uts, Kind::Mount];
    if container.network != Network::Host {
        kinds.push(Kind::Network);
    }
    if Path::new("/proc/self/ns/cgroup").exists() {
        kinds.push(Kind::Cgroup);
    }
    let namespaces = kinds
        .into_iter()
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build())
        .collect::<Result<Vec<_>, _>>()?;
    let paths = |list: &[&str]| list.iter().map(|path| (*path).to_owned()).collect::<Vec<String>>();
    LinuxBuilder::default()
        .namespaces(namespaces)
        .cgroups_path(cgroup::container_path(container.id))
        .resources(resources(container)?)
        .seccomp(seccomp::profile())
        .masked_paths(paths(&MASKED))
        .readonly_paths(paths(&READ_ONLY))
        .rootfs_propagation("private")
        .build()
}

/// The attempt's cgroup is what holds the limits. CPU and memory are said again here for programs that read
/// their own cgroup to size themselves.
fn resources(container: &ContainerSpec) -> Result<LinuxResources, OciSpecError> {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let memory = LinuxMemoryBuilder::default().limit(signed(container.limits.memory_bytes)).build()?;
    let cpu = LinuxCpuBuilder::default()
        .period(cgroup::CPU_PERIOD_MICROS)
        .quota(signed(cgroup::cpu_quota_micros(container.limits.cpu_milli)))
        .build()?;
    LinuxResourcesBuilder::default().memory(memory).cpu(cpu).devices(devices()?).build()
}

fn devices() -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    let mut rules = vec![LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build()?];
    for (major, minor) in DEVICES {
        let mut rule =
            LinuxDeviceCgroupBuilder::default().allow(true).typ(LinuxDeviceType::C).major(major).access("rw");
        if let Some(minor) = minor {
            rule = rule.minor(minor);
        }
        rules.push(rule.build()?);
    }
    Ok(rules)
}
