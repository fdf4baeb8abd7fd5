//! How tasks find addresses by name: their `/etc/resolv.conf`, made from the node's. Pure.

use std::fmt::Write;
use std::net::Ipv4Addr;

/// resolv.conf(5): no more are looked at.
const SERVERS_MAX: usize = 3;

/// What a node's `resolv.conf` says that holds for tasks, too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resolver {
    /// Name servers that a task can reach.
    pub(super) servers: Vec<Ipv4Addr>,
    /// Lines `search` and `options`, as they are.
    lines: Vec<String>,
}

impl Resolver {
    /// Reads resolv.conf(5). Servers on loopback are left out, because a task's loopback is its own; those of
    /// IPv6 too, because tasks have none.
    pub(super) fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(|word| word.parse::<Ipv4Addr>().ok());
                    let server = server.filter(|server| !server.is_loopback() && !server.is_unspecified());
                    resolver.servers.extend(server);
                }
                Some("search" | "options" | "domain") => resolver.lines.push(line.trim().to_owned()),
                _ => {}
            }
        }
        resolver.servers.truncate(SERVERS_MAX);
        resolver
    }

    /// These servers, whatever the node has.
    pub(super) fn of(servers: &[Ipv4Addr]) -> Self {
        Self { servers: servers.to_vec(), lines: Vec::new() }
    }

    /// The content of a task's `/etc/resolv.conf`.
    pub(super) fn file(&self) -> String {
        let mut text = String::new();
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        for line in &self.lines {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_out_what_a_task_cannot_reach() {
        let text = "# stub\nnameserver 127.0.0.53\nnameserver 10.0.0.53\nnameserver fd00::53\n\
                    search example.org\noptions edns0 trust-ad\nsortlist 10.0.0.0\n";
        let resolver = Resolver::parse(text);
        assert_eq!(resolver.servers, [Ipv4Addr::new(10, 0, 0, 53)]);
        assert_eq!(resolver.file(), "nameserver 10.0.0.53\nsearch example.org\noptions edns0 trust-ad\n");
        assert!(Resolver::parse("nameserver 127.0.0.53").servers.is_empty());
        assert_eq!(Resolver::of(&[]).file(), "");
    }
}
