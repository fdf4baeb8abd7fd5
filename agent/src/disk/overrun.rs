//! Which limit an attempt is over, and how the user hears of it. Pure.

use teamster_values::{ByteCount, Reason};

use super::DiskLimits;
use super::measure::{DEPTH_MAX, Used};

/// An attempt is over a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overrun {
    /// Which.
    pub reason: Reason,
    /// In words, for the user.
    pub text: String,
}

/// The limit that an attempt is over, if it is.
pub(super) fn overrun(limits: DiskLimits, used: Used) -> Option<Overrun> {
    if used.bytes > limits.bytes {
        return Some(too_large(limits, used.bytes));
    }
    if used.files > limits.files {
        return Some(too_many(limits));
    }
    let text = format!("the task has directories on the node's disk that are more than {DEPTH_MAX} deep");
    used.is_too_deep.then_some(Overrun { reason: Reason::FileLimit, text })
}

/// It has too much, or all that it may have.
pub(super) fn too_large(limits: DiskLimits, bytes: u64) -> Overrun {
    let (has, may) = (ByteCount(bytes), ByteCount(limits.bytes));
    let text = format!(
        "the task has {has} on the node's disk and may have {may}; ask for more with resources.disk_gb"
    );
    Overrun { reason: Reason::DiskLimit, text }
}

/// The same for files.
pub(super) fn too_many(limits: DiskLimits) -> Overrun {
    let files = limits.files;
    let text = format!("the task has {files} files or more on the node's disk, and this node allows no more");
    Overrun { reason: Reason::FileLimit, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: DiskLimits = DiskLimits { bytes: 10 << 30, files: 100 };

    #[test]
    fn each_limit_is_named() {
        let of = |bytes, files, is_too_deep| overrun(LIMITS, Used { bytes, files, is_too_deep });
        assert_eq!(of(10 << 30, 100, false), None);
        let disk = of((10 << 30) + 1, 1, false).unwrap();
        assert!(disk.reason == Reason::DiskLimit && disk.text.contains("may have 10GiB"), "{disk:?}");
        assert_eq!(of(0, 101, false).unwrap().reason, Reason::FileLimit);
        assert!(of(0, 1, true).unwrap().text.contains("deep"));
    }
}
