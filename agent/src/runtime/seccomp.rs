//! Which system calls a task may make. The list of names is frozen in `seccomp-syscalls.txt` and never read
//! from the node, so that an upgrade of containerd cannot open what was closed. Calls that are allowed only
//! with some arguments stand here.

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

/// All `CLONE_NEW*` flags: a task makes no namespaces.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// The profile for tasks on this machine: native calls only, everything that is not named fails with EPERM.
pub(super) fn profile() -> LinuxSeccomp {
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
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .architectures(native())
        .syscalls(syscalls)
        .build()
        .expect("all fields have defaults")
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
    let builder = LinuxSeccompArgBuilder::default().index(0usize).value(value).op(operator);
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
        finit_module fsconfig fsmount fsopen fspick init_module io_uring_enter io_uring_register \
        io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl mount mount_setattr move_mount \
        name_to_handle_at open_by_handle_at open_tree perf_event_open personality pidfd_getfd pivot_root \
        quotactl reboot request_key sethostname setdomainname setns settimeofday socket socketcall socketpair swapoff \
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
