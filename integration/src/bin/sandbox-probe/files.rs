//! What a task finds in its file system: devices, the kernel's own files, and ways to what is outside.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::libc;

use crate::raw::call;
use crate::{io_result, result, say};

/// The kernel's files through which a node could be changed or stopped.
const WRITE: [&str; 12] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/shmmax",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sysrq-trigger",
    "/sys/kernel/uevent_helper",
    "/sys/power/state",
    "/sys/kernel/mm/transparent_hugepage/enabled",
];

/// The kernel's files that tell of the host; each is empty, or not to be read.
const READ: [&str; 14] = [
    "/proc/kcore",
    "/proc/kmsg",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/latency_stats",
    "/proc/interrupts",
    "/proc/acpi",
    "/proc/scsi",
    "/proc/asound",
    "/proc/kpagecount",
    "/sys/firmware",
    "/sys/kernel/debug",
    "/sys/devices/virtual/powercap",
];

/// Devices by which a host could be read or taken.
const DEVICES: [&str; 12] = [
    "/dev/console",
    "/dev/fuse",
    "/dev/kmsg",
    "/dev/kvm",
    "/dev/loop-control",
    "/dev/mem",
    "/dev/net/tun",
    "/dev/port",
    "/dev/sda",
    "/dev/vda",
    "/dev/nvme0n1",
    "/dev/tty",
];

/// Directories that are not a task's to write to.
const CLOSED: [&str; 10] =
    ["/", "/bin", "/dev", "/dev/pts", "/etc", "/proc", "/proc/self", "/sys", "/sys/fs/cgroup", "/root"];

/// The file descriptors that this process was started with. Must come before anything is opened.
pub(crate) fn inherited() {
    let open: Vec<String> = (0..1024)
        .filter(|fd| call(libc::SYS_fcntl, [*fd, libc::F_GETFD as usize]).is_ok())
        .map(|fd| fd.to_string())
        .collect();
    say("inherited-files", open.join(" "));
}

pub(crate) fn all() {
    say("dev-has", names("/dev"));
    for path in DEVICES {
        say(format_args!("open-{path}"), io_result(&OpenOptions::new().read(true).write(true).open(path)));
    }
    make_devices();
    for path in WRITE {
        say(format_args!("write-{path}"), io_result(&OpenOptions::new().write(true).open(path)));
    }
    for path in READ {
        say(format_args!("read-{path}"), content(path));
    }
    for path in CLOSED {
        say(format_args!("create-in-{path}"), io_result(&File::create(format!("{path}/probe"))));
    }
    say("replace-etc-passwd", io_result(&OpenOptions::new().write(true).open("/etc/passwd")));
    say("rename-etc-passwd", io_result(&fs::rename("/etc/passwd", "/etc/passwd2")));
    ways_out();
}

fn make_devices() {
    let make = |path: &std::ffi::CStr, kind: u32, device: u64| {
        let address = path.as_ptr() as usize;
        let at = libc::AT_FDCWD as usize;
        result(&call(libc::SYS_mknodat, [at, address, (kind | 0o666) as usize, device as usize]))
    };
    say("mknod-memory", make(c"/tmp/memory", libc::S_IFCHR, libc::makedev(1, 1)));
    say("mknod-null", make(c"/tmp/null", libc::S_IFCHR, libc::makedev(1, 3)));
    say("mknod-disk", make(c"/tmp/disk", libc::S_IFBLK, libc::makedev(8, 0)));
    say("mknod-fifo", make(c"/tmp/fifo", libc::S_IFIFO, 0));
}

/// Through the links of the kernel, and through a link that a task makes by itself.
fn ways_out() {
    let same = |a: &str, b: &str| -> io::Result<bool> {
        let (a, b) = (fs::metadata(a)?, fs::metadata(b)?);
        Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
    };
    // The first process is ours, or an agent's helper that stands in the same place.
    say(
        "root-of-1",
        same("/proc/1/root", "/").map_or_else(|error| io_result::<()>(&Err(error)), |b| b.to_string()),
    );
    say("above-root", same("/..", "/").is_ok_and(|same| same));
    say(
        "own-cgroup",
        fs::read_to_string("/proc/self/cgroup").map_or_else(
            |error| error.to_string(),
            |text| {
                let mut paths: Vec<&str> =
                    text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
                paths.sort_unstable();
                paths.dedup();
                paths.join(" ")
            },
        ),
    );
    say("cgroup-files", names("/sys/fs/cgroup"));
    let far = "/proc/self/root/../../../../../../var/lib/teamster";
    say("far-up", io_result(&fs::read_dir(far)));
    let link = std::os::unix::fs::symlink("/etc/shadow", "/tmp/shadow");
    say("link-made", io_result(&link));
    say("link-to-shadow", io_result(&File::open("/tmp/shadow")));
    say("network-devices", names("/sys/class/net"));
    say("symbols", content_of_symbols());
    say("processes", processes());
    let writable = mounts().iter().filter(|(_, _, options)| options.split(',').any(|o| o == "rw")).count();
    say("has-writable-mounts", writable > 0);
    // Whatever can be written to must hold neither devices nor programs that change who one is.
    let unsafe_mounts: Vec<String> = mounts()
        .into_iter()
        .filter(|(_, kind, options)| {
            let has = |wanted| options.split(',').any(|option| option == wanted);
            has("rw") && !(has("nosuid") && (has("nodev") || kind == "devpts" || kind == "tmpfs"))
        })
        .map(|(path, _, _)| path)
        .collect();
    say("mounts-without-nosuid-nodev", joined(&unsafe_mounts));
}

/// Path, type and options of all mounts.
fn mounts() -> Vec<(String, String, String)> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(1).map(str::to_owned);
        Some((fields.next()?, fields.next()?, fields.next()?))
    };
    text.lines().filter_map(mount).collect()
}

/// How many processes can be seen beside this one and the first.
fn processes() -> String {
    let own = std::process::id();
    let others = fs::read_dir("/proc").into_iter().flatten().flatten().filter(|entry| {
        let pid: Option<u32> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        pid.is_some_and(|pid| pid != own && pid != 1)
    });
    others.count().to_string()
}

/// Addresses of the kernel, which are all zero for whom they are hidden from.
fn content_of_symbols() -> String {
    let Ok(text) = fs::read_to_string("/proc/kallsyms") else { return "hidden".to_owned() };
    let shown =
        text.lines().any(|line| line.split(' ').next().is_some_and(|at| !at.trim_matches('0').is_empty()));
    if shown { "shown".to_owned() } else { "hidden".to_owned() }
}

/// What a file or directory holds: nothing, something, or why that cannot be seen.
fn content(path: &str) -> String {
    if Path::new(path).is_dir() {
        return names(path);
    }
    let mut byte = [0];
    match File::open(path).and_then(|mut file| file.read(&mut byte)) {
        Ok(0) => "empty".to_owned(),
        Ok(_) => "readable".to_owned(),
        Err(error) => io_result::<()>(&Err(error)),
    }
}

fn names(path: &str) -> String {
    match fs::read_dir(path) {
        Err(error) => io_result::<()>(&Err(error)),
        Ok(entries) => {
            let mut names: Vec<String> =
                entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort_unstable();
            joined(&names)
        }
    }
}

fn joined(names: &[String]) -> String {
    if names.is_empty() { "empty".to_owned() } else { names.join(" ") }
}
