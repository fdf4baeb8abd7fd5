//! Values that coordinator and agent both parse, and must parse alike: task ids, absolute container paths,
//! paths with wildcards, storage URLs, sizes and times as people write them. No I/O, no policy.

mod path;
mod path_pattern;
mod reason;
mod storage_url;
mod task_id;
mod units;

pub use path::{AbsolutePath, PathError};
pub use path_pattern::{NamePattern, PathPattern, PatternError, Wild, has_wildcards, without_escapes};
pub use reason::Reason;
pub use storage_url::{StorageUrlError, parse_storage_url};
pub use task_id::{TaskId, TaskIdError};
pub use units::{ByteCount, Period, UnitError};
