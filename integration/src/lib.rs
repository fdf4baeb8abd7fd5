//! What whole-system tests stand on: a private containerd and images made on the spot. Nothing here is part
//! of the product, and nothing here touches a containerd that it did not start.

pub mod bare;
pub mod client;
pub mod cluster;
pub mod containerd;
pub mod cpu;
pub mod image;
pub mod link;
pub mod remains;
pub mod stand;
