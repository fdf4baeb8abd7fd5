//! How far a pull is: figures that the pull counts up and anybody may look at. They say nothing of who wants
//! the image.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use teamster_values::ByteCount;

/// How far a pull is.
#[derive(Debug, Default)]
pub struct PullProgress {
    total: AtomicU64,
    present: AtomicU64,
    fetched: AtomicU64,
}

/// What a pull came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Full name of the image.
    pub name: String,
    /// Digest of what the name stands for.
    pub digest: String,
    /// Who gave it: a registry or a mirror.
    pub from: String,
    /// Bytes that came over the network.
    pub fetched_bytes: u64,
    /// Bytes that were on the node before.
    pub present_bytes: u64,
    /// How long it took, with unpacking.
    pub time: Duration,
}

impl PullProgress {
    /// Bytes of the whole image, compressed; 0 while that is not known.
    pub fn total_bytes(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Bytes that are on the node, whenever they came.
    pub fn done_bytes(&self) -> u64 {
        (self.present_bytes() + self.fetched_bytes()).min(self.total_bytes())
    }

    /// Bytes that came over the network; those that had to come twice count twice.
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Bytes that were there before.
    pub fn present_bytes(&self) -> u64 {
        self.present.load(Ordering::Relaxed)
    }

    pub(super) fn expect(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn found(&self, bytes: u64) {
        self.present.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn came(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// One line for people: `docker.io/library/busybox:latest: pulled 2.1MiB from docker.io in 0.8 s`.
impl std::fmt::Display for Pulled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (fetched, seconds) = (ByteCount(self.fetched_bytes), self.time.as_secs_f64());
        write!(f, "image {}: pulled {fetched} from {} in {seconds:.1} s", self.name, self.from)?;
        if self.present_bytes > 0 {
            write!(f, "; {} were here before", ByteCount(self.present_bytes))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_bytes_and_seconds() {
        let mut pulled = Pulled {
            name: "quay.io/a/b:1".into(),
            digest: String::new(),
            from: "quay.io".into(),
            fetched_bytes: 3 << 20,
            present_bytes: 0,
            time: Duration::from_millis(1250),
        };
        assert_eq!(pulled.to_string(), "image quay.io/a/b:1: pulled 3MiB from quay.io in 1.2 s");
        pulled.present_bytes = 1 << 20;
        assert!(pulled.to_string().ends_with("in 1.2 s; 1MiB were here before"));
    }
}
