//! The agent's containerd runtime against a real, private containerd.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

mod commands;
mod guest;
mod image_rights;
mod image_sweep;
mod images;
mod life;
mod platforms;
mod puller;
mod pulls;
mod sandbox;
mod stand;
mod usage;
