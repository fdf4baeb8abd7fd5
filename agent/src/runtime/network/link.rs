//! The link between a task and its node: a veth pair, one end in the namespace that the runtime made for the
//! container. That namespace belongs to the container's processes alone. With the last of them it goes, and
//! the link with it, whatever becomes of the agent: nothing here has to be remembered or cleaned up after a
//! crash. No bridge joins the links, so tasks never see each other's packets.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::fs::MetadataExt;
use std::time::Duration;

use super::pool::{LINK_PREFIX, Pair, pair, pair_count};
use crate::failpoint;
use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// What the task sees its end as.
const TASK_END: &str = "eth0";

/// The kernel answers at once unless thousands of namespaces are being taken down.
const DEADLINE: Duration = Duration::from_secs(30);

/// Ethernet's, where no route tells better.
const DEFAULT_MTU: u32 = 1500;

/// Why a task has no link. The texts fit after "failed to".
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// The kernel said no.
    #[error("{0}: {1}")]
    Netlink(&'static str, rtnetlink::Error),
    /// A file of the kernel's.
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    /// The container is not in a namespace of its own.
    #[error("connect the task: its network namespace is the node's own")]
    NotApart,
    /// As many tasks as addresses.
    #[error("find a free address: all of the pool are taken")]
    PoolIsFull,
    /// It took too long, or broke off.
    #[error("connect the task: the kernel does not answer")]
    Silent,
}

/// How to make a link.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// First process of the container.
    pub(super) pid: u32,
    /// What operators see it is for: the container's name.
    pub(super) alias: String,
    /// Where addresses come from.
    pub(super) pool: Ipv4Net,
    /// The number of the pair that is tried first.
    pub(super) first: u32,
}

/// What there is on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Where routes lead, those to tasks left out.
    pub(super) routes: Vec<Ipv4Net>,
    /// Links of tasks: name and alias.
    pub(super) links: Vec<(String, String)>,
}

/// Gives a container that was made and not yet started its way out, and says what the node's end is called.
pub(super) async fn connect(wanted: Wanted) -> Result<String, LinkError> {
    on_a_thread(move || {
        let namespace = open_namespace(wanted.pid)?;
        let pair = talk(async |kernel| node_end(&kernel, &wanted, &namespace).await)?;
        failpoint::pass("link-made");
        enter(&namespace)?;
        // Before the link is up, so that it never gets an address of IPv6: the rules know IPv4 alone.
        without_ipv6("all")?;
        talk(async |kernel| task_end(&kernel, pair).await)?;
        Ok(pair.link_name())
    })
    .await
}

/// Takes away what an agent that was killed in the middle has left in the namespace of a process.
pub(super) async fn clear(pid: u32) -> Result<(), LinkError> {
    on_a_thread(move || {
        enter(&open_namespace(pid)?)?;
        talk(async |kernel| delete(&kernel, TASK_END).await)
    })
    .await
}

/// Takes a link away at once. One that is gone is fine.
pub(super) async fn disconnect(name: String) -> Result<(), LinkError> {
    on_a_thread(move || talk(async |kernel| delete(&kernel, &name).await)).await
}

async fn delete(kernel: &Handle, name: &str) -> Result<(), LinkError> {
    let failed = |error| LinkError::Netlink("remove the task's link", error);
    let Some(index) = index_of(kernel, name).await.map_err(failed)? else { return Ok(()) };
    match kernel.link().del(index).execute().await {
        Err(error) if !is(&error, Errno::ENODEV) => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Looks at the node.
pub(super) async fn look() -> Result<Found, LinkError> {
    on_a_thread(|| talk(async |kernel| look_with(&kernel).await)).await
}

async fn look_with(kernel: &Handle) -> Result<Found, LinkError> {
    let failed = |error| LinkError::Netlink("list links and routes", error);
    let mut found = Found::default();
    let mut ours = Vec::new();
    let mut links = Box::pin(kernel.link().get().execute());
    while let Some(link) = links.try_next().await.map_err(failed)? {
        let name = text_of(&link, |attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        let alias = text_of(&link, |attribute| match attribute {
            LinkAttribute::IfAlias(alias) => Some(alias.clone()),
            _ => None,
        });
        if name.starts_with(LINK_PREFIX) {
            ours.push(link.header.index);
            found.links.push((name, alias));
        }
    }
    let mut routes = Box::pin(kernel.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute());
    while let Some(route) = routes.try_next().await.map_err(failed)? {
        if output_of(&route).is_none_or(|index| !ours.contains(&index)) {
            found.routes.extend(destination_of(&route));
        }
    }
    Ok(found)
}

fn text_of(link: &LinkMessage, pick: impl Fn(&LinkAttribute) -> Option<String>) -> String {
    link.attributes.iter().find_map(pick).unwrap_or_default()
}

fn output_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn destination_of(route: &RouteMessage) -> Option<Ipv4Net> {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    let address = address.unwrap_or(Ipv4Addr::UNSPECIFIED);
    Ipv4Net::new(address, route.header.destination_prefix_length).ok()
}

/// The namespace of a process, which must not be ours.
fn open_namespace(pid: u32) -> Result<File, LinkError> {
    let open = |path: &str| {
        File::open(path).map_err(|error| LinkError::Io("open the task's network namespace", error))
    };
    let (namespace, own) = (open(&format!("/proc/{pid}/ns/net"))?, open("/proc/thread-self/ns/net")?);
    let inode = |file: &File| {
        let metadata = file.metadata();
        metadata
            .map(|metadata| metadata.st_ino())
            .map_err(|error| LinkError::Io("look at a namespace", error))
    };
    if inode(&namespace)? == inode(&own)? { Err(LinkError::NotApart) } else { Ok(namespace) }
}

/// Moves this thread, and only it, into another network namespace.
fn enter(namespace: &File) -> Result<(), LinkError> {
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
        .map_err(|error| LinkError::Io("enter the task's network namespace", error.into()))
}

/// Switches IPv6 off for a link, or for "all". A kernel without it is fine.
fn without_ipv6(link: &str) -> Result<(), LinkError> {
    match std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LinkError::Io("switch IPv6 off for the task", error))
        }
        _ => Ok(()),
    }
}

/// Makes the pair, with one end in `namespace`, and sets up the node's end.
async fn node_end(kernel: &Handle, wanted: &Wanted, namespace: &File) -> Result<Pair, LinkError> {
    let failed = |error| LinkError::Netlink("set up the node's end of the task's link", error);
    let mtu = way_out_mtu(kernel).await.unwrap_or(DEFAULT_MTU);
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(TASK_END)
        .mtu(mtu)
        .setns_by_fd(namespace.as_raw_fd())
        .build();
    for number in 0..pair_count(wanted.pool) {
        let pair = pair(wanted.pool, wanted.first.wrapping_add(number));
        let link = LinkVeth::new(&pair.link_name(), TASK_END)
            .mtu(mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.clone())))
            .build();
        match kernel.link().add(link).execute().await {
            Err(error) if is(&error, Errno::EEXIST) => continue,
            made => made.map_err(|error| LinkError::Netlink("make the task's link", error))?,
        }
        without_ipv6(&pair.link_name())?;
        let index = index_of(kernel, &pair.link_name()).await.map_err(failed)?.ok_or(LinkError::Silent)?;
        let up = LinkUnspec::new_with_index(index).alias(wanted.alias.as_str()).up().build();
        kernel.link().set(up).execute().await.map_err(failed)?;
        add_address(kernel, index, pair.node).await.map_err(failed)?;
        return Ok(pair);
    }
    Err(LinkError::PoolIsFull)
}

/// Sets up the task's end, from within its namespace.
async fn task_end(kernel: &Handle, pair: Pair) -> Result<(), LinkError> {
    let failed = |error| LinkError::Netlink("set up the task's end of its link", error);
    for name in ["lo", TASK_END] {
        let index = index_of(kernel, name).await.map_err(failed)?.ok_or(LinkError::Silent)?;
        if name == TASK_END {
            add_address(kernel, index, pair.task).await.map_err(failed)?;
        }
        kernel.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.map_err(failed)?;
    }
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(pair.node).build();
    kernel.route().add(route).execute().await.map_err(failed)
}

async fn add_address(kernel: &Handle, index: u32, address: Ipv4Addr) -> Result<(), rtnetlink::Error> {
    kernel.address().add(index, address.into(), Pair::PREFIX).execute().await
}

async fn index_of(kernel: &Handle, name: &str) -> Result<Option<u32>, rtnetlink::Error> {
    let mut links = Box::pin(kernel.link().get().match_name(name).execute());
    match links.try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(error) if is(&error, Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the link of the default route carries at once: more would only be cut up on the way.
async fn way_out_mtu(kernel: &Handle) -> Option<u32> {
    let mut routes = Box::pin(kernel.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute());
    let mut out = None;
    while let Some(route) = routes.try_next().await.ok()? {
        let is_default =
            route.header.address_family == AddressFamily::Inet && route.header.destination_prefix_length == 0;
        out = out.or(output_of(&route).filter(|_| is_default));
    }
    let link = Box::pin(kernel.link().get().match_index(out?).execute()).try_next().await.ok()??;
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

fn is(error: &rtnetlink::Error, errno: Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -(errno as i32))
}

/// Does `work` on a thread that ends with it: one that has been in another namespace must serve nobody else.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LinkError> + Send + 'static,
) -> Result<T, LinkError> {
    let waiting = tokio::task::spawn_blocking(move || {
        std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or(Err(LinkError::Silent))
    });
    waiting.await.unwrap_or(Err(LinkError::Silent))
}

/// Speaks netlink in whatever namespace this thread is now.
fn talk<T>(conversation: impl AsyncFnOnce(Handle) -> Result<T, LinkError>) -> Result<T, LinkError> {
    let failed = |error| LinkError::Io("speak netlink", error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let (connection, kernel, _) = rtnetlink::new_connection().map_err(failed)?;
        let conversation = tokio::time::timeout(DEADLINE, conversation(kernel));
        // The connection is dropped in the middle once the last answer is there: nothing else is on it.
        tokio::select! {
            said = conversation => said.unwrap_or(Err(LinkError::Silent)),
            () = connection => Err(LinkError::Silent),
        }
    })
}
