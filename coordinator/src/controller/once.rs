//! Requests that are taken once, however often they come. Decided here because only the one writer knows
//! what came just before.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use teamster_values::TaskId;

use super::Controller;
use super::decide::Decided;
use crate::store::{RememberedRequest, StoreError};

/// How many are forgotten at one tick: few enough not to be felt, and far more in a day than anybody sends.
const FORGOTTEN_AT_ONCE_MAX: usize = 256;

/// By what a request is known when it comes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// Its name, among its owner's.
    pub key: String,
    /// What is asked for: equal for equal tasks, however they were written.
    pub digest: Digest,
    /// How long it is remembered.
    pub period: Duration,
}

/// A task as a hash of its checked form, behind a word that says so: what older programs have stored is a hash of
/// the bytes of a body, which says nothing about another body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest(String);

/// What tells our digests from older ones.
const DIGEST_MARK: &str = "task:";

impl Digest {
    /// That of the task whose hash is `sha256`, in hexadecimal.
    pub fn new(sha256: &str) -> Self {
        Self(format!("{DIGEST_MARK}{sha256}"))
    }

    /// Whether `stored` may be the same task. Of a digest of the older kind that cannot be known; then the key
    /// decides, because a second task is worse than an answer to a client that uses a key twice.
    fn may_be(&self, stored: &str) -> bool {
        !stored.starts_with(DIGEST_MARK) || stored == self.0
    }
}

/// The name was used before, for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this Idempotency-Key was used before, for another task")]
pub struct KeyReused;

/// Owner and key, to what is remembered of the request.
pub(super) type Remembered = BTreeMap<(String, String), RememberedRequest>;

impl Controller {
    /// The answer to a request that came before; none when this is the first.
    pub(super) fn earlier(
        &self,
        owner: &str,
        once: &Once,
        decided: &Decided,
    ) -> Result<Option<Result<TaskId, KeyReused>>, StoreError> {
        let in_batch = decided.remembered.get(&(owner.to_owned(), once.key.clone())).cloned();
        let found = match in_batch {
            Some(found) => Some(found),
            None => self.reader.remembered(owner, &once.key)?,
        };
        let found = found.filter(|request| request.until > Timestamp::now());
        let answer = |request: RememberedRequest| {
            if once.digest.may_be(&request.digest) { Ok(request.id) } else { Err(KeyReused) }
        };
        Ok(found.map(answer))
    }

    /// Notes the first of its kind.
    pub(super) fn note(&self, owner: &str, once: Once, id: TaskId, decided: &mut Decided) {
        let until = Timestamp::now().saturating_add(once.period).unwrap_or(Timestamp::MAX);
        let request = RememberedRequest { id, digest: once.digest.0, until };
        decided.remembered.insert((owner.to_owned(), once.key), request);
    }

    /// Lets go of what was remembered long enough.
    pub(super) fn sweep_requests(&self, decided: &mut Decided) -> Result<(), StoreError> {
        // Ticks that came together are one.
        if decided.forgotten.is_empty() {
            decided.forgotten = self.reader.remembered_until(Timestamp::now(), FORGOTTEN_AT_ONCE_MAX)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_program_stored_is_not_held_against_a_task() {
        let digest = Digest::new("ab");
        assert!(digest.may_be("task:ab") && !digest.may_be("task:cd"));
        assert!(digest.may_be("ab") && digest.may_be("cd"));
    }
}
