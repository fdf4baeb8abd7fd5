//! How long an attempt may go on without a word from the coordinator. Pure arithmetic, and the small file
//! that lets it go on across a restart of the agent and lets others on this node see it. It never looks at
//! the wall clock.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use crate::boot::BootInstant;

/// A lease: granted when the coordinator was last heard, for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    heard: BootInstant,
    length: Duration,
}

impl Lease {
    /// A lease of `length`, counted from `heard`: when the message was *sent* that the coordinator has
    /// answered, so that it ends here before the coordinator thinks that it does.
    pub fn new(heard: BootInstant, length: Duration) -> Self {
        Self { heard, length }
    }

    /// Counts it from `heard`, unless it counts from later already.
    pub fn renew(&mut self, heard: BootInstant) {
        self.heard = self.heard.max(heard);
    }

    /// When it ends.
    pub fn end(&self) -> BootInstant {
        self.heard.plus(self.length)
    }

    /// Whether it has ended.
    pub fn is_over(&self, now: BootInstant) -> bool {
        now >= self.end()
    }

    /// From when it counts.
    pub fn heard(&self) -> BootInstant {
        self.heard
    }
}

/// As many digits as the file has: it is overwritten in place by one write of one size, so no reader ever
/// sees a part of it, and a full disk does not matter once it exists.
const DIGITS: usize = 20;

/// Makes the file of a lease that counts from `heard`: nanoseconds on CLOCK_BOOTTIME, in decimal.
pub fn create(path: &Path, heard: BootInstant) -> io::Result<()> {
    write(OpenOptions::new().create(true).truncate(false).mode(0o600), path, heard)
}

/// Lets it count from `heard`. A file that is gone is not made anew: its attempt is over.
pub fn touch(path: &Path, heard: BootInstant) -> io::Result<()> {
    write(&mut OpenOptions::new(), path, heard)
}

fn write(options: &mut OpenOptions, path: &Path, heard: BootInstant) -> io::Result<()> {
    let nanos = u64::try_from(heard.since_boot().as_nanos()).unwrap_or(u64::MAX);
    let file = options.write(true).open(path)?;
    file.write_all_at(format!("{nanos:0width$}\n", width = DIGITS).as_bytes(), 0)
}

/// Reads from when a lease counts; none when the file is absent or is not one.
pub fn read(path: &Path) -> Option<BootInstant> {
    let text = std::fs::read_to_string(path).ok()?;
    let nanos = text.strip_suffix('\n').filter(|digits| digits.len() == DIGITS)?.parse().ok()?;
    Some(BootInstant::after_boot(Duration::from_nanos(nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootInstant {
        BootInstant::after_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn counts_from_the_send_time_and_never_backwards() {
        let mut lease = Lease::new(at(100), Duration::from_secs(60));
        assert!(!lease.is_over(at(159)));
        assert!(lease.is_over(at(160)));
        lease.renew(at(130));
        assert_eq!(lease.end(), at(190));
        // An answer that comes late, to a question from long ago, takes nothing away.
        lease.renew(at(110));
        assert_eq!(lease.end(), at(190));
    }

    #[test]
    fn a_lease_without_end_does_not_overflow() {
        assert!(!Lease::new(at(100), Duration::MAX).is_over(at(u32::MAX.into())));
    }

    #[test]
    fn goes_on_from_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lease");
        assert_eq!(read(&path), None);
        assert_eq!(touch(&path, at(1)).unwrap_err().kind(), io::ErrorKind::NotFound);
        create(&path, at(1_000_000)).unwrap();
        assert_eq!(read(&path), Some(at(1_000_000)));
        touch(&path, at(7)).unwrap();
        assert_eq!(read(&path), Some(at(7)));
        std::fs::write(&path, "12\n").unwrap();
        assert_eq!(read(&path), None);
    }
}
