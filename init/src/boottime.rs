//! The clock that leases are counted by. It never jumps and counts suspended time.

use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long after boot it is.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// From when a lease counts, by its file: nanoseconds on this clock, in decimal. None when the file is absent
/// or is not one: then nobody knows, and nothing is to be killed for it.
pub fn lease_from(path: &Path) -> Option<Duration> {
    let text = std::fs::read_to_string(path).ok()?;
    text.trim_end().parse().ok().map(Duration::from_nanos)
}
