//! The keeper's record of one container: how its command ended, and whether its streams are whole. One file
//! of one size, made before anything runs and overwritten in place by single writes, so that no reader sees a
//! part of it and a full disk does not matter. The keeper holds it locked as long as it lives.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// The size of the file, in bytes.
const SIZE: usize = 1024;

/// The most that is kept of the reason why a command could not be executed, in bytes.
const REASON_BYTES_MAX: usize = 600;

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// By itself, with this code.
    Exited(u8),
    /// By this signal.
    Signaled(u8),
    /// It could not be executed.
    Unusable(String),
}

impl Status {
    /// The code that a shell would show.
    pub fn code(&self) -> u8 {
        match self {
            Self::Exited(code) => *code,
            Self::Signaled(signal) => 128_u8.saturating_add(*signal),
            Self::Unusable(_) => 127,
        }
    }

    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, value) = text.split_once(' ')?;
        match kind {
            "exited" => value.parse().ok().map(Self::Exited),
            "signaled" => value.parse().ok().map(Self::Signaled),
            "unusable" => Some(Self::Unusable(value.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited {code}"),
            Self::Signaled(signal) => write!(f, "signaled {signal}"),
            Self::Unusable(reason) => {
                let end =
                    (0..=reason.len().min(REASON_BYTES_MAX)).rev().find(|end| reason.is_char_boundary(*end));
                write!(f, "unusable {}", reason[..end.unwrap_or(0)].replace(['\n', '\0'], " "))
            }
        }
    }
}

/// The content of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Init has come to the keeper. Before that there is no command.
    pub met: bool,
    /// How the command ended, as init said it.
    pub status: Option<Status>,
    /// When init said it, in nanoseconds since 1970.
    pub at_unix_nanos: u64,
    /// The keeper killed the container because its lease was over.
    pub lease_ended: bool,
    /// Bytes of standard output and standard error that are lost because there was no space for them.
    pub lost_bytes: [u64; 2],
    /// Both streams have ended and all that is kept of them is in its file.
    pub complete: bool,
}

impl Record {
    fn text(&self) -> String {
        let mut text = String::new();
        let [out, err] = self.lost_bytes;
        if self.met {
            text += "met\n";
        }
        if let Some(status) = &self.status {
            text += &format!("status {status}\nat {}\n", self.at_unix_nanos);
        }
        if self.lease_ended {
            text += "lease-ended\n";
        }
        text += &format!("lost {out} {err}\n");
        if self.complete {
            text += "complete\n";
        }
        text + &" ".repeat(SIZE)
    }

    fn parse(text: &str) -> Self {
        let mut record = Self::default();
        for line in text.lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "status" => record.status = Status::parse(value),
                "met" => record.met = true,
                "at" => record.at_unix_nanos = value.parse().unwrap_or_default(),
                "lease-ended" => record.lease_ended = true,
                "complete" => record.complete = true,
                "lost" => {
                    let mut numbers = value.split(' ').map(|number| number.parse().unwrap_or_default());
                    record.lost_bytes = [(); 2].map(|()| numbers.next().unwrap_or_default());
                }
                _ => {}
            }
        }
        record
    }

    /// Makes or empties the file.
    pub fn create(path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(path)?;
        Self::default().write(&file)
    }

    /// Overwrites the content of an open file.
    pub fn write(&self, file: &File) -> io::Result<()> {
        file.write_all_at(&self.text().as_bytes()[..SIZE], 0)
    }

    /// Reads the file; none when there is none.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let mut bytes = [0; SIZE];
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let length = file.read_at(&mut bytes, 0)?;
        Ok(Some(Self::parse(&String::from_utf8_lossy(&bytes[..length]))))
    }

    /// Opens the file as its keeper does: no other can while it lives.
    pub fn lock(path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().write(true).open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(file)
    }

    /// Whether a keeper is there.
    pub fn is_kept(path: &Path) -> bool {
        File::open(path).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote_and_never_more() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("record");
        assert_eq!(Record::read(&path).unwrap(), None);
        Record::create(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap(), Some(Record::default()));
        let long = Status::Unusable("ä\n".repeat(10_000));
        for status in [long, Status::Exited(255), Status::Signaled(9)] {
            let mut record = Record { status: Some(status), at_unix_nanos: u64::MAX, ..Record::default() };
            record.lost_bytes = [u64::MAX, 7];
            (record.met, record.lease_ended, record.complete) = (true, true, true);
            record.write(&Record::lock(&path).unwrap()).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE as u64);
            let read = Record::read(&path).unwrap().unwrap();
            assert_eq!((read.lost_bytes, read.lease_ended, read.complete), ([u64::MAX, 7], true, true));
            assert!(read.met);
            assert_eq!(read.status.unwrap().code(), record.status.unwrap().code());
        }
        Record::create(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap(), Some(Record::default()), "nothing of before is left");
    }

    #[test]
    fn tells_whether_its_keeper_lives() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("record");
        assert!(!Record::is_kept(&path));
        Record::create(&path).unwrap();
        let held = Record::lock(&path).unwrap();
        assert!(Record::is_kept(&path) && Record::lock(&path).is_err());
        drop(held);
        assert!(!Record::is_kept(&path));
    }

    #[test]
    fn codes_are_those_of_shells() {
        let cases =
            [("exited 0", 0), ("exited 42", 42), ("signaled 15", 143), ("unusable no such file", 127)];
        for (text, code) in cases {
            let status = Status::parse(text).unwrap();
            assert_eq!((status.code(), status.to_string().as_str()), (code, text));
        }
        for text in ["", "exited", "exited 256", "exited -1", "gone 1"] {
            assert_eq!(Status::parse(text), None, "{text}");
        }
    }
}
