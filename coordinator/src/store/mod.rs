//! Task state on disk, in one redb file. The controller's thread owns the one [`Writer`]; everybody else
//! reads snapshots through a [`Reader`]. Nothing here decides anything: it keeps what it is given.
//!
//! What is big (specs, logs) is written once; the row that changes while a task lives is small.

mod columns;
mod error;
mod live;
mod migrations;
mod open;
mod page;
mod reader;
mod record;
mod requests;
mod secret;
mod snapshot;
mod tables;
mod writer;

pub use error::StoreError;
pub use live::{Live, LiveTask};
pub use open::{Opened, open};
pub use page::{Cursor, ListQuery, Page, StateFilter, TagFilter};
pub use reader::{Reader, Status, StoredTask, Want};
pub use record::{Asks, FinalRow, FinalState, Head, LiveRow, LiveState, Shown};
pub use requests::{ForgottenRequest, RememberedRequest};
pub use secret::Secret;
pub use writer::{Change, Ended, Writer};

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod fixture;
#[cfg(test)]
pub(crate) mod small_disk;
#[cfg(test)]
mod tests;
