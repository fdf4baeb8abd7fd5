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
    /// Hash of all that was sent, in hexadecimal.
    pub body_sha256: String,
    /// How long it is remembered.
    pub period: Duration,
}

/// The name was used before, for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this Idempotency-Key was used before, with another body")]
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
            if request.body_sha256 == once.body_sha256 { Ok(request.id) } else { Err(KeyReused) }
        };
        Ok(found.map(answer))
    }

    /// Notes the first of its kind.
    pub(super) fn note(&self, owner: &str, once: Once, id: TaskId, decided: &mut Decided) {
        let until = Timestamp::now().saturating_add(once.period).unwrap_or(Timestamp::MAX);
        let request = RememberedRequest { id, body_sha256: once.body_sha256, until };
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
