//! What a task must find, line by line, and why. Alternatives are parted by `|`: which of several refusals it
//! is depends on the runtime, on the kernel's version and on what the machine has. `*` is anything.

use std::collections::BTreeMap;

/// Lines of calls that the filter refuses; `runc` says ENOSYS to numbers that are newer than itself.
const REFUSED_CALLS: &str = "acct add_key bpf chroot clock_settime clone-cgroup clone-ipc clone-mount \
    clone-network clone-pid clone-user clone-uts delete_module fanotify_init finit_module fsconfig fsmount \
    fsopen fspick init_module ioctl-set-attributes ioctl-set-attributes-wide ioctl-set-flags ioctl-set-flags-32 \
    ioctl-set-flags-wide io_uring_enter io_uring_register io_uring_setup kcmp kexec_file_load kexec_load \
    keyctl lookup_dcookie migrate_pages mount mount-remount mount_setattr move_mount move_pages \
    name_to_handle_at open_by_handle_at open_tree perf_event_open personality-no-random pidfd_getfd pivot_root \
    process_madvise process_vm_readv process_vm_writev quotactl quotactl_fd reboot request_key setdomainname \
    sethostname setns settimeofday swapoff swapon syslog umount2 unshare-mount unshare-network \
    unshare-nothing unshare-user userfaultfd vhangup";

/// The same on x86 machines, which alone have them.
const REFUSED_CALLS_X86: &str = "ioperm iopl sysfs uselib ustat";

/// Everything else.
const WANTED: &[(&str, &str, &str)] = &[
    // Calls.
    ("call-a-number-of-the-future", "ENOSYS|EPERM", "what nobody has looked at is not allowed"),
    ("call-file_setattr", "ENOSYS|EPERM", "the project of a file, through another door"),
    ("call-ioctl-bytes-to-read", "ok", "requests that concern nobody else are made"),
    ("call-listmount", "ENOSYS|EPERM", "mounts of other namespaces"),
    ("call-statmount", "ENOSYS|EPERM", "mounts of other namespaces"),
    ("call-open_tree_attr", "ENOSYS|EPERM", "open_tree once more"),
    ("call-clone3", "ENOSYS", "its flags lie in memory, where no filter sees them; libraries then use clone"),
    ("call-getpid", "ok", "the proof that calls are made at all"),
    ("call-openat2", "EINVAL", "allowed: the kernel itself finds that it is called with nothing"),
    ("call-pidfd_open-others", "ESRCH", "allowed, and finds only what is in the container"),
    ("call-ptrace-others", "ESRCH", "allowed for debuggers, and finds only what is in the container"),
    (
        "compatible-door",
        "SIGSYS|SIGSEGV|none",
        "32-bit calls have numbers of their own, which no list covers",
    ),
    ("x32-door", "SIGSYS|ENOSYS|EPERM", "the same for the third numbering of x86"),
    // Sockets.
    ("socket-families", "1 2 10 16|1 2 16", "UNIX, INET, INET6 (where the host has it), NETLINK"),
    ("socketpair-families", "1", "pairs are of Unix sockets"),
    ("socketpair-reached", "none", "the kernel makes the sockets of a pair before it refuses the pair"),
    ("socket-crypto", "EPERM", "AF_ALG was the way in of Copy Fail"),
    ("socket-vsock", "EPERM", "the hypervisor listens there"),
    ("socket-packet", "EPERM", "raw frames"),
    ("socket-wide-number", "EPERM", "the filter compares all 64 bits, the kernel takes 32"),
    ("socket-raw-ip", "EPERM", "raw packets need a capability"),
    ("socket-ping", "EACCES", "nobody may ping from a namespace in which no group was allowed to"),
    ("netlink-set-link", "EPERM", "even its own network is not a task's to change"),
    // Who it is.
    ("status-CapInh", NO_CAPABILITY, "nothing to hand on"),
    ("status-CapPrm", NO_CAPABILITY, "nothing to take up"),
    ("status-CapEff", NO_CAPABILITY, "nothing in force"),
    ("status-CapBnd", NO_CAPABILITY, "nothing to gain"),
    ("status-CapAmb", NO_CAPABILITY, "nothing kept over exec"),
    ("status-NoNewPrivs", "1", "set-user-id programs gain nothing"),
    ("status-Seccomp", "2", "the filter is in force"),
    ("status-Umask", "0022", "files of tasks can be read by others and written by their owner"),
    ("status-Uid", "65534 65534 65534 65534", "the operator's choice, four times"),
    ("status-Gid", "65534 65534 65534 65534", "the operator's choice, four times"),
    ("status-Groups", "", "none of root's groups are left"),
    ("setuid-0", "EPERM", "not root"),
    ("setgid-0", "EPERM", "not root's group"),
    ("setgroups-0", "EPERM", "not root's group"),
    ("capset", "EPERM", "no capability can be taken"),
    ("prctl-forget-no-new-privileges", "EINVAL", "it cannot be taken back"),
    ("prctl-securebits", "EPERM", "needs a capability"),
    ("prctl-ambient", "EPERM", "needs the capability itself"),
    ("realtime", "EPERM", "the node's own programs would wait for it"),
    ("nice-minus-5", "EACCES|EPERM", "not before others"),
    ("core-limit", "0 0", "no core files, and no program of the host that is piped one"),
    ("core-limit-raised", "EPERM", "and it stays so"),
    ("setuid-program", "65534 0000000000000000", "root's set-user-id program runs as whoever starts it"),
    ("own-setuid-program-made", "ok", "the bit may be set"),
    ("own-setuid-program", "65534 0000000000000000", "and means nothing"),
    ("chown-to-root", "EPERM", "files cannot be given away"),
    ("chroot-program", "exit 1", "a shell's way to the call"),
    ("own-oom-score", "500", "tasks die before the node's own programs"),
    ("lower-own-oom-score", "EACCES", "and cannot change that"),
    ("kill-init", "ok ok", "sent, and ignored by the kernel: the probe goes on"),
    ("hostname", "*", "a part of the task's id"),
    // Files and devices.
    ("inherited-files", "0 1 2", "a leaked descriptor of the host was the way out of CVE-2024-21626"),
    (
        "dev-has",
        "fd full mqueue null ptmx pts random shm stderr stdin stdout teamster tty urandom zero\
         |core fd full mqueue null ptmx pts random shm stderr stdin stdout teamster tty urandom zero",
        "nothing of the host's but init's program",
    ),
    ("open-/dev/console", "ENOENT", "there is no terminal"),
    ("open-/dev/fuse", "ENOENT", "no file systems of its own"),
    ("open-/dev/kmsg", "ENOENT", "the kernel's log"),
    ("open-/dev/kvm", "ENOENT", "virtual machines"),
    ("open-/dev/loop-control", "ENOENT", "disks made of files"),
    ("open-/dev/mem", "ENOENT", "memory"),
    ("open-/dev/net/tun", "ENOENT", "network devices"),
    ("open-/dev/port", "ENOENT", "ports"),
    ("open-/dev/sda", "ENOENT", "the host's disk"),
    ("open-/dev/vda", "ENOENT", "the host's disk"),
    ("open-/dev/nvme0n1", "ENOENT", "the host's disk"),
    ("open-/dev/tty", "ENXIO", "allowed, and there is none"),
    ("mknod-memory", "EPERM", "devices cannot be made"),
    ("mknod-null", "EPERM", "devices cannot be made"),
    ("mknod-disk", "EPERM", "devices cannot be made"),
    ("mknod-fifo", "ok", "pipes can"),
    ("create-in-/", "EROFS", "the image is read-only"),
    ("create-in-/bin", "EROFS", "the image is read-only"),
    ("create-in-/etc", "EROFS", "the image is read-only"),
    ("create-in-/root", "EROFS", "the image is read-only"),
    ("create-in-/dev", "EACCES", "root's"),
    ("create-in-/dev/pts", "EACCES|EPERM", "the kernel's"),
    ("create-in-/proc", "ENOENT", "the kernel's"),
    ("create-in-/proc/self", "ENOENT", "the kernel's"),
    ("create-in-/sys", "EROFS", "the kernel's"),
    ("create-in-/sys/fs/cgroup", "ENOENT|EROFS", "limits are not a task's to change"),
    ("cgroup-files", "*", "nothing on cgroup v1; on v2 its own, read-only"),
    ("own-cgroup", "/", "its own is all that it sees"),
    ("replace-etc-passwd", "EACCES|EROFS", "generated, and root's"),
    ("rename-etc-passwd", "EROFS|EBUSY", "generated, and mounted"),
    ("file-made", "ok", "its own directories are writable"),
    ("file-made-mode", "644", "the umask"),
    ("file-made-owner", "65534 65534", "its own"),
    ("mounts-without-nosuid-nodev", "empty", "where one can write, no device and no set-user-id bit counts"),
    ("has-writable-mounts", "true", "the proof that mounts are seen at all"),
    // The kernel's files.
    ("write-/proc/sys/kernel/core_pattern", REFUSED, "a program of the host that runs as root"),
    ("write-/proc/sys/kernel/modprobe", REFUSED, "a program of the host that runs as root"),
    ("write-/proc/sys/kernel/hostname", REFUSED, "who one is"),
    ("write-/proc/sys/kernel/panic", REFUSED, "the host's end"),
    ("write-/proc/sys/kernel/shmmax", REFUSED, "the kernel's limits"),
    ("write-/proc/sys/vm/overcommit_memory", REFUSED, "the host's memory"),
    ("write-/proc/sys/fs/binfmt_misc/register", REFUSED, "programs for all of the host"),
    ("write-/proc/sys/net/ipv4/ip_forward", REFUSED, "the network"),
    ("write-/proc/sysrq-trigger", REFUSED, "the host's end"),
    ("write-/sys/kernel/uevent_helper", REFUSED, "a program of the host that runs as root"),
    ("write-/sys/power/state", REFUSED, "the host's sleep"),
    ("write-/sys/kernel/mm/transparent_hugepage/enabled", REFUSED, "the host's memory"),
    ("read-/proc/kcore", HIDDEN, "the kernel's memory"),
    ("read-/proc/kmsg", HIDDEN, "the kernel's log"),
    ("read-/proc/keys", HIDDEN, "keys of other users"),
    ("read-/proc/timer_list", HIDDEN, "the kernel's addresses"),
    ("read-/proc/sched_debug", HIDDEN, "other tasks"),
    ("read-/proc/latency_stats", HIDDEN, "other tasks"),
    ("read-/proc/interrupts", HIDDEN, "what others type and do"),
    ("read-/proc/acpi", HIDDEN, "the machine"),
    ("read-/proc/scsi", HIDDEN, "disks can be taken away through it"),
    ("read-/proc/asound", HIDDEN, "the machine"),
    ("read-/proc/kpagecount", HIDDEN, "physical memory"),
    ("read-/sys/firmware", HIDDEN, "the machine"),
    ("read-/sys/kernel/debug", HIDDEN, "the kernel"),
    ("read-/sys/devices/virtual/powercap", HIDDEN, "power draw tells of others' keys"),
    ("symbols", "hidden", "the kernel's addresses"),
    ("root-of-1", "true|EACCES", "the first process has the same root, or does not let itself be looked at"),
    ("above-root", "true", "there is nothing above"),
    ("far-up", "ENOENT", "not by many steps either"),
    ("link-made", "ok", "links may point anywhere"),
    ("link-to-shadow", "ENOENT|EACCES", "and are followed inside"),
    ("processes", "0", "only its own"),
    ("network-devices", "lo", "no network but its own loopback"),
    // Others.
    ("neighbour-/tmp/neighbour", "ENOENT", "each task has its own"),
    ("neighbour-/var/tmp/neighbour", "ENOENT", "each task has its own"),
    ("neighbour-/dev/shm/neighbour", "ENOENT", "each task has its own"),
    ("neighbour-abstract", "ECONNREFUSED", "names of sockets belong to a network namespace"),
    ("neighbour-port", "ECONNREFUSED", "loopback is one's own"),
    ("neighbour-shared-memory", "ENOENT", "each task has its own"),
    ("neighbour-queue", "ENOENT", "each task has its own"),
    ("unix-sockets-in-sight", "keeper", "the other end of init's own, and nobody else's"),
    ("host-abstract", "ECONNREFUSED", "shims once listened there: CVE-2020-15257"),
    ("host-loopback", "ECONNREFUSED", "loopback is one's own"),
    ("coordinator-http", "ECONNREFUSED", "loopback is one's own"),
    ("coordinator-grpc", "ECONNREFUSED", "loopback is one's own"),
    ("coordinator-agents", "ECONNREFUSED", "loopback is one's own"),
    ("metadata", "ENETUNREACH", "a cloud's keys lie there"),
    ("metadata-ipv6", "ENETUNREACH|EADDRNOTAVAIL|EAFNOSUPPORT", "a cloud's keys lie there"),
    ("outside", "ENETUNREACH", "no network"),
    ("name-server", "ENETUNREACH", "no network"),
    ("containerd-socket", "ENOENT", "whoever reaches it is root"),
    ("system-containerd-socket", "ENOENT", "whoever reaches it is root"),
    ("shim-sockets", "ENOENT", "whoever reaches one is root"),
    ("agent-data", "ENOENT", "other tasks' files lie there"),
];

/// Counts, and the most that they may be.
const BOUNDS: &[(&str, usize, &str)] = &[
    ("bound-terminals", 128, "the machine has 4096 for all"),
    ("bound-inotify", 4096, "by user: what one task takes, others of the same user lack"),
    ("bound-queues", 256, "by namespace, and their bytes by user"),
];

/// Limits that must be there, whatever they are.
const LIMITED: &[(&str, &str, &str)] = &[
    ("bound-open-files", "true", "a million at most"),
    ("bound-locked-memory", "ENOMEM|EPERM|EAGAIN", "no gigabyte is locked in 256 MiB"),
];

const NO_CAPABILITY: &str = "0000000000000000";
const REFUSED: &str = "EACCES|EROFS|ENOENT|EPERM";
const HIDDEN: &str = "empty|ENOENT|EACCES|EPERM";

/// Fails with every line that is not as it must be, that is missing, or that no table knows.
pub(crate) fn compare(found: &BTreeMap<&str, &str>) {
    let mut left = found.clone();
    let mut wrong = Vec::new();
    let mut check = |name: &str, why: &str, wanted: &str, fits: &dyn Fn(&str) -> bool| match left.remove(name)
    {
        None => wrong.push(format!("{name} is missing ({why})")),
        Some(result) if !fits(result) => wrong.push(format!("{name} is {result}, not {wanted} ({why})")),
        Some(_) => {}
    };
    let refused = REFUSED_CALLS.split_whitespace();
    let x86 = REFUSED_CALLS_X86.split_whitespace().filter(|_| cfg!(target_arch = "x86_64"));
    for call in refused.chain(x86) {
        check(&format!("call-{call}"), "no task needs it", "EPERM", &|result| result == "EPERM");
    }
    for (name, wanted, why) in WANTED.iter().chain(LIMITED) {
        let fits = |result: &str| *wanted == "*" || wanted.split('|').any(|one| one == result);
        check(name, why, wanted, &fits);
    }
    for (name, most, why) in BOUNDS {
        let fits = |result: &str| result.parse::<usize>().is_ok_and(|count| count <= *most);
        check(name, why, &format!("at most {most}"), &fits);
    }
    wrong.extend(left.iter().map(|(name, result)| format!("{name} ({result}) stands in no table")));
    assert!(wrong.is_empty(), "the sandbox has {} holes:\n{}", wrong.len(), wrong.join("\n"));
}
