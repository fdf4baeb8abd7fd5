//! The public id of a task.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, Encoding, Specification};
use serde::{Deserialize, Serialize};

/// A task's public id: sixteen bytes (a UUIDv7, so ids sort by creation time) as 26 characters of
/// lower-case base32. It is safe in URLs, file names and container ids.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskId([u8; 16]);

/// A text that is not a task id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a task id has 26 characters of a-z and 2-7")]
pub struct TaskIdError;

impl TaskId {
    /// The id with these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes of the id.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

fn encoding() -> &'static Encoding {
    static LOWER_CASE: std::sync::LazyLock<Encoding> = std::sync::LazyLock::new(|| {
        let mut specification: Specification = BASE32_NOPAD.specification();
        specification.symbols = specification.symbols.to_lowercase();
        specification.encoding().expect("base32 in lower case is a valid alphabet")
    });
    &LOWER_CASE
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&encoding().encode(&self.0))
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TaskId {
    type Err = TaskIdError;

    fn from_str(text: &str) -> Result<Self, TaskIdError> {
        if text.len() != 26 {
            return Err(TaskIdError);
        }
        let bytes = encoding().decode(text.as_bytes()).map_err(|_| TaskIdError)?;
        bytes.try_into().map(Self).map_err(|_| TaskIdError)
    }
}

impl TryFrom<String> for TaskId {
    type Error = TaskIdError;

    fn try_from(text: String) -> Result<Self, TaskIdError> {
        text.parse()
    }
}

impl From<TaskId> for String {
    fn from(id: TaskId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_round_trip() {
        let id = TaskId::from_bytes(std::array::from_fn(|i| (i * 17) as u8));
        let text = id.to_string();
        assert_eq!(text.len(), 26);
        assert!(text.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b)));
        assert_eq!(text.parse(), Ok(id));
    }

    #[test]
    fn refuses_what_is_not_an_id() {
        for text in ["", "../tasks", "AAAAAAAAAAAAAAAAAAAAAAAAAA", "aaaaaaaaaaaaaaaaaaaaaaaaa1", "a"] {
            assert_eq!(text.parse::<TaskId>(), Err(TaskIdError), "{text}");
        }
        // The last character carries two spare bits; only one spelling of an id is an id.
        assert_eq!("aaaaaaaaaaaaaaaaaaaaaaaaab".parse::<TaskId>(), Err(TaskIdError));
    }
}
