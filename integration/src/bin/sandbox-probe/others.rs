//! What a task can reach that is not its own: another task, the node's services, the network.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::libc;

use crate::raw::call;
use crate::{io_result, result, say};

/// What a neighbour has, under names that the other side knows.
const ABSTRACT: &str = "teamster-probe-neighbour";
const QUEUE: &std::ffi::CStr = c"teamster-probe";
const KEY: usize = 0x7ea5_7e12;
const PORT: u16 = 47_113;
const FILES: [&str; 3] = ["/tmp/neighbour", "/var/tmp/neighbour", "/dev/shm/neighbour"];

/// Longer than a connection within a machine can take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A task that has one of everything that another task must not find, until the file `gate` appears.
pub(crate) fn neighbour(gate: &str) {
    for path in FILES {
        File::create(path).expect("a directory of the task's own");
    }
    let name = UnixAddress::from_abstract_name(ABSTRACT).expect("a short name");
    let _socket = UnixListener::bind_addr(&name).expect("a name that nobody has");
    let _port = TcpListener::bind(("127.0.0.1", PORT)).expect("a port that nobody has");
    let made = call(libc::SYS_shmget, [KEY, 4096, (libc::IPC_CREAT | 0o666) as usize]);
    made.expect("shared memory of the task's own");
    let flags = (libc::O_CREAT | libc::O_RDWR) as usize;
    call(libc::SYS_mq_open, [QUEUE.as_ptr() as usize, flags, 0o666, 0]).expect("a queue of the task's own");
    fs::write(format!("{gate}.ready"), "").expect("the storage is writable");
    while !Path::new(gate).exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `targets` are triples of a kind (`tcp`, `abstract`, `path`), a name for the line, and where to knock.
pub(crate) fn all(targets: &[&str]) {
    for path in FILES {
        say(format_args!("neighbour-{path}"), io_result(&File::open(path)));
    }
    say("neighbour-abstract", connect_abstract(ABSTRACT));
    say("neighbour-port", connect(([127, 0, 0, 1], PORT).into()));
    say("neighbour-shared-memory", result(&call(libc::SYS_shmget, [KEY, 4096, 0])));
    let queue = call(libc::SYS_mq_open, [QUEUE.as_ptr() as usize, libc::O_RDWR as usize, 0, 0]);
    say("neighbour-queue", result(&queue));
    say("unix-sockets-in-sight", sockets_in_sight());
    say("metadata", connect(([169, 254, 169, 254], 80).into()));
    say("metadata-ipv6", connect("[fd00:ec2::254]:80".parse().expect("an address")));
    say("outside", connect(([192, 0, 2, 1], 80).into()));
    say("name-server", name_server());
    for target in targets.chunks(3) {
        let [kind, name, value] = target else { panic!("targets come in threes") };
        let found = match *kind {
            "tcp" => connect(value.parse().expect("an address")),
            "abstract" => connect_abstract(value),
            "path" => io_result(&fs::symlink_metadata(value)),
            _ => panic!("'{kind}' is no kind of target"),
        };
        say(name, found);
    }
}

fn connect(address: SocketAddr) -> String {
    io_result(&TcpStream::connect_timeout(&address, PATIENCE))
}

fn connect_abstract(name: &str) -> String {
    let address = UnixAddress::from_abstract_name(name).expect("a short name");
    io_result(&UnixStream::connect_addr(&address))
}

/// Names of Unix sockets that the kernel lists.
fn sockets_in_sight() -> String {
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let names: Vec<&str> = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(7)).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

fn name_server() -> String {
    let sent = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(&[0; 12], "192.0.2.53:53"));
    io_result(&sent)
}
