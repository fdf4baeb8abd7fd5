//! Lists: newest first, by sequence number, one page at a time. A page begins where the last one ended, so
//! it does not shift when tasks are added, and what it costs does not depend on how far down it is.

use std::ops::Range;

use super::StoreError;
use super::columns::Columns;
use super::reader::{StoredTask, Want};
use super::record::{self, FinalState, Head, LiveState, Shown};
use super::snapshot::Snapshot;
use super::tables::FINALS_BY_STATE;

/// How many rows one page looks at. Beyond it the page comes back short, with a cursor: a filter that fits
/// almost nothing among millions must not hold a reader for seconds.
pub(super) const SCAN_ROWS_MAX: usize = if cfg!(test) { 50 } else { 100_000 };

/// How many bytes of specs and logs one page holds, but for its last task. A page of 2047 tasks could
/// otherwise be some gigabytes.
pub(super) const BIG_ROWS_BYTES_MAX: usize = if cfg!(test) { 100_000 } else { 32 << 20 };

/// What to list.
#[derive(Debug, Clone, PartialEq)]
pub struct ListQuery {
    /// Only tasks below this place; none for the newest.
    pub below: Option<Cursor>,
    /// How many tasks at most.
    pub limit: usize,
    /// How much of each.
    pub want: Want,
    /// Only tasks in this state.
    pub state: Option<StateFilter>,
    /// Only tasks of this owner.
    pub owner: Option<String>,
    /// Only tasks whose name begins so.
    pub name_prefix: Option<String>,
    /// Only tasks that have all these tags.
    pub tags: Vec<TagFilter>,
}

/// A place in the list: the tasks accepted before this sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(pub u64);

/// A state as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateFilter {
    /// Not ended, and shown so.
    Live(Shown),
    /// Ended so.
    Final(FinalState),
    /// A state that no task is ever shown in.
    Nothing,
}

/// A tag that a task must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagFilter {
    /// Its key.
    pub key: String,
    /// Its value; any where none is given.
    pub value: Option<String>,
}

/// One page.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The tasks, newest first.
    pub tasks: Vec<StoredTask>,
    /// Where the next page begins; none where nothing is left.
    pub next: Option<Cursor>,
}

impl LiveState {
    /// What clients see of it.
    pub fn shown(&self) -> Shown {
        match self {
            Self::Queued => Shown::Queued,
            Self::Initializing => Shown::Initializing,
            Self::Running | Self::Finalizing => Shown::Running,
            Self::Canceling { shown } => *shown,
        }
    }
}

/// A row that may belong on the page.
struct Candidate {
    seq: u64,
    /// Whether its state is the one that is asked for.
    fits: bool,
    /// Its head, where the walk has read it anyway.
    head: Option<Head>,
}

type Candidates<'s> = Box<dyn Iterator<Item = Result<Candidate, StoreError>> + 's>;

pub(super) fn read(snapshot: &Snapshot<'_>, query: &ListQuery) -> Result<Page, StoreError> {
    let places = 0..query.below.map_or(u64::MAX, |cursor| cursor.0);
    match query.state {
        None => collect(snapshot, query, heads(snapshot, places)?),
        Some(StateFilter::Live(shown)) => collect(snapshot, query, live(snapshot, places, shown)?),
        Some(StateFilter::Final(state)) => collect(snapshot, query, finals(snapshot, places, state)?),
        Some(StateFilter::Nothing) => Ok(Page { tasks: Vec::new(), next: None }),
    }
}

fn heads<'s>(snapshot: &'s Snapshot<'_>, places: Range<u64>) -> Result<Candidates<'s>, StoreError> {
    let rows = snapshot.tables().heads.range(places).map_err(|error| snapshot.failed(error))?;
    Ok(Box::new(rows.rev().map(|entry| {
        let (seq, bytes) = entry.map_err(|error| snapshot.failed(error))?;
        let seq = seq.value();
        let head = record::decode(bytes.value()).map_err(|reason| snapshot.bad_row("heads", seq, reason))?;
        Ok(Candidate { seq, fits: true, head: Some(head) })
    })))
}

fn live<'s>(
    snapshot: &'s Snapshot<'_>,
    places: Range<u64>,
    shown: Shown,
) -> Result<Candidates<'s>, StoreError> {
    let rows = snapshot.tables().live.range(places).map_err(|error| snapshot.failed(error))?;
    Ok(Box::new(rows.rev().map(move |entry| {
        let (seq, bytes) = entry.map_err(|error| snapshot.failed(error))?;
        let seq = seq.value();
        let (_, row) =
            record::decode_live(bytes.value()).map_err(|reason| snapshot.bad_row("live", seq, reason))?;
        Ok(Candidate { seq, fits: row.state.shown() == shown, head: None })
    })))
}

fn finals<'s>(
    snapshot: &'s Snapshot<'_>,
    places: Range<u64>,
    state: FinalState,
) -> Result<Candidates<'s>, StoreError> {
    let keys = (state as u8, places.start)..(state as u8, places.end);
    let rows = snapshot.table(FINALS_BY_STATE)?.range(keys).map_err(|error| snapshot.failed(error))?;
    Ok(Box::new(rows.rev().map(|entry| {
        let (key, _) = entry.map_err(|error| snapshot.failed(error))?;
        Ok(Candidate { seq: key.value().1, fits: true, head: None })
    })))
}

fn collect(
    snapshot: &Snapshot<'_>,
    query: &ListQuery,
    candidates: Candidates<'_>,
) -> Result<Page, StoreError> {
    let mut tasks: Vec<StoredTask> = Vec::new();
    let mut columns = Columns::open(snapshot, query.want)?;
    let mut big_rows_bytes = 0;
    for (scanned, candidate) in candidates.enumerate() {
        let candidate = candidate?;
        if scanned == SCAN_ROWS_MAX {
            return Ok(Page { tasks, next: Some(Cursor(candidate.seq + 1)) });
        }
        if !candidate.fits {
            continue;
        }
        let head = match candidate.head {
            Some(head) => head,
            None => snapshot.head(candidate.seq)?,
        };
        if !query.fits(&head) {
            continue;
        }
        if tasks.len() >= query.limit || big_rows_bytes >= BIG_ROWS_BYTES_MAX {
            // Only now is it known that another page has anything on it.
            return Ok(Page { tasks, next: Some(Cursor(candidate.seq + 1)) });
        }
        let task = columns.task(candidate.seq, head)?;
        big_rows_bytes += task.big_rows_bytes;
        tasks.push(task);
    }
    Ok(Page { tasks, next: None })
}

impl ListQuery {
    /// The newest tasks of everybody, with nothing but their states.
    pub fn newest(limit: usize) -> Self {
        Self {
            below: None,
            limit,
            want: Want::Status,
            state: None,
            owner: None,
            name_prefix: None,
            tags: Vec::new(),
        }
    }

    fn fits(&self, head: &Head) -> bool {
        self.owner.as_ref().is_none_or(|owner| *owner == head.owner)
            && self
                .name_prefix
                .as_ref()
                .is_none_or(|prefix| head.name.as_deref().unwrap_or_default().starts_with(prefix))
            && self.tags.iter().all(|tag| match (head.tags.get(&tag.key), &tag.value) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(found), Some(wanted)) => found == wanted,
            })
    }
}
