//! Why an attempt did not end well, as stable codes: the first word of the line in the task's system log
//! that says it in full, and the value of `reason` in its metadata. The one list of them; `docs/api.md`
//! explains each, and a test sees that none is forgotten there.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

/// Why an attempt did not end well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// The image is not there.
    ImageNotFound,
    /// The registry does not give the image to us.
    ImageUnauthorized,
    /// The node does not take the image.
    ImageRefused,
    /// The image is there, or its name is, and is no good.
    ImageUnusable,
    /// The command cannot be started in its image.
    CommandUnusable,
    /// The command ended with another exit code than 0.
    CommandFailed,
    /// The kernel killed a process for memory.
    OutOfMemory,
    /// It was refused processes or threads at their limit, and failed.
    ProcessLimit,
    /// It wrote more to the node's disk than it asked for.
    DiskLimit,
    /// It made more files on the node's disk than one task may.
    FileLimit,
    /// It ran longer than it may.
    TimeLimit,
    /// An input is not where the task says.
    InputMissing,
    /// An input is there and cannot be used.
    InputUnusable,
    /// An output cannot be put where the task wants it.
    OutputUnusable,
    /// The task asks for something that this cluster does not do.
    TaskRefused,
    /// Somebody canceled it.
    Canceled,
    /// containerd, a disk or a storage of the node failed it.
    NodeFault,
    /// The node's machine was restarted.
    NodeRestarted,
    /// The operator stopped the node.
    NodeStopped,
    /// The node was not heard for a whole lease, or came back without the attempt.
    NodeLost,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::ImageNotFound,
        Self::ImageUnauthorized,
        Self::ImageRefused,
        Self::ImageUnusable,
        Self::CommandUnusable,
        Self::CommandFailed,
        Self::OutOfMemory,
        Self::ProcessLimit,
        Self::DiskLimit,
        Self::FileLimit,
        Self::TimeLimit,
        Self::InputMissing,
        Self::InputUnusable,
        Self::OutputUnusable,
        Self::TaskRefused,
        Self::Canceled,
        Self::NodeFault,
        Self::NodeRestarted,
        Self::NodeStopped,
        Self::NodeLost,
    ];

    /// Its code, which never changes.
    pub fn code(self) -> &'static str {
        match self {
            Self::ImageNotFound => "IMAGE_NOT_FOUND",
            Self::ImageUnauthorized => "IMAGE_UNAUTHORIZED",
            Self::ImageRefused => "IMAGE_REFUSED",
            Self::ImageUnusable => "IMAGE_UNUSABLE",
            Self::CommandUnusable => "COMMAND_UNUSABLE",
            Self::CommandFailed => "COMMAND_FAILED",
            Self::OutOfMemory => "OUT_OF_MEMORY",
            Self::ProcessLimit => "PROCESS_LIMIT",
            Self::DiskLimit => "DISK_LIMIT",
            Self::FileLimit => "FILE_LIMIT",
            Self::TimeLimit => "TIME_LIMIT",
            Self::InputMissing => "INPUT_MISSING",
            Self::InputUnusable => "INPUT_UNUSABLE",
            Self::OutputUnusable => "OUTPUT_UNUSABLE",
            Self::TaskRefused => "TASK_REFUSED",
            Self::Canceled => "CANCELED",
            Self::NodeFault => "NODE_FAULT",
            Self::NodeRestarted => "NODE_RESTARTED",
            Self::NodeStopped => "NODE_STOPPED",
            Self::NodeLost => "NODE_LOST",
        }
    }

    /// The line for the system log that says `text` under this code.
    pub fn line(self, text: impl Display) -> String {
        format!("{}: {text}", self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_on_disk_is_the_code() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.code());
        }
    }

    #[test]
    fn every_code_is_explained() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md")).unwrap();
        for reason in Reason::ALL {
            assert!(text.contains(&format!("| `{}` |", reason.code())), "{}", reason.code());
        }
    }
}
