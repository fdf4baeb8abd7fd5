//! Who a task is, and whether it can become somebody else or gain anything.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use nix::libc;

use crate::raw::call;
use crate::{io_result, result, say};

/// Where the image has this program once more, owned by root and with the set-user-id bit.
const SETUID: &str = "/bin/setuid-probe";

pub(crate) fn all() {
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Umask"] {
        say(format_args!("status-{field}"), status(field));
    }
    for field in ["Uid", "Gid", "Groups"] {
        say(format_args!("status-{field}"), status(field));
    }
    becoming();
    gaining();
    say("own-oom-score", fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default().trim());
    say("lower-own-oom-score", io_result(&fs::write("/proc/self/oom_score_adj", "-1")));
    let made = fs::write("/tmp/made", "");
    say("file-made", io_result(&made));
    if let Ok(metadata) = fs::metadata("/tmp/made") {
        say("file-made-mode", format_args!("{:o}", metadata.mode() & 0o7777));
        say("file-made-owner", format_args!("{} {}", metadata.uid(), metadata.gid()));
    }
    say("compatible-door", child(&["compatible"]));
    say("x32-door", child(&["x32"]));
    say("kill-init", child(&["kill-init"]));
    say("hostname", fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim());
}

fn becoming() {
    say("setuid-0", result(&call(libc::SYS_setuid, [0])));
    say("setgid-0", result(&call(libc::SYS_setgid, [0])));
    let group = [0_u32];
    say("setgroups-0", result(&call(libc::SYS_setgroups, [1, group.as_ptr() as usize])));
    // Version 3, this process; all capabilities in both halves of all three sets.
    let header = [0x2008_0522_u32, 0];
    let sets = [u32::MAX; 6];
    let capset = call(libc::SYS_capset, [header.as_ptr() as usize, sets.as_ptr() as usize]);
    say("capset", result(&capset));
    let prctl = |option: i32, value: usize| result(&call(libc::SYS_prctl, [option as usize, value, 0, 0, 0]));
    say("prctl-forget-no-new-privileges", prctl(libc::PR_SET_NO_NEW_PRIVS, 0));
    say("prctl-securebits", prctl(libc::PR_SET_SECUREBITS, 1));
    let ambient = call(libc::SYS_prctl, [libc::PR_CAP_AMBIENT as usize, 2, 21, 0, 0]);
    say("prctl-ambient", result(&ambient));
    // A realtime class, before which the node's own programs would wait.
    let priority = [1_i32];
    let realtime = call(libc::SYS_sched_setscheduler, [0, 1, priority.as_ptr() as usize]);
    say("realtime", result(&realtime));
    say("nice-minus-5", result(&call(libc::SYS_setpriority, [0, 0, (-5_isize) as usize])));
    let mut core = [0_u64; 2];
    let asked = call(libc::SYS_prlimit64, [0, libc::RLIMIT_CORE as usize, 0, core.as_mut_ptr() as usize]);
    say("core-limit", asked.map_or_else(|errno| errno.to_string(), |_| format!("{} {}", core[0], core[1])));
    let unlimited = [u64::MAX; 2];
    let raised = call(libc::SYS_prlimit64, [0, libc::RLIMIT_CORE as usize, unlimited.as_ptr() as usize, 0]);
    say("core-limit-raised", result(&raised));
}

fn gaining() {
    say("setuid-program", output(Command::new(SETUID).args(["child", "who"])));
    let own = "/tmp/own-setuid";
    let made = fs::copy("/proc/self/exe", own)
        .and_then(|_| fs::set_permissions(own, fs::Permissions::from_mode(0o4755)));
    say("own-setuid-program-made", io_result(&made));
    say("own-setuid-program", output(Command::new(own).args(["child", "who"])));
    say("chown-to-root", io_result(&std::os::unix::fs::chown(own, Some(0), Some(0))));
    say("chroot-program", output(Command::new("/bin/chroot").args(["/", "/bin/true"])));
}

/// What a program that might have gained something has.
pub(crate) fn who() {
    let uids = status("Uid");
    let effective = uids.split(' ').nth(1).unwrap_or_default().to_owned();
    say("who", format_args!("{effective} {}", status("CapEff")));
}

/// Signals that would end the container if they reached its first process.
pub(crate) fn kill_init() {
    let sent = ["SIGKILL", "SIGSTOP"].map(|name| {
        let signal = if name == "SIGKILL" { libc::SIGKILL } else { libc::SIGSTOP };
        result(&call(libc::SYS_kill, [1, signal as usize]))
    });
    say("sent", sent.join(" "));
}

/// A field of this process's status.
fn status(field: &str) -> String {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or("missing").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// This program as a child, for what may end it.
fn child(words: &[&str]) -> String {
    output(Command::new("/proc/self/exe").arg("child").args(words))
}

/// What a child said, or how it ended.
fn output(command: &mut Command) -> String {
    match command.output() {
        Err(error) => io_result::<()>(&Err(error)),
        Ok(Output { status, stdout, .. }) => match (status.signal(), status.code()) {
            (Some(signal), _) => nix::sys::signal::Signal::try_from(signal)
                .map_or("signal".to_owned(), |name| name.to_string()),
            (None, Some(0)) => {
                let text = String::from_utf8_lossy(&stdout);
                text.trim().split_once(": ").map_or("ok", |(_, said)| said).to_owned()
            }
            (None, code) => format!("exit {}", code.unwrap_or(-1)),
        },
    }
}
