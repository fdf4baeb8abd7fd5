//! The coordinator: holds the TES API, decides where each task runs, and keeps all task state. It runs no
//! task and mounts nothing.

pub mod api;
pub mod attempt_log;
pub mod board;
pub mod cluster;
pub mod config;
pub mod controller;
pub mod disk;
mod listen;
pub mod log_hub;
pub mod metrics;
pub mod parameters;
mod server;
mod session;
pub mod spec;
pub mod store;

pub use server::{RunError, run};
