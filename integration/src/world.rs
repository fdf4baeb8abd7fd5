//! A network for a test of its own: the thread that makes it becomes a node with one way out, and whatever it
//! starts runs there; beyond lies a world of one machine with many addresses. Both are network namespaces that
//! belong to threads of the test, so they are gone with it. Nothing of the real network is reached or changed.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

/// The node, as the world sees it.
pub const NODE: &str = "198.51.100.1";
/// A server that anybody may reach; also a name server.
pub const SERVER: &str = "198.51.100.2";
/// Where clouds tell machines their secrets.
pub const METADATA: &str = "169.254.169.254";
/// Something inside the cluster.
pub const CLUSTER: &str = "10.96.0.10";
/// Storage on the site.
pub const SITE: &str = "192.168.77.1";
/// Addresses of tasks.
pub const POOL: &str = "100.64.0.0/16";

/// How long a connection to the world may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Commands to the world, each with where its outcome goes.
type Orders = mpsc::Sender<(String, mpsc::Sender<bool>)>;

/// The world beyond the node. Its servers end with the test's process.
pub struct World {
    orders: Orders,
}

impl World {
    /// Moves this thread into a new node and makes the world beyond it. Call it before anything else is
    /// started, and from a test whose runtime has this one thread. The node does not forward yet.
    ///
    /// # Panics
    /// When this is not root or `ip` is not installed.
    pub fn enter() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace for the node");
        let (orders, taken) = mpsc::channel::<(String, mpsc::Sender<bool>)>();
        let (say_thread, thread) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace for the world");
            say_thread.send(nix::unistd::gettid()).expect("the test waits");
            while let Ok((order, outcome)) = taken.recv() {
                let done = if order == "serve" { serve() } else { connects_or_runs(&order) };
                // A test that has ended wants no answer.
                let _ = outcome.send(done);
            }
        });
        let world = thread.recv().expect("the world begins");
        let made = Self { orders };
        ip("link set lo up");
        ip(&format!("link add up0 type veth peer name in0 netns {world}"));
        ip(&format!("addr add {NODE}/24 dev up0"));
        ip("link set up0 up");
        for order in [
            "ip link set lo up".to_owned(),
            format!("ip addr add {SERVER}/24 dev in0"),
            format!("ip addr add {METADATA}/32 dev in0"),
            format!("ip addr add {CLUSTER}/32 dev in0"),
            format!("ip addr add {SITE}/32 dev in0"),
            "ip link set in0 up".to_owned(),
            // The world knows the way to tasks, and must not be let in all the same.
            format!("ip route add {POOL} via {NODE}"),
            "serve".to_owned(),
        ] {
            assert!(made.ask(&order), "{order}");
        }
        ip(&format!("route add default via {SERVER}"));
        ip(&format!("route add {METADATA} dev up0"));
        made
    }

    /// Lets the name server out there also answer where programs of this machine ask; false where that is on
    /// loopback, which a node cannot reach through the world.
    pub fn answers_for_the_nodes_name_server(&self) -> bool {
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let server = text.lines().find_map(|line| line.strip_prefix("nameserver ")).unwrap_or_default();
        let server = server.trim().parse::<std::net::Ipv4Addr>().ok().filter(|server| !server.is_loopback());
        let Some(server) = server else { return false };
        self.ask(&format!("ip addr add {server}/32 dev in0")) && self.ask(&format!("names {server}"))
    }

    /// Whether somebody out there can connect to this address.
    pub fn reaches(&self, address: &str) -> bool {
        self.ask(&format!("connect {address}"))
    }

    fn ask(&self, order: &str) -> bool {
        let (answer, answered) = mpsc::channel();
        self.orders.send((order.to_owned(), answer)).expect("the world goes on");
        answered.recv_timeout(DEADLINE * 2).expect("the world answers")
    }
}

/// Lets the node forward packets, as one with pods or containers does.
pub fn forward() {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("switch on forwarding in the node");
}

/// Whether the kernel and its programs can do what egress needs; if not, why.
pub fn lacks() -> Option<String> {
    let nft = Command::new("/usr/sbin/nft").args(["list", "tables"]).output();
    match nft {
        Err(error) => Some(format!("nft cannot be run: {error}")),
        Ok(output) if !output.status.success() => {
            Some(format!("nft: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Ok(_) => None,
    }
}

/// The names of all links of the node.
pub fn links() -> Vec<String> {
    let output = Command::new("ip").args(["-o", "link"]).output().expect("run ip");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| line.split([':', '@']).nth(1).map(|name| name.trim().to_owned())).collect()
}

/// All rules of the node, those of `iptables` among them where that is built on the same; nothing where there is
/// no `nft`.
pub fn rules() -> String {
    let output = Command::new("/usr/sbin/nft").args(["list", "ruleset"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// Answers HTTP on every address of this thread's namespace with who asked and where.
///
/// # Panics
/// When the port is taken, which in a namespace of the test's own it is not.
pub fn serve_http(port: u16) {
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("a free port");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever leaves early has made up their mind.
            let _ = answer_http(stream);
        }
    });
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("run ip");
    assert!(status.success(), "ip {arguments}");
}

fn connects_or_runs(order: &str) -> bool {
    if let Some(address) = order.strip_prefix("connect ") {
        let address = address.parse().expect("an address with a port");
        return TcpStream::connect_timeout(&address, DEADLINE).is_ok();
    }
    if let Some(address) = order.strip_prefix("names ") {
        return serve_names(address);
    }
    let mut words = order.split(' ');
    let program = words.next().expect("a program");
    Command::new(program).args(words).status().is_ok_and(|status| status.success())
}

fn serve() -> bool {
    serve_http(80);
    serve_names(SERVER)
}

/// On one address, because answers must come from where the question went.
fn serve_names(address: &str) -> bool {
    let socket = UdpSocket::bind((address, 53)).expect("a free port");
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let _ = socket.send_to(&answer_name(&question[..length]), from);
        }
    });
    true
}

fn answer_http(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let body = format!("served {} by {}\n", stream.peer_addr()?.ip(), stream.local_addr()?.ip());
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Every name is [`SERVER`]'s (RFC 1035); questions about other kinds of records get no answer in them.
fn answer_name(question: &[u8]) -> Vec<u8> {
    let end = question.iter().skip(12).position(|byte| *byte == 0).map_or(question.len(), |at| at + 12 + 5);
    let asks_for_address = question.get(end - 4..end - 2) == Some(&[0, 1]);
    let mut answer = question[..end].to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[6..12].copy_from_slice(&[0, u8::from(asks_for_address), 0, 0, 0, 0]);
    if asks_for_address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 2]);
    }
    answer
}
