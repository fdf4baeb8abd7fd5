//! What whole-system tests stand on: a private containerd and images made on the spot. Nothing here is part
//! of the product, and nothing here touches a containerd that it did not start.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "this serves tests: what goes wrong ends the test, with its message"
)]

pub mod accounting;
pub mod bare;
pub mod client;
pub mod cluster;
pub mod containerd;
pub mod coordinator;
pub mod cpu;
pub mod cromwell;
pub mod fake_node;
pub mod figures;
pub mod guest;
pub mod http;
pub mod image;
pub mod link;
pub mod loopback;
pub mod meter;
pub mod odd_image;
pub mod odd_registry;
pub mod pieces;
pub mod pypi;
pub mod registry;
pub mod releases;
pub mod remains;
pub mod skip;
pub mod stand;
pub mod stub_agent;
pub mod world;
