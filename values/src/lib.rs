//! Values that coordinator and agent both parse, and must parse alike: task ids, absolute container paths,
//! storage URLs, sizes and times as people write them. No I/O, no policy.

mod path;
mod storage_url;
mod task_id;
mod units;

pub use path::{AbsolutePath, PathError};
pub use storage_url::{StorageUrlError, parse_storage_url};
pub use task_id::{TaskId, TaskIdError};
pub use units::{ByteCount, Period, UnitError};
