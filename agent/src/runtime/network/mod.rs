//! The way out that tasks get with `network = "egress"`: what is planned (`pool`, `rules`, `names`) is pure,
//! what acts (`link`, `firewall`) decides nothing. The rules are the same for every task of a node and are in
//! place before the first one; a task only gets its link, which the kernel takes away with the last of its
//! processes. Tasks without a network come nowhere near this.

mod firewall;
mod link;
mod names;
mod pool;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use self::firewall::FirewallError;
use self::link::{LinkError, Wanted};
use self::names::Resolver;
use self::rules::Reach;
use super::ContainerId;
use crate::config::{Destination, NetworkPolicy};

/// Abstract Unix sockets belong to a network namespace: whoever has bound this one owns the table in it.
const OWNER: &str = "teamster-egress";

/// The node's name servers; the second where the first names a stub on loopback that serves for it.
const RESOLV_CONF: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// How long a look-up may take. What is not found in time is not allowed.
const LOOKUP: Duration = Duration::from_secs(5);

/// Between two times that the rules are put in place anew, because something may have swept them away, and
/// the coordinator may have moved. Each costs some milliseconds.
const REFRESH: Duration = Duration::from_secs(30);

/// Why tasks get no way out of this node. The texts fit after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The links.
    #[error(transparent)]
    Link(#[from] LinkFailure),
    /// The rules.
    #[error(transparent)]
    Firewall(#[from] FirewallFailure),
    /// Another agent has it.
    #[error("own the node's network: another agent on this node offers egress already")]
    Taken,
    /// Switched off in the kernel.
    #[error(
        "route for tasks: net.ipv4.ip_forward is 0; set it to 1 with sysctl, and in /etc/sysctl.d to keep it"
    )]
    NoForwarding,
    /// The pool is somebody's.
    #[error("use the pool {0}: the node has a route to {1}; set network.pool to addresses that nobody uses")]
    PoolInUse(Ipv4Net, Ipv4Net),
    /// As many tasks as addresses; one is free when another task ends.
    #[error("find a free address: other tasks have all {1} of the pool {0} (network.pool)")]
    PoolIsFull(Ipv4Net, u32),
    /// Only servers that tasks cannot reach.
    #[error("find a name server that tasks can reach; set network.dns (to [] for none)")]
    NoNameServer,
}

/// What the kernel said of a link.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct LinkFailure(#[from] LinkError);

/// What came of setting the rules.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct FirewallFailure(#[from] FirewallError);

/// What a container's files say of the world outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// The content of `/etc/resolv.conf`.
    pub(super) resolv_conf: String,
    /// More lines for `/etc/hosts`.
    pub(super) hosts: String,
}

impl Names {
    /// What the node's own files say; a file that cannot be read says nothing.
    pub(super) fn of_the_node() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self { resolv_conf: read(RESOLV_CONF[0]), hosts: read("/etc/hosts") }
    }
}

/// Gives tasks their way out.
pub struct Egress {
    policy: NetworkPolicy,
    coordinator: String,
    resolver: Resolver,
    next: AtomicU32,
    /// Links of containers. The kernel has the truth; this saves asking it for each container that ends.
    links: Mutex<BTreeMap<String, String>>,
    /// All addresses that a look-up of an allowed name has found, and those of the coordinator.
    found: Mutex<BTreeMap<String, BTreeSet<Ipv4Addr>>>,
    /// One at a time sets the rules, so that the last one to do so knows the most.
    loading: tokio::sync::Mutex<()>,
    _owner: UnixListener,
}

impl Egress {
    /// Finds out whether this node can do it, and puts the rules in place. `coordinator` is `host:port`.
    pub async fn open(policy: &NetworkPolicy, coordinator: &str) -> Result<Self, EgressError> {
        let owner = SocketAddr::from_abstract_name(OWNER).and_then(|name| UnixListener::bind_addr(&name));
        let owner = owner.map_err(|_| EgressError::Taken)?;
        check_forwarding()?;
        let there = link::look().await.map_err(LinkFailure)?;
        if let Some(route) = pool::collision(policy.pool, &there.routes) {
            return Err(EgressError::PoolInUse(policy.pool, route));
        }
        let links = there.links.into_iter().map(|(name, alias)| (alias, name)).collect();
        let egress = Self {
            resolver: resolver(policy)?,
            policy: policy.clone(),
            coordinator: coordinator.to_owned(),
            // Not the address that a task of an earlier life of this agent had last: the world may still be
            // sending it answers.
            next: AtomicU32::new(std::process::id().wrapping_mul(64)),
            links: Mutex::new(links),
            found: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
            _owner: owner,
        };
        egress.look_up(&[egress.coordinator_host().to_owned()]).await;
        egress.look_up(&egress.allowed_names()).await;
        egress.load().await?;
        Ok(egress)
    }

    /// For people: what it offers.
    pub fn summary(&self) -> String {
        let allowed = if self.policy.allow.is_empty() { "all that is not denied" } else { "an allow-list" };
        format!("egress to {allowed}, from {}", self.policy.pool)
    }

    /// Keeps the rules in place for ever.
    pub async fn keep(&self) {
        loop {
            tokio::time::sleep(REFRESH).await;
            self.look_up(&[self.coordinator_host().to_owned()]).await;
            if let Err(error) = self.load().await {
                tracing::error!(%error, "the rules for the network of tasks may not be in place");
            }
            if let Err(error) = check_forwarding() {
                tracing::error!(%error, "tasks that have a way out of this node do not get far");
            }
        }
    }

    /// What the files of a container that starts now say. Allowed names are looked up anew, and those are the
    /// addresses that it gets for them.
    pub(super) async fn names(&self) -> Result<Names, EgressError> {
        let mut hosts = String::new();
        let names = self.allowed_names();
        if !names.is_empty() {
            let before = self.reach();
            for (name, addresses) in self.look_up(&names).await {
                for address in addresses {
                    // Writing to a String cannot fail.
                    let _ = writeln!(hosts, "{address}\t{name}");
                }
            }
            if self.reach() != before {
                self.load().await?;
            }
        }
        Ok(Names { resolv_conf: self.resolver.file(), hosts })
    }

    /// Connects a container that was made and not started; `pid` is its first process. With `again`, an agent
    /// before this one may have begun to.
    pub(super) async fn connect(&self, id: ContainerId, pid: u32, again: bool) -> Result<(), EgressError> {
        if again {
            link::clear(pid).await.map_err(LinkFailure)?;
        }
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let pool = self.policy.pool;
        let name = match link::connect(Wanted { pid, alias: id.to_string(), pool, first }).await {
            Err(LinkError::PoolIsFull) => {
                return Err(EgressError::PoolIsFull(pool, pool::pair_count(pool)));
            }
            made => made.map_err(LinkFailure)?,
        };
        tracing::debug!(container = %id, link = name, "connected");
        self.links().insert(id.to_string(), name);
        Ok(())
    }

    /// Cuts a container off at once, where the kernel might keep its link for what it still has to send.
    pub(super) async fn disconnect(&self, id: ContainerId) -> Result<(), EgressError> {
        let Some(name) = self.links().get(&id.to_string()).cloned() else { return Ok(()) };
        link::disconnect(name).await.map_err(LinkFailure)?;
        self.links().remove(&id.to_string());
        Ok(())
    }

    async fn load(&self) -> Result<(), EgressError> {
        let _one_at_a_time = self.loading.lock().await;
        firewall::load(&rules::ruleset(&self.reach())).await.map_err(|error| FirewallFailure(error).into())
    }

    fn reach(&self) -> Reach {
        let found = self.found();
        let of = |name: &str| found.get(name).into_iter().flatten().map(|address| Ipv4Net::from(*address));
        let v4 = |net: &IpNet| match net {
            IpNet::V4(net) => Some(*net),
            IpNet::V6(_) => None,
        };
        let allowed = self.policy.allow.iter().flat_map(|destination| match destination {
            Destination::Net(net) => v4(net).into_iter().collect::<Vec<_>>(),
            Destination::Name(name) => of(name).collect(),
        });
        Reach {
            pool: self.policy.pool,
            denied: self.policy.deny.iter().filter_map(v4).chain(of(self.coordinator_host())).collect(),
            allowed: (!self.policy.allow.is_empty()).then(|| allowed.collect()),
            dns: self.resolver.servers.clone(),
        }
    }

    fn allowed_names(&self) -> Vec<String> {
        let names = self.policy.allow.iter().filter_map(|destination| match destination {
            Destination::Name(name) => Some(name.clone()),
            Destination::Net(_) => None,
        });
        names.collect()
    }

    fn coordinator_host(&self) -> &str {
        let host = self.coordinator.rsplit_once(':').map_or(self.coordinator.as_str(), |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Looks up names, all at once, and remembers what is found beside what was found before.
    async fn look_up(&self, names: &[String]) -> Vec<(String, Vec<Ipv4Addr>)> {
        let looked = futures_util::future::join_all(names.iter().map(|name| look_up(name))).await;
        let mut found = self.found();
        let with_names = names.iter().cloned().zip(looked);
        with_names
            .inspect(|(name, addresses)| {
                if addresses.is_empty() {
                    tracing::warn!(name, "a name in the network policy has no address now");
                }
                found.entry(name.clone()).or_default().extend(addresses);
            })
            .collect()
    }

    fn links(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.links.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn found(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, BTreeSet<Ipv4Addr>>> {
        self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn check_forwarding() -> Result<(), EgressError> {
    let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
    if forwarding.trim() == "1" { Ok(()) } else { Err(EgressError::NoForwarding) }
}

/// The addresses of a host as this node knows them; none within the time allowed is none.
async fn look_up(host: &str) -> Vec<Ipv4Addr> {
    let looking = tokio::time::timeout(LOOKUP, tokio::net::lookup_host((host, 0)));
    let addresses = looking.await.map(Result::into_iter).into_iter().flatten().flatten();
    let v4 = addresses.filter_map(|address| match address.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    v4.collect()
}

fn resolver(policy: &NetworkPolicy) -> Result<Resolver, EgressError> {
    if let Some(servers) = &policy.dns {
        return Ok(Resolver::of(servers));
    }
    let texts = RESOLV_CONF.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let mut resolvers = texts.map(|text| Resolver::parse(&text));
    resolvers.find(|resolver| !resolver.servers.is_empty()).ok_or(EgressError::NoNameServer)
}
