//! The coordinator: holds the TES API, decides where each task runs, and keeps all task state. It runs no
//! task and mounts nothing.

pub mod config;
pub mod spec;
