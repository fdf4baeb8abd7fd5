//! CPU time of everything that a benchmark drives: the whole machine's, less what was idle.

use procfs::{CurrentSI, KernelStats};

/// Seconds of CPU that were used since boot. Whatever else runs on the machine counts too, for both sides of
/// a comparison alike: short-lived shims and runtimes leave no process behind that could be asked.
pub fn used_seconds() -> f64 {
    let total = KernelStats::current().expect("read /proc/stat").total;
    let ticks = total.user + total.nice + total.system + total.irq.unwrap_or(0) + total.softirq.unwrap_or(0);
    ticks as f64 / procfs::ticks_per_second() as f64
}
