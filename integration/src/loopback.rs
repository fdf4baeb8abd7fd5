//! Addresses on loopback that no other process takes between the choice and the use. Ports are given to whoever
//! asks, so a port that was free a moment ago is not kept; but the network 127.0.0.0/8 has an address for each
//! process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

/// The address of this process alone. Its last 24 bits are the process id, which Linux keeps below 2²²; those
/// that begin with 127.0 are left to others.
pub fn own_ip() -> IpAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, middle, low).into()
}

/// An address of this process on which nobody listens now.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((own_ip(), 0)).expect("loopback has free ports");
    listener.local_addr().expect("it is bound")
}
