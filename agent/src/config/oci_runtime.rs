//! The names of the programs that can make containers here. Whether they are there is not its business.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A program that makes a container of an OCI specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OciRuntime {
    /// The one that containerd itself would take.
    #[default]
    Runc,
    /// Written in C; it takes about a third of runc's CPU time for a container.
    Crun,
}

impl OciRuntime {
    /// The program's name, as containerd finds it on its own `PATH`.
    pub fn program(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }
}

impl fmt::Display for OciRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

impl FromStr for OciRuntime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Runc, Self::Crun]
            .into_iter()
            .find(|runtime| runtime.program() == text)
            .ok_or_else(|| format!("'{text}' is neither 'runc' nor 'crun'"))
    }
}
