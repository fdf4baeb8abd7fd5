//! The agent's containerd runtime against a real, private containerd.

mod commands;
mod images;
mod life;
mod sandbox;
mod stand;
