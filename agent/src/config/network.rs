//! `[network]`: what tasks of this node may reach, as the operator wrote it. What it comes to on the wire is
//! decided in `runtime/network/`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::assignment::Network;

/// The pool must hold a few tasks, and must leave addresses for the rest of the world.
const POOL_PREFIXES: std::ops::RangeInclusive<u8> = 8..=28;

/// resolv.conf(5): the C library looks at no more than three.
const DNS_SERVERS_MAX: usize = 3;

/// The operator's word on the network of tasks. Having none is always allowed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkPolicy {
    /// Whether tasks may ask for a way out.
    pub egress: bool,
    /// Whether tasks may ask for the network of the node itself.
    pub host: bool,
    /// What tasks get that do not say; never the node's own.
    pub default: Network,
    /// Where the addresses of tasks come from; nothing else may use it, and nobody outside ever sees it.
    pub pool: Ipv4Net,
    /// What tasks must not reach, beside what they never may.
    pub deny: Vec<IpNet>,
    /// When not empty: all that they may reach.
    pub allow: Vec<Destination>,
    /// The name servers of tasks; the node's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Vec<Ipv4Addr>>,
}

impl Default for NetworkPolicy {
    fn default() -> Self {
        // RFC 6598: shared address space, which sites rarely route.
        let pool = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 16);
        Self {
            egress: false,
            host: false,
            default: Network::None,
            pool,
            deny: Vec::new(),
            allow: Vec::new(),
            dns: None,
        }
    }
}

impl NetworkPolicy {
    /// The key that is wrong, and what would be right.
    pub(super) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.default == Network::Egress && !self.egress {
            return Err(("network.default", "is 'egress', but network.egress is false"));
        }
        if self.default == Network::Host {
            return Err((
                "network.default",
                "must be 'none' or 'egress': the node's own is for tasks that ask",
            ));
        }
        let address = self.pool.addr();
        if !POOL_PREFIXES.contains(&self.pool.prefix_len()) || self.pool.trunc() != self.pool {
            return Err(("network.pool", "must be a network of /8 to /28, such as \"100.64.0.0/16\""));
        }
        let is_special = address.is_loopback() || address.is_multicast() || address.is_link_local();
        if is_special || address.octets()[0] == 0 || address.octets()[0] >= 240 {
            return Err(("network.pool", "must be of addresses that hosts may have"));
        }
        if self.allow.iter().any(|allowed| matches!(allowed, Destination::Net(IpNet::V6(_)))) {
            return Err(("network.allow", "must be names and addresses of IPv4: tasks have no IPv6"));
        }
        let servers = self.dns.as_deref().unwrap_or_default();
        if servers.len() > DNS_SERVERS_MAX {
            return Err(("network.dns", "must not be more than three"));
        }
        if servers.iter().any(|server| server.is_loopback() || server.is_unspecified()) {
            return Err(("network.dns", "must not be of the node's loopback: tasks cannot reach that"));
        }
        Ok(())
    }
}

/// What an allow-list may hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Destination {
    /// These addresses.
    Net(IpNet),
    /// Whatever addresses this host name has when a task starts.
    Name(String),
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(net) = text.parse() {
            return Ok(Self::Net(net));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Net(address.into()));
        }
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        // A name whose last label is a number would be an address with a mistake in it.
        let is_numeric =
            text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if text.len() > 253 || is_numeric || !text.split('.').all(is_label) {
            return Err(format!("'{text}' is no address, no network such as 10.0.0.0/8 and no host name"));
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

impl TryFrom<String> for Destination {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.to_string()
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) => net.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_networks_addresses_and_names() {
        let policy: NetworkPolicy = toml::from_str(
            "egress = true\ndefault = 'egress'\npool = '10.99.0.0/20'\ndns = ['10.0.0.53']\n\
             deny = ['10.96.0.0/12', 'fd00::/8']\nallow = ['192.0.2.7', '198.51.100.0/24', 'Repo.Example.org']",
        )
        .unwrap();
        policy.check().unwrap();
        let allow: Vec<_> = policy.allow.iter().map(Destination::to_string).collect();
        assert_eq!(allow, ["192.0.2.7/32", "198.51.100.0/24", "repo.example.org"]);
        let written = toml::to_string(&policy).unwrap();
        assert_eq!(toml::from_str::<NetworkPolicy>(&written).unwrap(), policy);
    }

    #[test]
    fn says_which_key_is_wrong() {
        for (text, key) in [
            ("default = 'egress'", "network.default"),
            ("host = true\ndefault = 'host'", "network.default"),
            ("pool = '10.0.0.1/16'", "network.pool"),
            ("pool = '10.0.0.0/30'", "network.pool"),
            ("pool = '127.0.0.0/8'", "network.pool"),
            ("allow = ['192.0.2.7', '2001:db8::/32']", "network.allow"),
            ("dns = ['127.0.0.53']", "network.dns"),
        ] {
            let policy: NetworkPolicy = toml::from_str(text).unwrap();
            assert_eq!(policy.check().unwrap_err().0, key, "{text}");
        }
        for text in ["default = 'bridge'", "allow = ['10.0.0.300']", "allow = ['a b']", "deny = ['name']"] {
            assert!(toml::from_str::<NetworkPolicy>(text).is_err(), "{text}");
        }
    }
}
