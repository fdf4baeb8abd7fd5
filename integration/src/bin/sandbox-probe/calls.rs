//! System calls that no task needs. Each is made so that a kernel without the filter would mostly answer
//! something else than the filter does, and so that it would do no harm if it were let through.

use std::os::fd::AsRawFd;

use nix::libc;

use crate::raw::call;
use crate::{result, say};

/// Not a file descriptor.
const NONE: usize = usize::MAX;

/// A new namespace of users, from which all others could be made.
const NEW_USERS: usize = libc::CLONE_NEWUSER as usize;

/// No process has it.
const NOBODY: usize = 0x3fff_ffff;

pub(crate) fn all() {
    let root = c"/".as_ptr() as usize;
    // More power over the kernel.
    try_call("acct", libc::SYS_acct, [0]);
    try_call("bpf", libc::SYS_bpf, [0, 0, 0]);
    try_call("delete_module", libc::SYS_delete_module, [0, 0]);
    try_call("fanotify_init", libc::SYS_fanotify_init, [0, 0]);
    try_call("finit_module", libc::SYS_finit_module, [NONE, 0, 0]);
    try_call("init_module", libc::SYS_init_module, [0, 0, 0]);
    try_call("io_uring_enter", libc::SYS_io_uring_enter, [NONE]);
    try_call("io_uring_register", libc::SYS_io_uring_register, [NONE]);
    try_call("io_uring_setup", libc::SYS_io_uring_setup, [1, 0]);
    try_call("kexec_file_load", libc::SYS_kexec_file_load, [NONE, NONE]);
    try_call("kexec_load", libc::SYS_kexec_load, [0, 0, 0, NONE]);
    try_call("lookup_dcookie", libc::SYS_lookup_dcookie, [0, 0, 0]);
    try_call("perf_event_open", libc::SYS_perf_event_open, [0, 0, NONE, NONE, 0]);
    try_call("process_vm_readv", libc::SYS_process_vm_readv, [NOBODY, 0, 0, 0, 0, 0]);
    try_call("process_vm_writev", libc::SYS_process_vm_writev, [NOBODY, 0, 0, 0, 0, 0]);
    try_call("quotactl", libc::SYS_quotactl, [0, 0, 0, 0]);
    try_call("quotactl_fd", libc::SYS_quotactl_fd, [NONE, 0, 0, 0]);
    // Magic numbers that mean nothing.
    try_call("reboot", libc::SYS_reboot, [0, 0, 0, 0]);
    try_call("swapoff", libc::SYS_swapoff, [0]);
    try_call("swapon", libc::SYS_swapon, [0, 0]);
    // The size of the kernel's log, which is harmless.
    try_call("syslog", libc::SYS_syslog, [10, 0, 0]);
    try_call("userfaultfd", libc::SYS_userfaultfd, [1]);
    try_call("vhangup", libc::SYS_vhangup, []);
    // Keys, which are counted by user and not by container.
    try_call("add_key", libc::SYS_add_key, [0, 0, 0, 0, 0]);
    try_call("keyctl", libc::SYS_keyctl, [0, 0, 0]);
    try_call("request_key", libc::SYS_request_key, [0, 0, 0, 0]);
    file_requests();
    mounts(root);
    processes(root);
    clocks_and_names();
    special_to_one_machine();
}

/// Requests about a file of one's own by which it could be taken out of the count of the task's disk space.
fn file_requests() {
    // Nothing but what it has by now is asked for, so that nothing changes where it is let through.
    let Ok(file) = std::fs::File::create("/tmp/requests") else { return };
    let fd = usize::try_from(file.as_raw_fd()).unwrap_or(NONE);
    let mut space = [0_u64; 16];
    let space = space.as_mut_ptr() as usize;
    let high = 0xdead_beef << 32;
    for (name, request) in [
        ("set-flags", 0x4008_6602),
        ("set-flags-32", 0x4004_6602),
        ("set-flags-wide", high | 0x4008_6602),
        ("set-attributes", 0x401c_5820),
        ("set-attributes-wide", high | 0x401c_5820),
        // The proof that others are made.
        ("bytes-to-read", 0x541b),
    ] {
        try_call(&format!("ioctl-{name}"), libc::SYS_ioctl, [fd, request, space]);
    }
    // No libc has its name yet.
    try_call("file_setattr", 469, [fd, c"".as_ptr() as usize, space, 24, 0x1000]);
}

fn mounts(root: usize) {
    let tmpfs = c"tmpfs".as_ptr() as usize;
    try_call("mount", libc::SYS_mount, [tmpfs, c"/tmp".as_ptr() as usize, tmpfs, 0, 0]);
    try_call("mount-remount", libc::SYS_mount, [0, root, 0, (libc::MS_REMOUNT | libc::MS_BIND) as usize, 0]);
    try_call("umount2", libc::SYS_umount2, [c"/proc".as_ptr() as usize, libc::MNT_DETACH as usize]);
    try_call("fsconfig", libc::SYS_fsconfig, [NONE, 0, 0, 0, 0]);
    try_call("fsmount", libc::SYS_fsmount, [NONE, 0, 0]);
    try_call("fsopen", libc::SYS_fsopen, [tmpfs, 0]);
    try_call("fspick", libc::SYS_fspick, [NONE, root, 0]);
    try_call("mount_setattr", libc::SYS_mount_setattr, [NONE, root, 0, 0, 0]);
    try_call("move_mount", libc::SYS_move_mount, [NONE, root, NONE, root, 0]);
    try_call("open_tree", libc::SYS_open_tree, [libc::AT_FDCWD as usize, root, 1]);
    // Of these three the numbers are the same everywhere, and not every libc has their names.
    try_call("statmount", 457, [0, 0, 0, 0]);
    try_call("listmount", 458, [0, 0, 0, 0]);
    try_call("open_tree_attr", 467, [NONE, root, 0, 0, 0]);
    try_call("chroot", libc::SYS_chroot, [root]);
    try_call("pivot_root", libc::SYS_pivot_root, [root, root]);
    try_call("name_to_handle_at", libc::SYS_name_to_handle_at, [NONE, root, 0, 0, 0]);
    try_call("open_by_handle_at", libc::SYS_open_by_handle_at, [NONE, 0, 0]);
}

fn processes(root: usize) {
    try_call("unshare-user", libc::SYS_unshare, [NEW_USERS]);
    try_call("unshare-mount", libc::SYS_unshare, [libc::CLONE_NEWNS as usize]);
    try_call("unshare-network", libc::SYS_unshare, [libc::CLONE_NEWNET as usize]);
    try_call("unshare-nothing", libc::SYS_unshare, [0]);
    for (name, flag) in [
        ("user", libc::CLONE_NEWUSER),
        ("mount", libc::CLONE_NEWNS),
        ("pid", libc::CLONE_NEWPID),
        ("network", libc::CLONE_NEWNET),
        ("ipc", libc::CLONE_NEWIPC),
        ("uts", libc::CLONE_NEWUTS),
        ("cgroup", libc::CLONE_NEWCGROUP),
    ] {
        // Threads cannot have these: a kernel without the filter says EINVAL and makes nothing.
        let flags = flag | libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_VM | libc::CLONE_FS;
        try_call(&format!("clone-{name}"), libc::SYS_clone, [flags as usize, 0, 0, 0, 0]);
    }
    try_call("clone3", libc::SYS_clone3, [0, 0]);
    try_call("setns", libc::SYS_setns, [NONE, 0]);
    try_call("kcmp", libc::SYS_kcmp, [NOBODY, NOBODY, 0, 0, 0]);
    try_call("pidfd_getfd", libc::SYS_pidfd_getfd, [NONE, 0, 0]);
    try_call("process_madvise", libc::SYS_process_madvise, [NONE, 0, 0, 0, 0]);
    try_call("move_pages", libc::SYS_move_pages, [NOBODY, 0, 0, 0, 0, 0]);
    try_call("migrate_pages", libc::SYS_migrate_pages, [NOBODY, 0, 0, 0]);
    try_call("ptrace-others", libc::SYS_ptrace, [libc::PTRACE_SEIZE as usize, NOBODY, 0, 0]);
    try_call("personality-no-random", libc::SYS_personality, [0x004_0000]);
    try_call("pidfd_open-others", libc::SYS_pidfd_open, [NOBODY, 0]);
    // What works, works: without it the probes above would prove nothing.
    try_call("openat2", libc::SYS_openat2, [NONE, root, 0, 0]);
    try_call("getpid", libc::SYS_getpid, []);
}

fn clocks_and_names() {
    try_call("clock_settime", libc::SYS_clock_settime, [0, 0]);
    try_call("settimeofday", libc::SYS_settimeofday, [0, 0]);
    let name = c"other".as_ptr() as usize;
    try_call("sethostname", libc::SYS_sethostname, [name, 5]);
    try_call("setdomainname", libc::SYS_setdomainname, [name, 5]);
    // No kernel has it yet.
    try_call("a-number-of-the-future", 2000, []);
}

#[cfg(target_arch = "x86_64")]
fn special_to_one_machine() {
    try_call("ioperm", libc::SYS_ioperm, [0, 1, 1]);
    try_call("iopl", libc::SYS_iopl, [3]);
    try_call("uselib", libc::SYS_uselib, [0]);
    try_call("ustat", libc::SYS_ustat, [0, 0]);
    try_call("sysfs", libc::SYS_sysfs, [3]);
}

#[cfg(not(target_arch = "x86_64"))]
fn special_to_one_machine() {}

fn try_call<const N: usize>(name: &str, number: libc::c_long, arguments: [usize; N]) {
    say(format_args!("call-{name}"), result(&call(number, arguments)));
}
