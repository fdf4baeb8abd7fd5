//! Which kinds of sockets can be made, and what can be done with those that can.

use nix::libc;

use crate::raw::call;
use crate::{result, say};

/// Datagram, stream, raw, sequenced packets: each family knows some of them.
const TYPES: [i32; 4] = [libc::SOCK_DGRAM, libc::SOCK_STREAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET];

/// One more than the highest family that a kernel has.
const FAMILIES: usize = 48;

pub(crate) fn all() {
    say("socket-families", families(|family, kind| call(libc::SYS_socket, [family, kind, 0]).is_ok()));
    let mut pair = [0_i32; 2];
    let address = pair.as_mut_ptr() as usize;
    let mut codes = std::collections::BTreeSet::new();
    let open = families(|family, kind| {
        let made = call(libc::SYS_socketpair, [family, kind, 0, address]);
        codes.insert((family, result(&made)));
        made.is_ok()
    });
    say("socketpair-families", open);
    // The kernel makes both sockets before it finds that the family has no pairs.
    let reached: Vec<String> = codes
        .iter()
        .filter(|(family, code)| *family != libc::AF_UNIX as usize && code != "EPERM")
        .map(|(family, code)| format!("{family}={code}"))
        .collect();
    say("socketpair-reached", if reached.is_empty() { "none".to_owned() } else { reached.join(" ") });
    let socket = |family: i32, kind: i32, protocol: i32| {
        result(&call(libc::SYS_socket, [family as usize, kind as usize, protocol as usize]))
    };
    say("socket-raw-ip", socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP));
    say("socket-ping", socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP));
    say("socket-crypto", socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0));
    say("socket-vsock", socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0));
    say("socket-packet", socket(libc::AF_PACKET, libc::SOCK_RAW, 0));
    // More bits than a family has, of which the kernel sees the lower half.
    let wide = (1_usize << 32) | libc::AF_ALG as usize;
    say("socket-wide-number", result(&call(libc::SYS_socket, [wide, libc::SOCK_SEQPACKET as usize, 0])));
    say("netlink-set-link", set_link());
}

fn families(mut works: impl FnMut(usize, usize) -> bool) -> String {
    let open: Vec<String> = (0..FAMILIES)
        .filter(|family| TYPES.iter().filter(|kind| works(*family, **kind as usize)).count() > 0)
        .map(|family| family.to_string())
        .collect();
    open.join(" ")
}

/// Asks the kernel to take the loopback device down, and reads what it says to that.
fn set_link() -> String {
    let family = libc::AF_NETLINK as usize;
    let Ok(socket) = call(libc::SYS_socket, [family, libc::SOCK_RAW as usize, 0]) else {
        return "no socket".to_owned();
    };
    // A header (length, type RTM_NEWLINK, request with acknowledgement) and an empty change of device 1.
    let mut message = Vec::new();
    message.extend(32_u32.to_ne_bytes());
    message.extend(libc::RTM_NEWLINK.to_ne_bytes());
    message.extend(5_u16.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    message.extend(1_u32.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(1_u32.to_ne_bytes());
    let sent = call(libc::SYS_sendto, [socket, message.as_ptr() as usize, message.len(), 0, 0, 0]);
    if sent.is_err() {
        return result(&sent);
    }
    let mut answer = [0_u8; 256];
    let size = call(libc::SYS_recvfrom, [socket, answer.as_mut_ptr() as usize, answer.len(), 0, 0, 0]);
    match size {
        // The error stands behind the header, negative.
        Ok(20..) => {
            let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
            if code == 0 { "ok".to_owned() } else { format!("{:?}", nix::errno::Errno::from_raw(-code)) }
        }
        other => result(&other),
    }
}
