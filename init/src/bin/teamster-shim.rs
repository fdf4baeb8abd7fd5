//! What containerd starts in place of its own shim program, to make a shim and to clear away behind one. containerd
//! starts that program, which is large and brings a runtime of its own, once for each of the two, beside the shim
//! itself; both are a matter of a few system calls. Everything else, and whatever is not exactly as expected, is
//! the real program's: it is then started in the place of this one, with the same arguments. The shim itself is
//! always the real one.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::SystemTime;

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::mount::{UnmountFlags, unmount};
use teamster_init::call::{ShimAction, ShimCall};
use teamster_init::state::is_gone;

/// The program that this stands in for.
const SHIM: &str = "containerd-shim-runc-v2";

/// Where shims have their sockets, whatever else containerd is told.
const SOCKETS: &str = "/run/containerd/s";

/// Where runc and crun keep what they know of containers, a directory for each of containerd's namespaces.
const STATES: [&str; 2] = ["/run/containerd/runc", teamster_init::CRUN_STATE];

/// Where a shim finds its socket open.
const SOCKET_FD: i32 = 3;

/// What a shim is told of its own runtime, as by the real program.
const SHIM_ENVIRONMENT: (&str, &str) = ("GOMAXPROCS", "4");

/// How the real program answers when it has made a shim, where that is done as here. From version 2 on containerd's
/// says more, and its shims speak another protocol.
const PLAIN_ANSWER: &[u8] = b"unix:///";

/// Asks for a shim that shares its processor with none but its container's processes.
const OWN_CORE: &str = "SCHED_CORE";

/// The worst place among those that the kernel kills for memory.
const OOM_SCORE_MAX: i32 = 1000;

/// What is said of a container that was ended by force; containerd asks only where nothing better is known.
const EXIT_KILLED: u8 = 137;

fn main() -> ExitCode {
    let program = find(SHIM);
    let done = ShimCall::parse(arguments()).and_then(|call| match call.action {
        ShimAction::Start => start(&call, &program).ok().flatten(),
        ShimAction::Delete => delete(&call).ok().flatten(),
    });
    match done {
        Some(answer) if io::stdout().write_all(&answer).is_ok() => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
        None => {
            let error = Command::new(&program).args(arguments()).exec();
            eprintln(&program, &error);
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> impl Iterator<Item = OsString> {
    env::args_os().skip(1)
}

#[allow(clippy::print_stderr, reason = "containerd reads there why its shim does not start")]
fn eprintln(program: &Path, error: &io::Error) {
    eprintln!("start {}: {error}", program.display());
}

/// Where containerd itself would find the program: on its path, or beside it.
fn find(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file());
    let beside = || {
        let containerd = fs::read_link(format!("/proc/{}/exe", parent_id())).ok()?;
        Some(containerd.with_file_name(name)).filter(|file| file.is_file())
    };
    found.or_else(beside).unwrap_or_else(|| name.into())
}

/// Starts a shim with its socket; the answer is where that is. None if nothing was done.
fn start(call: &ShimCall, program: &Path) -> io::Result<Option<Vec<u8>>> {
    if env::var_os(OWN_CORE).is_some() {
        return Ok(None);
    }
    let mark = mark_of(program)?;
    if !mark.exists() {
        return learn(program, &mark);
    }
    let path = socket_path(call);
    let socket = listen(&path)?;
    let started = || {
        if socket.as_raw_fd() != SOCKET_FD {
            return Err(ErrorKind::Unsupported.into());
        }
        fcntl_setfd(&socket, FdFlags::empty())?;
        let address = format!("unix://{}", path.display());
        write_address(&address)?;
        let mut shim = spawn(call, program)?;
        if let Err(error) = lower(&shim) {
            shim.kill()?;
            return Err(error);
        }
        Ok(Some(address.into_bytes()))
    };
    let result = started();
    if result.is_err() {
        // The real program makes another.
        fs::remove_file(&path)?;
        fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    }
    result
}

/// Lets the real program make the shim, and remembers if it does that as this one would.
fn learn(program: &Path, mark: &Path) -> io::Result<Option<Vec<u8>>> {
    let made =
        Command::new(program).args(arguments()).stdin(Stdio::inherit()).stderr(Stdio::inherit()).output()?;
    if !made.status.success() {
        std::process::exit(made.status.code().unwrap_or(1));
    }
    if made.stdout.starts_with(PLAIN_ANSWER) {
        // To be learned once more if this fails.
        let _ = File::create(mark);
    }
    Ok(Some(made.stdout))
}

/// The file beside this program which says that the real one, as it is now, is known: an upgrade is another file.
fn mark_of(program: &Path) -> io::Result<PathBuf> {
    let file = fs::metadata(program)?;
    let (device, number, size) = (file.dev(), file.ino(), file.size());
    let name = format!("known-{device}-{number}-{size}-{}.{:09}", file.mtime(), file.mtime_nsec());
    Ok(env::current_exe()?.with_file_name(name))
}

/// Another one for each container of each containerd.
fn socket_path(call: &ShimCall) -> PathBuf {
    let containerd = call.address.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Path::new(SOCKETS).join(format!("{containerd:016x}-{}-{}", call.namespace, call.id))
}

/// Nobody but root may speak to a shim, from the first moment.
fn listen(path: &Path) -> io::Result<UnixListener> {
    DirBuilder::new().recursive(true).mode(0o711).create(SOCKETS)?;
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let socket = UnixListener::bind(path);
    rustix::process::umask(before);
    socket
}

/// Where containerd finds the shim again when it was started anew. This process runs in the container's directory.
fn write_address(address: &str) -> io::Result<()> {
    let temporary = Path::new(".address");
    File::create_new(temporary)?.write_all(address.as_bytes())?;
    fs::rename(temporary, "address")
}

fn spawn(call: &ShimCall, program: &Path) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.args(["-namespace", &call.namespace, "-id", &call.id, "-address", &call.address]);
    if call.is_debug {
        command.arg("-debug");
    }
    command
        .env(SHIM_ENVIRONMENT.0, SHIM_ENVIRONMENT.1)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

/// A shim is killed for memory before containerd is.
fn lower(shim: &Child) -> io::Result<()> {
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", parent_id()))?;
    let score: i32 = score.trim().parse().map_err(io::Error::other)?;
    let lower = (score + 1).min(OOM_SCORE_MAX);
    fs::write(format!("/proc/{}/oom_score_adj", shim.id()), lower.to_string())
}

/// Clears away behind a shim that has done so itself: there is nothing to be done then. None where there may be.
fn delete(call: &ShimCall) -> io::Result<Option<Vec<u8>>> {
    // One that was killed has left it.
    let _ = fs::remove_file(socket_path(call));
    if call.bundle.file_name() != Some(OsStr::new(&call.id)) {
        return Ok(None);
    }
    let first: u32 =
        fs::read_to_string(call.bundle.join("init.pid"))?.trim().parse().map_err(io::Error::other)?;
    let is_there = |path: PathBuf| match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error),
    };
    let mut is_place_known = false;
    for place in STATES.map(|state| Path::new(state).join(&call.namespace)) {
        if is_there(place.join(&call.id))? {
            return Ok(None);
        }
        is_place_known |= is_there(place)?;
    }
    // As pid 1 of its namespace it has taken everything in the container with it.
    if !is_place_known || is_there(PathBuf::from(format!("/proc/{first}")))? {
        return Ok(None);
    }
    let rootfs = call.bundle.join("rootfs");
    loop {
        match unmount(&rootfs, UnmountFlags::NOFOLLOW) {
            // Something else may be mounted below it.
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Ok(Some(delete_response(first, now.as_secs(), now.subsec_nanos())))
}

/// containerd's `DeleteResponse` as a message of protocol buffers: process, exit status, and when.
fn delete_response(process: u32, seconds: u64, nanos: u32) -> Vec<u8> {
    let mut at = Vec::new();
    field(1, seconds, &mut at);
    field(2, nanos.into(), &mut at);
    let mut message = Vec::new();
    field(1, process.into(), &mut message);
    field(2, EXIT_KILLED.into(), &mut message);
    // Of bytes, that follow; so few that their number is one byte.
    message.push(3 << 3 | 2);
    varint(at.len() as u64, &mut message);
    message.extend(at);
    message
}

fn field(number: u8, value: u64, into: &mut Vec<u8>) {
    into.push(number << 3);
    varint(value, into);
}

fn varint(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_what_containerd_reads() {
        let expected =
            [0x08, 0xac, 0x02, 0x10, 0x89, 0x01, 0x1a, 0x08, 0x08, 0x80, 0x90, 0x92, 0xd6, 0x06, 0x10, 7];
        assert_eq!(delete_response(300, 1_791_264_768, 7), expected);
    }

    #[test]
    fn a_socket_is_named_for_one_container_of_one_containerd() {
        let call = |address: &str, id: &str| {
            let words = ["-namespace", "teamster", "-address", address, "-id", id, "start"];
            socket_path(&ShimCall::parse(words.map(Into::into).into_iter()).unwrap())
        };
        let id = "agq7677r55zblnkvm3qfgnedni-4294967295-4294967295";
        let path = call("/run/containerd/containerd.sock", id);
        assert!(path.as_os_str().len() < 108, "the kernel takes no longer one");
        assert_ne!(path, call("/run/other.sock", id));
        assert_ne!(path, call("/run/containerd/containerd.sock", "a-1-0"));
    }
}
