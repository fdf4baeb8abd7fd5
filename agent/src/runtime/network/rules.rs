//! What tasks may reach, as the text of one nftables table. Pure, and the same for all tasks of a node, so
//! that starting a task needs no change of it. Only the table `inet teamster` is ever named.

use std::fmt::Write;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::pool::LINK_PREFIX;

/// The table that is ours.
pub(super) const TABLE: &str = "inet teamster";

/// What no task ever reaches, whatever the operator allows.
const NEVER: [(Ipv4Addr, u8); 8] = [
    // "This network", loopback, and link-local, where clouds keep their metadata (RFC 1122, RFC 3927).
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    // Metadata and host services that some clouds keep elsewhere: Alibaba, Azure, Oracle.
    (Ipv4Addr::new(100, 100, 100, 200), 32),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(192, 0, 0, 192), 32),
    // Multicast, and what is reserved, with the broadcast address.
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// All that the rules depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reach {
    /// Where tasks' addresses come from.
    pub(super) pool: Ipv4Net,
    /// What is denied beside [`NEVER`] and the pool.
    pub(super) denied: Vec<Ipv4Net>,
    /// All that is allowed; none for everything that is not denied.
    pub(super) allowed: Option<Vec<Ipv4Net>>,
    /// Name servers: reachable for names even where they are denied otherwise.
    pub(super) dns: Vec<Ipv4Addr>,
}

/// A text for `nft -f` that puts the whole table in place in one transaction, whatever was there before.
///
/// Denied is refused with an ICMP message and not dropped, so that programs fail at once and do not hang.
/// Addresses are compared before and after the node's own translation of them: a service's address, as
/// Kubernetes has them, is another one by the time a packet is forwarded. For the same reason the node's own
/// addresses are looked at before the translation: a published port of the node leads elsewhere. Whatever comes
/// by a link from an address that is not this task's own is dropped without an answer.
pub(super) fn ruleset(reach: &Reach) -> String {
    let mut text = format!("table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n");
    let never = NEVER.iter().map(|(address, length)| Ipv4Net::new_assert(*address, *length));
    let denied: Vec<_> = never.chain([reach.pool]).chain(reach.denied.iter().copied()).collect();
    set(&mut text, "denied", true, &denied);
    set(&mut text, "dns", false, &reach.dns);
    if let Some(allowed) = &reach.allowed {
        set(&mut text, "allowed", true, allowed);
    }
    let allow_list = if reach.allowed.is_some() { "\t\tip daddr != @allowed jump refuse\n" } else { "" };
    let (pool, links) = (reach.pool, format!("\"{LINK_PREFIX}*\""));
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "\
\tchain refuse {{
\t\treject with icmpx type admin-prohibited
\t}}
\tchain names {{
\t\tip daddr @dns udp dport 53 accept
\t\tip daddr @dns tcp dport 53 accept
\t}}
\tchain prerouting {{
\t\ttype filter hook prerouting priority mangle; policy accept;
\t\tiifname {links} fib saddr . iif oif missing drop
\t\tiifname {links} fib daddr type local jump own
\t}}
\tchain own {{
\t\tjump names
\t\tjump refuse
\t}}
\tchain input {{
\t\ttype filter hook input priority filter - 5; policy accept;
\t\tiifname != {links} return
\t\tip saddr {pool} jump names
\t\tjump refuse
\t}}
\tchain forward {{
\t\ttype filter hook forward priority filter - 5; policy accept;
\t\tiifname {links} goto outward
\t\toifname {links} ct state established,related accept
\t\toifname {links} drop
\t\tip daddr {pool} drop
\t}}
\tchain outward {{
\t\tip saddr != {pool} drop
\t\tmeta nfproto != ipv4 drop
\t\toifname {links} jump refuse
\t\tct state established,related accept
\t\tjump names
\t\tip daddr @denied jump refuse
\t\tct original ip daddr @denied jump refuse
{allow_list}\
\t}}
\tchain postrouting {{
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tip saddr {pool} oifname != {links} masquerade
\t}}
}}
"
    );
    text
}

fn set<T: std::fmt::Display>(text: &mut String, name: &str, is_interval: bool, elements: &[T]) {
    let _ = writeln!(text, "\tset {name} {{\n\t\ttype ipv4_addr");
    if is_interval {
        // What the operator wrote may overlap.
        text.push_str("\t\tflags interval\n\t\tauto-merge\n");
    }
    if !elements.is_empty() {
        let elements: Vec<_> = elements.iter().map(T::to_string).collect();
        let _ = writeln!(text, "\t\telements = {{ {} }}", elements.join(", "));
    }
    text.push_str("\t}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach() -> Reach {
        Reach {
            pool: "100.64.0.0/16".parse().unwrap(),
            denied: vec!["10.96.0.0/12".parse().unwrap(), "203.0.113.5/32".parse().unwrap()],
            allowed: None,
            dns: vec!["10.0.0.53".parse().unwrap()],
        }
    }

    /// The lines of one chain.
    fn chain<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        let begin = text.find(&format!("chain {name} {{")).unwrap();
        text[begin..].lines().skip(1).take_while(|line| line.trim() != "}").map(str::trim).collect()
    }

    #[test]
    fn names_no_table_but_its_own() {
        let text = ruleset(&reach());
        let tables: Vec<_> = text.lines().filter(|line| line.contains("table ")).collect();
        assert_eq!(tables, ["table inet teamster", "delete table inet teamster", "table inet teamster {"]);
        assert!(!text.contains("flush"));
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }

    #[test]
    fn denies_what_is_never_reached_and_what_the_operator_says() {
        let text = ruleset(&reach());
        let denied = text.lines().find(|line| line.contains("elements = { 0.0.0.0/8")).unwrap();
        for net in ["127.0.0.0/8", "169.254.0.0/16", "100.64.0.0/16", "10.96.0.0/12", "203.0.113.5/32"] {
            assert!(denied.contains(net), "{net}");
        }
        assert!(!denied.contains("192.168.0.0"), "a site's own storage stays reachable");
    }

    #[test]
    fn refuses_before_it_lets_anything_new_out() {
        let mut reach = reach();
        let outward = |reach: &Reach| {
            chain(&ruleset(reach), "outward").iter().map(|line| line.to_string()).collect::<Vec<_>>()
        };
        let open = outward(&reach);
        let at = |lines: &[String], rule: &str| lines.iter().position(|line| line.contains(rule)).unwrap();
        assert!(at(&open, "oifname \"tmst*\" jump refuse") < at(&open, "established"));
        assert!(at(&open, "jump names") < at(&open, "ip daddr @denied"));
        assert!(!ruleset(&reach).contains("@allowed"));
        reach.allowed = Some(Vec::new());
        let closed = outward(&reach);
        assert_eq!(closed.last().unwrap(), "ip daddr != @allowed jump refuse");
        assert!(!ruleset(&reach).contains("elements = {  }"), "nft takes no empty list");
    }

    #[test]
    fn nothing_of_the_node_but_names_answers_to_tasks() {
        let text = ruleset(&reach());
        let input = chain(&text, "input");
        assert_eq!(input.last().unwrap(), &"jump refuse");
        assert_eq!(input[1], "iifname != \"tmst*\" return");
    }
}
