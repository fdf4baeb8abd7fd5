//! What the kernel lets a service use. Raises the number of open files as far as it may: each connection of
//! the coordinator takes one, and the usual 1024 are too few.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Below this the coordinator takes fewer connections than it could: those of three listeners, and all else.
const FILES_WANTED: u64 = 2 * 8192 + 16_384 + 256;

/// Raises the soft limit of open files to the hard one, and says what it is.
pub(crate) fn raise_open_files() {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, ..before };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "failed to raise the limit of open files");
    }
    // None stands for no limit.
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if files < FILES_WANTED {
        tracing::warn!(files, wanted = FILES_WANTED, "few files may be open: fewer connections are taken");
    } else {
        tracing::info!(files, "files that may be open");
    }
}
