//! Which addresses tasks get, and what their links are called. Pure. Nobody keeps a list of what is taken: a
//! link's name says its address, and the kernel lets a name be used once.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Every link of a task begins with this on the node, and nothing else does.
pub(super) const LINK_PREFIX: &str = "tmst";

/// The two ends of the link between a task and its node, a network of two addresses (RFC 3021) of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    /// The node's end: the task's gateway.
    pub(super) node: Ipv4Addr,
    /// The task's.
    pub(super) task: Ipv4Addr,
}

impl Pair {
    /// Length of the network's prefix.
    pub(super) const PREFIX: u8 = 31;

    /// What the node's end is called. The kernel allows 15 characters.
    pub(super) fn link_name(&self) -> String {
        format!("{LINK_PREFIX}{:08x}", u32::from(self.task))
    }
}

/// All pairs of a pool but the first and the last: they hold what would be the network's and the broadcast
/// address to whoever takes the pool for one network.
pub(super) fn pair_count(pool: Ipv4Net) -> u32 {
    // `config/network.rs` sees to it that the prefix is neither 0 nor too long.
    (1u32 << (31 - pool.prefix_len())) - 2
}

/// One of them; numbers go round.
pub(super) fn pair(pool: Ipv4Net, number: u32) -> Pair {
    let node = u32::from(pool.network()) + 2 * (1 + number % pair_count(pool));
    Pair { node: node.into(), task: (node + 1).into() }
}

/// The first of these routes that says that something else has addresses of the pool. The default route says
/// nothing of the kind.
pub(super) fn collision(pool: Ipv4Net, routes: &[Ipv4Net]) -> Option<Ipv4Net> {
    let overlaps = |route: &Ipv4Net| route.contains(&pool.network()) || pool.contains(&route.network());
    routes.iter().find(|route| route.prefix_len() > 0 && overlaps(route)).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn pairs_are_apart_within_the_pool_and_go_round() {
        for (pool, count) in [("100.64.0.0/16", 32_766), ("10.1.2.0/28", 6)] {
            let pool = net(pool);
            assert_eq!(pair_count(pool), count);
            let mut names = BTreeSet::new();
            for number in 0..count {
                let pair = pair(pool, number);
                assert!(pool.contains(&pair.node) && pool.contains(&pair.task));
                let own = Ipv4Net::new(pair.node, Pair::PREFIX).unwrap();
                assert_eq!((own.network(), own.broadcast()), (pair.node, pair.task));
                assert!(pair.node != pool.network() && pair.task != pool.broadcast());
                names.insert(pair.link_name());
            }
            assert_eq!(names.len(), count as usize);
            assert_eq!(pair(pool, count), pair(pool, 0));
        }
        assert_eq!(pair(net("100.64.0.0/16"), 0).link_name(), "tmst64400003");
    }

    #[test]
    fn only_a_route_of_its_own_collides() {
        let pool = net("100.64.0.0/16");
        assert_eq!(collision(pool, &[net("0.0.0.0/0"), net("192.0.2.0/24"), net("100.65.0.0/16")]), None);
        for route in ["100.64.0.0/10", "100.64.7.0/24", "100.64.0.9/32", "64.0.0.0/2"] {
            assert_eq!(collision(pool, &[net("0.0.0.0/0"), net(route)]), Some(net(route)));
        }
    }
}
