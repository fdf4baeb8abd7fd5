//! Whether the first process of a container is alive, by what runc wrote down of it, as runc itself would judge.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// The first process of a container, as runc's `state.json` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstProcess {
    id: u32,
    /// When it was started, in the kernel's ticks: a number may pass to another process.
    started: u64,
}

impl FirstProcess {
    /// Reads it out of the file in a container's directory of runc's; none where it is not to be found there.
    pub fn of(state: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(state.join("state.json")).ok()?)
    }

    /// The text is JSON, in whose strings quotes are never bare, so what is found between quotes is a key.
    fn parse(text: &str) -> Option<Self> {
        let number = |key: &str| -> Option<u64> {
            let (_, rest) = text.split_once(key)?;
            let end = rest.find([',', '}'])?;
            rest[..end].trim().parse().ok()
        };
        let id = u32::try_from(number("\"init_process_pid\":")?).ok().filter(|id| *id > 0)?;
        Some(Self { id, started: number("\"init_process_start\":")? })
    }

    /// Whether it has ended.
    pub fn has_ended(self) -> io::Result<bool> {
        match fs::read_to_string(format!("/proc/{}/stat", self.id)) {
            Ok(stat) => Ok(!is_alive(&stat, self.started).ok_or(ErrorKind::InvalidData)?),
            // The second where it ends while it is looked at.
            Err(error) if is_gone(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// Whether there is no such process, whatever it was before.
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// Whether a line of `/proc/<pid>/stat` is of a process that lives and was started then. The second field is its
/// name and may hold anything.
fn is_alive(stat: &str, started: u64) -> Option<bool> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // The 22nd field of all, of which two are gone before the state, which is the third.
    let then: u64 = fields.nth(18)?.parse().ok()?;
    Some(then == started && !matches!(state, "Z" | "X" | "x"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_process_and_nothing_that_a_task_wrote() {
        let text = r#"{"id":"a","init_process_pid":42,"init_process_start":777,"config":{"args":
            ["\"init_process_pid\":7,"]}}"#;
        assert_eq!(FirstProcess::parse(text), Some(FirstProcess { id: 42, started: 777 }));
        let late = r#"{"args":["\"init_process_pid\":7,"],"init_process_pid":42,"init_process_start":7}"#;
        assert_eq!(FirstProcess::parse(late).unwrap().id, 42);
        for text in ["", "{}", r#"{"init_process_pid":0,"init_process_start":7}"#, r#"{"init_process_pid":"#]
        {
            assert_eq!(FirstProcess::parse(text), None, "{text}");
        }
    }

    #[test]
    fn this_process_is_alive_and_another_of_its_number_is_not() {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let started = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap();
        let me = FirstProcess { id: std::process::id(), started: started.parse().unwrap() };
        assert!(!me.has_ended().unwrap());
        assert!(FirstProcess { started: me.started + 1, ..me }.has_ended().unwrap());
        let nobody = FirstProcess { id: i32::MAX.unsigned_abs(), started: 1 };
        assert!(nobody.has_ended().unwrap());
        let dead = "7 (a) b) Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 99 20";
        assert_eq!(is_alive(dead, 99), Some(false));
        assert_eq!(is_alive(&dead.replace('Z', "S"), 99), Some(true));
    }
}
