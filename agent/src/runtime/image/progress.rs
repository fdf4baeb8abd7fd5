//! How far a pull is: figures that the pull counts up and anybody may look at. They say nothing of who wants
//! the image.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use teamster_values::ByteCount;

/// How far a pull is.
#[derive(Debug)]
pub struct PullProgress {
    begun: Instant,
    total: AtomicU64,
    present: AtomicU64,
    fetched: AtomicU64,
    layers: AtomicU64,
    unpacked: AtomicU64,
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

/// Nothing yet; its time counts from now.
impl Default for PullProgress {
    fn default() -> Self {
        let [total, present, fetched, layers, unpacked] = [const { AtomicU64::new(0) }; 5];
        Self { begun: Instant::now(), total, present, fetched, layers, unpacked }
    }
}

impl PullProgress {
    /// One line for people, who call the image `name`:
    /// `image quay.io/a/b:1: pulling, 1MiB of 2.1MiB are here and 0 of 1 layers unpacked after 8 s`.
    pub(super) fn line(&self, name: &str) -> String {
        let seconds = self.begun.elapsed().as_secs();
        if self.total_bytes() == 0 {
            return format!(
                "image {name}: pulling, the registry has not said how much it is after {seconds} s"
            );
        }
        let (done, total) = (ByteCount(self.done_bytes()), ByteCount(self.total_bytes()));
        let (unpacked, layers) = (self.unpacked.load(Ordering::Relaxed), self.layers.load(Ordering::Relaxed));
        format!(
            "image {name}: pulling, {done} of {total} are here and {unpacked} of {layers} layers unpacked \
             after {seconds} s"
        )
    }

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

    pub(super) fn expect(&self, bytes: u64, layers: usize) {
        self.layers.store(layers as u64, Ordering::Relaxed);
        self.total.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn unpacked(&self) {
        self.unpacked.fetch_add(1, Ordering::Relaxed);
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
    fn says_how_far_it_is() {
        let progress = PullProgress::default();
        assert!(progress.line("a/b:1").starts_with("image a/b:1: pulling, the registry has not said"));
        progress.expect(4 << 20, 3);
        progress.found(1 << 20);
        progress.came(1 << 20);
        progress.unpacked();
        let line = progress.line("a/b:1");
        assert!(line.contains("2MiB of 4MiB are here and 1 of 3 layers unpacked after "), "{line}");
    }

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
