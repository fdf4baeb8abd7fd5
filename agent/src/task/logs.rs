//! The last part of a captured stream, as text. The files lie where no task can reach them; their content
//! is the task's, and is never anything but data.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use teamster_init::record::Record;

/// The most that is kept of each stream of each executor, in bytes.
pub const TAIL_BYTES: usize = 64 << 10;

/// The most that all tails of an attempt may take together: its result must fit into one message.
const ALL_TAILS_BYTES: usize = 2 << 20;

/// How much is kept of each stream when there are this many executors.
pub fn tail_limit(executors: usize) -> usize {
    TAIL_BYTES.min(ALL_TAILS_BYTES / (2 * executors.max(1)))
}

/// The end of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The last part, valid UTF-8.
    pub tail: String,
    /// How long the whole stream is.
    pub size_bytes: u64,
}

/// The end of the file, at most `limit` bytes of valid UTF-8; what is not UTF-8 becomes U+FFFD. A file that
/// does not exist is empty.
pub fn end_of(path: &Path, limit: usize) -> io::Result<End> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(End::default()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let start = length.saturating_sub(limit as u64);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::with_capacity(limit.min(length as usize));
    file.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(End { tail: text(&bytes, start > 0, limit), size_bytes: length })
}

/// How many bytes of standard output and standard error the keeper could not keep, by its record.
pub fn lost_bytes(record: &Path) -> [u64; 2] {
    Record::read(record).ok().flatten().unwrap_or_default().lost_bytes
}

fn text(bytes: &[u8], cut: bool, limit: usize) -> String {
    // A cut may fall into a character; its rest is no error of the task's.
    let rest = bytes.iter().take(3).take_while(|byte| **byte & 0xC0 == 0x80).count();
    let text = String::from_utf8_lossy(if cut { &bytes[rest..] } else { bytes });
    // A replacement is longer than the byte that it stands for.
    let mut start = text.len().saturating_sub(limit);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail_of(bytes: &[u8], limit: usize) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let end = end_of(file.path(), limit).unwrap();
        assert_eq!(end.size_bytes, bytes.len() as u64);
        end.tail
    }

    #[test]
    fn keeps_the_end() {
        assert_eq!(tail_of(b"hello", 100), "hello");
        assert_eq!(tail_of(b"hello", 3), "llo");
        assert_eq!(tail_of(b"", 3), "");
        assert_eq!(end_of(Path::new("/nonexistent/file"), 3).unwrap(), End::default());
    }

    #[test]
    fn is_valid_and_bounded_whatever_was_written() {
        // Four bytes each: every cut within one leaves none of it.
        let faces = "🙂🙂🙂".as_bytes();
        for limit in 0..=12 {
            assert_eq!(tail_of(faces, limit), "🙂".repeat(limit / 4), "{limit}");
        }
        assert_eq!(tail_of(b"a\xffb", 100), "a\u{fffd}b");
        for limit in 0..40 {
            assert!(tail_of(&[0xff; 64], limit).len() <= limit);
        }
        // Continuation bytes at the very start of a whole file are the task's own.
        assert_eq!(tail_of(b"\x80x", 100), "\u{fffd}x");
    }

    #[test]
    fn many_executors_share_the_room() {
        assert_eq!(tail_limit(1), TAIL_BYTES);
        assert_eq!(tail_limit(0), TAIL_BYTES);
        assert!(tail_limit(100) * 200 <= ALL_TAILS_BYTES);
    }
}
