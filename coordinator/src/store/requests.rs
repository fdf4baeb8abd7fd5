//! What is remembered of requests that are taken once. Rows are found by owner and key, and by the time
//! until which they count, so that letting go of the old ones reads nothing else.

use jiff::Timestamp;
use redb::{ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};
use teamster_values::TaskId;

use super::reader::Reader;
use super::tables::{REQUESTS, REQUESTS_BY_END};
use super::{StoreError, record};

/// A request that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedRequest {
    /// The task that it made.
    pub id: TaskId,
    /// What was asked for, as a digest. Older programs put that of the bytes of the body here, hence the name on
    /// disk; whoever compares must tell the two apart.
    #[serde(rename = "body_sha256")]
    pub digest: String,
    /// Until when it counts.
    pub until: Timestamp,
}

/// The name of a request that no longer counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgottenRequest {
    pub(super) until_seconds: u64,
    /// Whose it is.
    pub owner: String,
    /// Its name.
    pub key: String,
}

/// Puts a request in the place of an older one of that name.
pub(super) fn remember(
    transaction: &WriteTransaction,
    owner: &str,
    key: &str,
    request: &RememberedRequest,
) -> Result<(), redb::Error> {
    let mut requests = transaction.open_table(REQUESTS)?;
    let mut by_end = transaction.open_table(REQUESTS_BY_END)?;
    if let Some(old) = requests.insert((owner, key), record::encode(request).as_slice())?
        && let Ok(old) = record::decode::<RememberedRequest>(old.value())
    {
        by_end.remove((seconds(old.until), owner, key))?;
    }
    by_end.insert((seconds(request.until), owner, key), ())?;
    Ok(())
}

/// Removes a request, unless another one has taken its place since.
pub(super) fn forget(transaction: &WriteTransaction, gone: &ForgottenRequest) -> Result<(), redb::Error> {
    let (owner, key) = (gone.owner.as_str(), gone.key.as_str());
    transaction.open_table(REQUESTS_BY_END)?.remove((gone.until_seconds, owner, key))?;
    let mut requests = transaction.open_table(REQUESTS)?;
    let is_it = |bytes: &[u8]| {
        let request = record::decode::<RememberedRequest>(bytes);
        request.is_ok_and(|request| seconds(request.until) == gone.until_seconds)
    };
    if requests.get((owner, key))?.is_some_and(|bytes| is_it(bytes.value())) {
        requests.remove((owner, key))?;
    }
    Ok(())
}

impl Reader {
    /// What is remembered of an owner's request, even where it no longer counts.
    pub fn remembered(&self, owner: &str, key: &str) -> Result<Option<RememberedRequest>, StoreError> {
        let snapshot = self.snapshot()?;
        let found = snapshot.table(REQUESTS)?.get((owner, key)).map_err(|error| snapshot.failed(error))?;
        let Some(bytes) = found else { return Ok(None) };
        record::decode(bytes.value()).map(Some).map_err(|reason| snapshot.bad_row("requests", 0, reason))
    }

    /// At most `limit` requests that no longer count at `time`, the oldest first.
    pub fn remembered_until(
        &self,
        time: Timestamp,
        limit: usize,
    ) -> Result<Vec<ForgottenRequest>, StoreError> {
        let snapshot = self.snapshot()?;
        let by_end = snapshot.table(REQUESTS_BY_END)?;
        let old = by_end.range::<(u64, &str, &str)>(..(seconds(time), "", ""));
        let old = old.map_err(|error| snapshot.failed(error))?.take(limit);
        old.map(|entry| {
            let (key, _) = entry.map_err(|error| snapshot.failed(error))?;
            let (until_seconds, owner, key) = key.value();
            Ok(ForgottenRequest { until_seconds, owner: owner.to_owned(), key: key.to_owned() })
        })
        .collect()
    }
}

fn seconds(time: Timestamp) -> u64 {
    time.as_second().max(0) as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Change, Opened, open};
    use super::*;

    fn request(number: u8, until: Timestamp) -> RememberedRequest {
        RememberedRequest { id: TaskId::from_bytes([number; 16]), digest: "ab".into(), until }
    }

    fn remembered(owner: &str, key: &str, request: RememberedRequest) -> Change {
        Change::Remembered { owner: owner.into(), key: key.into(), request }
    }

    #[test]
    fn requests_are_kept_over_a_restart_and_swept_in_the_order_of_their_ends() {
        let directory = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let Opened { mut writer, reader, .. } = open(directory.path()).unwrap();
        assert_eq!(reader.remembered("a", "k").unwrap(), None);
        writer
            .commit(&[
                remembered("a", "k", request(1, after(300))),
                remembered("b", "k", request(2, after(100))),
                remembered("a", "other", request(3, after(200))),
            ])
            .unwrap();
        drop((writer, reader));
        let Opened { mut writer, reader, .. } = open(directory.path()).unwrap();
        assert_eq!(reader.remembered("b", "k").unwrap(), Some(request(2, after(100))));
        assert_eq!(reader.remembered_until(now, 9).unwrap(), []);
        let old = reader.remembered_until(after(1000), 2).unwrap();
        let names: Vec<_> = old.iter().map(|old| (old.owner.as_str(), old.key.as_str())).collect();
        assert_eq!(names, [("b", "k"), ("a", "other")]);

        // One that is taken anew meanwhile stays.
        writer.commit(&[remembered("b", "k", request(4, after(5000)))]).unwrap();
        let gone: Vec<_> = old.into_iter().map(|request| Change::RequestForgotten { request }).collect();
        writer.commit(&gone).unwrap();
        assert_eq!(reader.remembered("b", "k").unwrap(), Some(request(4, after(5000))));
        assert_eq!(reader.remembered("a", "other").unwrap(), None);
        assert_eq!(reader.remembered_until(after(9000), 9).unwrap().len(), 2);
    }
}
