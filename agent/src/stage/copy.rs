//! Copying one file so that its target is always either the old one or the whole new one: a temporary name
//! beside it, then a rename. Used by the inner staging process only, so everything here happens as the
//! task's user.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::work::StageError;

/// How much is copied between two signs of life.
pub(super) const STEP_BYTES: u64 = 64 << 20;

/// After how many steps the kernel is made to write, so that the last flush does not take longer than a sign
/// of life may.
const STEPS_PER_FLUSH: u64 = 16;

/// Signs of life are not worth more than one write in this time.
const PULSE_INTERVAL: Duration = Duration::from_secs(1);

/// Copies files and gives signs of life.
pub(super) struct Copier {
    tag: String,
    parts: u64,
    last_pulse: Instant,
}

impl Copier {
    /// `tag` is in the names of temporary files; no other attempt may have it.
    pub(super) fn new(tag: &str) -> Self {
        Self { tag: tag.to_owned(), parts: 0, last_pulse: Instant::now() }
    }

    /// Tells the parent that this process is alive. When nobody listens any more the next answer fails too.
    pub(super) fn pulse(&mut self) {
        if self.last_pulse.elapsed() >= PULSE_INTERVAL {
            let _ = io::stdout().write_all(b"\n").and_then(|()| io::stdout().flush());
            self.last_pulse = Instant::now();
        }
    }

    /// Makes `target` the content of `source`, up to `size_bytes` (so that a file which grows for ever has an
    /// end), with these permissions. Whatever was at `target` is replaced, never written to. Returns the size.
    pub(super) fn install(
        &mut self,
        source: &File,
        size_bytes: u64,
        mode: u32,
        target: &Path,
    ) -> io::Result<u64> {
        self.replace(target, |copier, part| {
            let copied = copier.copy(source, size_bytes, part)?;
            part.set_permissions(Permissions::from_mode(mode & 0o777))?;
            part.sync_all()?;
            Ok(copied)
        })
    }

    /// Makes `target` a file with this content, executable for everybody.
    pub(super) fn write(&mut self, content: &str, target: &Path) -> io::Result<()> {
        self.replace(target, |_, part| {
            part.write_all(content.as_bytes())?;
            part.set_permissions(Permissions::from_mode(0o755))
        })
    }

    /// Makes `target` a symbolic link.
    pub(super) fn link(&mut self, to: &Path, target: &Path) -> io::Result<()> {
        let part = self.part(target)?;
        std::os::unix::fs::symlink(to, &part)?;
        rename_or_remove(&part, target)
    }

    /// Copies the next `size_bytes` of `source`, in steps; the kernel does it where it can.
    pub(super) fn copy(&mut self, source: &File, size_bytes: u64, target: &mut File) -> io::Result<u64> {
        let mut copied = 0;
        for step in 1.. {
            let step_bytes = STEP_BYTES.min(size_bytes - copied);
            let count = io::copy(&mut source.take(step_bytes), target)?;
            copied += count;
            if count < step_bytes || copied == size_bytes {
                break;
            }
            if step % STEPS_PER_FLUSH == 0 {
                target.sync_data()?;
            }
            self.pulse();
        }
        Ok(copied)
    }

    fn replace<T>(
        &mut self,
        target: &Path,
        fill: impl FnOnce(&mut Self, &mut File) -> io::Result<T>,
    ) -> io::Result<T> {
        let part = self.part(target)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        let filled = fill(self, &mut file);
        if filled.is_err() {
            let _ = std::fs::remove_file(&part);
        }
        let result = filled?;
        rename_or_remove(&part, target)?;
        Ok(result)
    }

    /// A free temporary name beside `target`. One that is taken was left by a killed child of this attempt:
    /// the lock keeps two of them from living at one time.
    fn part(&mut self, target: &Path) -> io::Result<PathBuf> {
        self.parts += 1;
        let part = target.with_file_name(format!(".teamster-{}-{}.part", self.tag, self.parts));
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(part),
        }
    }
}

fn rename_or_remove(part: &Path, target: &Path) -> io::Result<()> {
    let renamed = std::fs::rename(part, target);
    if renamed.is_err() {
        let _ = std::fs::remove_file(part);
    }
    renamed
}

/// Opens a file for reading without waiting for anybody: a FIFO has no writer, a device may block.
pub(super) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

/// Whether two things are one: same device, same inode.
pub(super) fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// What something is, when it is neither file nor directory.
pub(super) fn kind_of(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else if kind.is_symlink() {
        "a symbolic link that leads nowhere"
    } else {
        "no regular file"
    }
}

/// Whether an error is that of a storage which does not work, and not of what the task wants of it.
pub(super) fn is_storage_fault(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let faults = [Errno::IO, Errno::STALE, Errno::TIMEDOUT, Errno::AGAIN];
    error.raw_os_error().is_some_and(|code| faults.iter().any(|fault| fault.raw_os_error() == code))
}

/// An error with whose fault it is.
pub(super) fn fault(what: impl std::fmt::Display, error: &io::Error) -> StageError {
    let message = format!("{what}: {error}");
    if is_storage_fault(error) { StageError::Node(message) } else { StageError::Task(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_never_writes_to_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let (source, target) = (directory.path().join("a"), directory.path().join("b"));
        std::fs::write(&source, "new").unwrap();
        std::fs::write(&target, "old").unwrap();
        let hard_link = directory.path().join("c");
        std::fs::hard_link(&target, &hard_link).unwrap();
        let mut copier = Copier::new("t");
        // A leftover of an earlier child is in the way.
        std::fs::write(directory.path().join(".teamster-t-1.part"), "junk").unwrap();
        let (file, metadata) = open(&source).unwrap();
        assert_eq!(copier.install(&file, metadata.len(), 0o4640, &target).unwrap(), 3);
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "new");
        assert_eq!(std::fs::read_to_string(&hard_link).unwrap(), "old");
        assert_eq!(std::fs::metadata(&target).unwrap().mode() & 0o7777, 0o640, "no set-user-id");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3, "no temporary file stays");
    }

    #[test]
    fn a_failed_install_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("a");
        std::fs::write(&source, "x").unwrap();
        std::fs::create_dir_all(directory.path().join("target/full")).unwrap();
        let (file, _) = open(&source).unwrap();
        let mut copier = Copier::new("t");
        assert!(copier.install(&file, 1, 0o644, &directory.path().join("target")).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn copies_in_several_steps_up_to_the_size() {
        let directory = tempfile::tempdir().unwrap();
        let source = File::create_new(directory.path().join("a")).unwrap();
        source.set_len(2 * STEP_BYTES + 5).unwrap();
        let (file, metadata) = open(&directory.path().join("a")).unwrap();
        let target = directory.path().join("b");
        let copied = Copier::new("t").install(&file, metadata.len() - 1, 0o644, &target).unwrap();
        assert_eq!(copied, 2 * STEP_BYTES + 4);
        assert_eq!(std::fs::metadata(target).unwrap().len(), copied);
    }

    #[test]
    fn a_fifo_does_not_block() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(kind_of(&open(&path).unwrap().1), "a FIFO");
    }
}
