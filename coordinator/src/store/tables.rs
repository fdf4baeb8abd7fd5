//! The tables of the database file, each with what its keys and values are. No other place names a table.

use redb::TableDefinition;

/// Facts about the database itself, by name: see the constants below. Values are big-endian or text.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// In [`META`]: version of the layout of these tables, `u32`.
pub(super) const SCHEMA_VERSION: &str = "schema_version";
/// In [`META`]: name of the cluster, text, made with the database.
pub(super) const CLUSTER_ID: &str = "cluster_id";
/// In [`META`]: how often the database was opened, `u64`.
pub(super) const TERM: &str = "term";
/// In [`META`]: 32 random bytes, made with the database or by the first program that needed them. What this cluster
/// gives out and takes back is signed with them. A program that does not know them leaves them alone, so they need no
/// version of the layout of their own.
pub(super) const SECRET: &str = "secret";
/// In [`META`]: the highest sequence number ever given to a task, `u64`.
pub(super) const LAST_SEQ: &str = "last_seq";

/// What lists need of a task, by sequence number; never changes. Form: `record::Head`.
pub(super) const HEADS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("heads");

/// What was submitted, by sequence number; never changes. Form: `spec::TaskSpec`.
pub(super) const SPECS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("specs");

/// Public id to sequence number.
pub(super) const IDS: TableDefinition<'_, [u8; 16], u64> = TableDefinition::new("ids");

/// Tasks that have not ended, by sequence number: the only rows that are rewritten.
/// Form: the id, then `record::LiveRow`.
pub(super) const LIVE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("live");

/// Tasks that have ended, by sequence number; never changes. Form: `record::FinalRow`.
pub(super) const FINALS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("finals");

/// The same tasks by the number of their final state and sequence number, so that a list of the few that
/// failed does not read the many that did not.
pub(super) const FINALS_BY_STATE: TableDefinition<'_, (u8, u64), ()> =
    TableDefinition::new("finals_by_state");

/// What each ended attempt left behind, by sequence number and attempt; never changes.
/// Form: `record::AttemptLog`.
pub(super) const ATTEMPTS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("attempts");

/// Tasks that have ended, by when their end was put on disk (milliseconds since 1970) and sequence number, so that
/// the sweep finds what has been kept long enough without reading anything else.
pub(super) const FINALS_BY_END: TableDefinition<'_, (u64, u64), ()> = TableDefinition::new("finals_by_end");

/// Requests that are taken once, by owner and name. Form: `requests::RememberedRequest`. A program that does
/// not know this table leaves it alone, so it needs no version of the layout of its own.
pub(super) const REQUESTS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("requests");

/// The same by the second until which they count, owner and name, so that the old ones are found at once.
pub(super) const REQUESTS_BY_END: TableDefinition<'_, (u64, &str, &str), ()> =
    TableDefinition::new("requests_by_end");
