//! Which system calls a task may make. The list of names is frozen in `seccomp-syscalls.txt` and never read
//! from the node, so that an upgrade of containerd cannot open what was closed. Calls that are allowed only
//! with some arguments stand here.

use std::sync::LazyLock;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

/// Calls that are allowed whatever their arguments, one a line.
const ALLOWED: &str = include_str!("seccomp-syscalls.txt");

/// AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK. Others (AF_ALG, AF_VSOCK, AF_PACKET …) have often been the way
/// into the kernel, and no task needs them.
const SOCKET_FAMILIES: [u64; 4] = [1, 2, 10, 16];

/// A pair is of Unix sockets. For any other family the kernel makes both sockets, loading the family's module
/// for it, before it finds that the family has no pairs; and TIPC has some.
const PAIR_FAMILY: u64 = SOCKET_FAMILIES[0];

/// Execution domains: Linux and 32-bit Linux, each also with uname 2.6, and the question which it is.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Requests that no task may make of a file, by their last sixteen bits, which are their group and number:
/// `FS_IOC_SETFLAGS` in all its sizes and `FS_IOC_FSSETXATTR`. Whoever owns a file could take it out of its project
/// with them, and so out of the count of the disk space that the task may have.
const FILE_REQUESTS: [u16; 2] = [0x6602, 0x5820];

/// All `CLONE_NEW*` flags: a task makes no namespaces.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// The profile for tasks on this machine: native calls only, everything that is not named fails with EPERM.
pub(super) fn profile() -> LinuxSeccomp {
    static PROFILE: LazyLock<LinuxSeccomp> = LazyLock::new(make);
    PROFILE.clone()
}

fn make() -> LinuxSeccomp {
    let mut syscalls = vec![
        rule(&ALLOWED.lines().collect::<Vec<_>>(), LinuxSeccompAction::ScmpActAllow, None, Vec::new()),
        // ENOSYS and not EPERM: C libraries then use `clone`, whose flags a filter can see.
        rule(&["clone3"], LinuxSeccompAction::ScmpActErrno, Some(enosys()), Vec::new()),
    ];
    let no_namespaces = argument(CLONE_NAMESPACES, Some(0), LinuxSeccompOperator::ScmpCmpMaskedEq);
    syscalls.push(allow("clone", no_namespaces));
    // One rule for each value: rules are alternatives. Two "not equal" tests would let everything through.
    let equals = |value: &u64| argument(*value, None, LinuxSeccompOperator::ScmpCmpEq);
    syscalls.extend(SOCKET_FAMILIES.iter().map(|family| allow("socket", equals(family))));
    syscalls.push(allow("socketpair", equals(&PAIR_FAMILY)));
    syscalls.extend(PERSONALITIES.iter().map(|persona| allow("personality", equals(persona))));
    // The kernel takes no more of a request than its lower 32 bits, so the others must not matter.
    syscalls.extend(all_but(&FILE_REQUESTS).into_iter().map(|(mask, value)| {
        let is_another = argument_at(1, mask, Some(value), LinuxSeccompOperator::ScmpCmpMaskedEq);
        allow("ioctl", is_another)
    }));
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .architectures(native())
        .syscalls(syscalls)
        .build()
        .expect("all fields have defaults")
}

/// Masks and values that together match every number but for those whose last sixteen bits are one of `denied`. A
/// filter has only rules that allow, and each of them looks at one argument once.
fn all_but(denied: &[u16]) -> Vec<(u64, u64)> {
    let mut rules = Vec::new();
    // What is known of a number's first bits, as long as that may be the beginning of a denied one.
    let mut open = vec![(0_u16, 0_u16)];
    for bit in (0..16).rev().map(|place| 1_u16 << place) {
        for (mask, value) in std::mem::take(&mut open) {
            for value in [value, value | bit] {
                let mask = mask | bit;
                if denied.iter().any(|number| number & mask == value) {
                    open.push((mask, value));
                } else {
                    rules.push((mask.into(), value.into()));
                }
            }
        }
    }
    rules
}

fn enosys() -> u32 {
    rustix::io::Errno::NOSYS.raw_os_error().unsigned_abs()
}

/// The compatibility modes of a machine have calls of their own that a list of names does not cover.
fn native() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64],
        "aarch64" => vec![Arch::ScmpArchAarch64],
        // The runtime takes the native one when none is named.
        _ => Vec::new(),
    }
}

fn allow(name: &str, argument: LinuxSeccompArg) -> LinuxSyscall {
    rule(&[name], LinuxSeccompAction::ScmpActAllow, None, vec![argument])
}

fn argument(value: u64, second: Option<u64>, operator: LinuxSeccompOperator) -> LinuxSeccompArg {
    argument_at(0, value, second, operator)
}

fn argument_at(
    index: usize,
    value: u64,
    second: Option<u64>,
    operator: LinuxSeccompOperator,
) -> LinuxSeccompArg {
    let builder = LinuxSeccompArgBuilder::default().index(index).value(value).op(operator);
    let builder = match second {
        Some(second) => builder.value_two(second),
        None => builder,
    };
    builder.build().expect("all fields have defaults")
}

fn rule(
    names: &[&str],
    action: LinuxSeccompAction,
    errno: Option<u32>,
    arguments: Vec<LinuxSeccompArg>,
) -> LinuxSyscall {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut builder = LinuxSyscallBuilder::default().names(names).action(action);
    if let Some(errno) = errno {
        builder = builder.errno_ret(errno);
    }
    if !arguments.is_empty() {
        builder = builder.args(arguments);
    }
    builder.build().expect("all fields have defaults")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ways to more power over the kernel, or out of the sandbox.
    const NEVER: &str = "acct add_key bpf chroot clock_settime clone clone3 create_module delete_module \
        file_setattr finit_module fsconfig fsmount fsopen fspick init_module io_uring_enter io_uring_register \
        io_uring_setup ioctl ioperm iopl kcmp kexec_file_load kexec_load keyctl mount mount_setattr move_mount \
        name_to_handle_at open_by_handle_at open_tree perf_event_open personality pidfd_getfd pivot_root \
        quotactl quotactl_fd reboot request_key sethostname setdomainname setns settimeofday socket socketcall socketpair swapoff \
        swapon syslog umount umount2 unshare userfaultfd vhangup";

    #[test]
    fn the_list_is_sorted_and_lacks_what_must_never_be_there() {
        let names: Vec<&str> = ALLOWED.lines().collect();
        assert!(names.is_sorted() && names.len() > 300);
        assert!(names.iter().all(|name| !name.is_empty() && name.trim() == *name));
        for never in NEVER.split_whitespace() {
            assert!(!names.contains(&never), "{never} is allowed");
        }
        for needed in ["execve", "openat", "openat2", "futex", "mbind", "rseq"] {
            assert!(names.contains(&needed), "{needed} is missing");
        }
    }

    #[test]
    fn all_requests_pass_but_those_that_change_the_project_of_a_file() {
        let rules = all_but(&FILE_REQUESTS);
        let passes = |request: u64| rules.iter().filter(|(mask, value)| request & mask == *value).count();
        // The last one is that of 32-bit programs; and each with bits that the kernel does not look at.
        for denied in [0x4008_6602, 0x401c_5820, 0x4004_6602] {
            assert_eq!((passes(denied), passes(denied | 0xdead_beef << 32)), (0, 0), "{denied:x}");
        }
        // Reading both, terminals, FIONREAD, clones of files.
        for allowed in [0x8008_6601, 0x801c_581f, 0x5401, 0x541b, 0x4004_9409, 0, u64::MAX] {
            assert_eq!(passes(allowed), 1, "{allowed:x}");
        }
        let denied = (0..=u64::from(u16::MAX)).filter(|request| passes(*request) == 0).count();
        assert_eq!((denied, rules.len()), (FILE_REQUESTS.len(), 28));
    }

    #[test]
    fn each_socket_family_has_a_rule_of_its_own() {
        let profile = profile();
        let rules = profile.syscalls().as_ref().unwrap();
        let sockets: Vec<_> = rules.iter().filter(|rule| rule.names() == &["socket"]).collect();
        assert_eq!(sockets.len(), SOCKET_FAMILIES.len());
        for rule in sockets {
            let arguments = rule.args().as_ref().unwrap();
            assert_eq!(arguments.len(), 1);
            assert_eq!(arguments[0].op(), LinuxSeccompOperator::ScmpCmpEq);
        }
    }
}
