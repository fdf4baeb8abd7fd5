//! How far a reader of a followed log is: what `id:` says and `Last-Event-ID` brings back.

use std::fmt;

/// A place in what the attempts at a task wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Position {
    pub(super) attempt: u32,
    pub(super) executor: u32,
    /// Bytes of standard output and standard error of that executor that were told.
    pub(super) offsets: [u64; 2],
}

impl Position {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim().split('-').map(|part| part.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        let (attempt, executor, stdout, stderr) = (next()?, next()?, next()?, next()?);
        let (attempt, executor) = (u32::try_from(attempt).ok()?, u32::try_from(executor).ok()?);
        Some(Self { attempt, executor, offsets: [stdout, stderr] })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempt, executor, offsets: [stdout, stderr] } = self;
        write!(f, "{attempt}-{executor}-{stdout}-{stderr}")
    }
}
