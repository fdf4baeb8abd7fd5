//! The version of the layout of the tables, and the steps from each older one. A database of a newer
//! program is refused and left as it is.

use jiff::Timestamp;
use redb::{ReadableTable, WriteTransaction};

use super::StoreError;
use super::open::Shared;
use super::secret::Secret;
use super::tables::{
    ATTEMPTS, CLUSTER_ID, FINALS, FINALS_BY_END, FINALS_BY_STATE, HEADS, IDS, LIVE, META, REQUESTS,
    REQUESTS_BY_END, SCHEMA_VERSION, SECRET, SPECS, TERM,
};
use super::writer;

/// The layout that this program writes.
pub(super) const CURRENT: u32 = 2;

/// One step: takes a database of version `i + 1` (its place in [`STEPS`]) to the next.
type Step = fn(&WriteTransaction) -> Result<(), redb::Error>;

/// Step `i` leads from version `i + 1` to `i + 2`; there are always `CURRENT - 1` of them.
const STEPS: [Step; CURRENT as usize - 1] = [index_ends];

/// What a database says of itself after it was brought up to date.
pub(super) struct Identity {
    pub(super) cluster_id: String,
    pub(super) term: u64,
    pub(super) secret: Secret,
}

/// What a database gets that has none yet.
pub(super) struct New {
    pub(super) cluster_id: String,
    pub(super) secret: Secret,
}

/// Brings the database up to date, begins a new term, and puts both on disk in the given transaction.
/// Of `new` is taken what the database has not: all of it when it was just made.
pub(super) fn begin_term(
    shared: &Shared,
    transaction: &WriteTransaction,
    new: New,
) -> Result<Identity, StoreError> {
    let failed = |error: redb::Error| StoreError::from_redb(&shared.path, error);
    let damaged = |reason: &str| StoreError::Damaged { path: shared.path.clone(), reason: reason.to_owned() };
    let [version, cluster_id, term, secret] = read_meta(transaction).map_err(failed)?;
    if version.is_none() && (cluster_id.is_some() || has_tables(transaction).map_err(failed)?) {
        // Another program's redb file, or ours without its mark: adding tables to it would spoil it.
        return Err(StoreError::Foreign { path: shared.path.clone() });
    }
    let version = match version {
        Some(bytes) => u32::from_be_bytes(bytes.try_into().map_err(|_| damaged("its version is no number"))?),
        None => CURRENT,
    };
    if version > CURRENT {
        return Err(StoreError::Newer { path: shared.path.clone(), found: version, known: CURRENT });
    }
    let done = version.checked_sub(1).ok_or_else(|| damaged("its version is 0"))?;
    for step in &STEPS[done as usize..] {
        step(transaction).map_err(failed)?;
    }
    let cluster_id = match cluster_id {
        Some(bytes) => String::from_utf8(bytes).map_err(|_| damaged("its cluster id is no text"))?,
        None => new.cluster_id,
    };
    let term = match term {
        Some(bytes) => u64::from_be_bytes(bytes.try_into().map_err(|_| damaged("its term is no number"))?),
        None => 0,
    } + 1;
    let secret = match secret {
        Some(bytes) => Secret::from_bytes(&bytes).ok_or_else(|| damaged("its secret has not 32 bytes"))?,
        None => new.secret,
    };
    let identity = Identity { cluster_id, term, secret };
    write_meta(transaction, &identity).map_err(failed)?;
    Ok(identity)
}

fn has_tables(transaction: &WriteTransaction) -> Result<bool, redb::Error> {
    Ok(transaction.list_tables()?.next().is_some() || transaction.list_multimap_tables()?.next().is_some())
}

/// Version, cluster id, term and secret, without making the table where it does not exist.
fn read_meta(transaction: &WriteTransaction) -> Result<[Option<Vec<u8>>; 4], redb::Error> {
    let exists = transaction.list_tables()?.any(|table| redb::TableHandle::name(&table) == "meta");
    if !exists {
        return Ok([None, None, None, None]);
    }
    let meta = transaction.open_table(META)?;
    let read = |key| -> Result<_, redb::Error> { Ok(meta.get(key)?.map(|bytes| bytes.value().to_vec())) };
    Ok([read(SCHEMA_VERSION)?, read(CLUSTER_ID)?, read(TERM)?, read(SECRET)?])
}

fn write_meta(transaction: &WriteTransaction, identity: &Identity) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    meta.insert(SCHEMA_VERSION, CURRENT.to_be_bytes().as_slice())?;
    meta.insert(CLUSTER_ID, identity.cluster_id.as_bytes())?;
    meta.insert(SECRET, identity.secret.as_bytes().as_slice())?;
    meta.insert(TERM, identity.term.to_be_bytes().as_slice())?;
    // Readers can open only tables that exist, so all of them are made here.
    transaction.open_table(HEADS)?;
    transaction.open_table(SPECS)?;
    transaction.open_table(IDS)?;
    transaction.open_table(LIVE)?;
    transaction.open_table(FINALS)?;
    transaction.open_table(FINALS_BY_STATE)?;
    transaction.open_table(ATTEMPTS)?;
    transaction.open_table(REQUESTS)?;
    transaction.open_table(REQUESTS_BY_END)?;
    transaction.open_table(FINALS_BY_END)?;
    Ok(())
}

/// 1 to 2: tasks that ended before the index of ends existed count as ended now. They are kept longer than
/// they would have been, never shorter.
fn index_ends(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let now_millis = writer::millis(Timestamp::now());
    let finals = transaction.open_table(FINALS)?;
    let mut by_end = transaction.open_table(FINALS_BY_END)?;
    for entry in finals.iter()? {
        let (seq, _) = entry?;
        by_end.insert((now_millis, seq.value()), ())?;
    }
    Ok(())
}
