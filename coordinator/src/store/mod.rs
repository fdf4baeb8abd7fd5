//! Task state on disk.
