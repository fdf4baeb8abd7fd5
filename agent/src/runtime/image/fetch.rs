//! From registries into containerd's store: a document or a blob, asked for as often as makes sense. What has
//! arrived of a blob is kept when a connection breaks, and the next one goes on behind it.

use std::sync::Arc;
use std::time::Duration;

use containerd_client::services::v1::AbortRequest;
use tonic::{Code, Status};

use super::progress::PullProgress;
use super::registry::{Document, FetchError, Registry, unreachable};
use crate::runtime::RuntimeError;
use crate::runtime::containerd::{Link, PIECE_BYTES, QUICK, Upload, call, failure};

/// How often something is tried in a row without getting further: about half a minute in all, after which
/// another node or a later attempt may have more luck.
const TRIES: u32 = 6;

/// The first pause between two tries; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest that a registry may make us wait; one that wants more is asked by a later attempt.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Between two looks at a blob that somebody else on this node is fetching.
const LOCKED_PAUSE: Duration = Duration::from_millis(500);

/// Why something did not come.
#[derive(Debug)]
pub(super) enum Failure {
    /// The registry.
    Fetch(FetchError),
    /// containerd.
    Store(RuntimeError),
    /// Somebody else is fetching the same blob.
    Locked,
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}

/// What all requests of one pull have in common.
pub(super) struct Source {
    pub(super) link: Link,
    pub(super) lease: String,
    /// Mirrors first, the registry itself last.
    pub(super) registries: Vec<Arc<Registry>>,
    pub(super) repository: String,
    pub(super) progress: Arc<PullProgress>,
    /// For one blob, however large.
    pub(super) deadline: Duration,
}

/// A blob as a manifest describes it.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) digest: String,
    pub(super) size_bytes: u64,
}

/// How often something has failed in a row.
#[derive(Default)]
struct Patience {
    failures: u32,
}

impl Patience {
    /// How long to wait before the next try; none when it is enough.
    fn pause(&mut self, error: &FetchError) -> Option<Duration> {
        let FetchError::Passing { retry_after, .. } = error else { return None };
        self.failures += 1;
        if self.failures >= TRIES || retry_after.is_some_and(|wish| wish > RETRY_AFTER_MAX) {
            return None;
        }
        let pause = FIRST_PAUSE * 2_u32.pow(self.failures - 1);
        // Nodes that were turned away together must not come back together.
        let jitter =
            Duration::from_nanos(u64::from(jiff::Timestamp::now().subsec_nanosecond().unsigned_abs()) / 4);
        Some(pause.max(retry_after.unwrap_or_default()) + jitter)
    }
}

impl Source {
    /// The manifest or index behind `reference`, and who gave it.
    pub(super) async fn document(
        &self,
        reference: &str,
        bytes_max: usize,
    ) -> Result<(Document, &Registry), FetchError> {
        let mut patience = Patience::default();
        loop {
            let mut last = None;
            for registry in &self.registries {
                match registry.manifest(&self.repository, reference, bytes_max).await {
                    Ok(document) => return Ok((document, registry)),
                    Err(error) => last = Some(self.note(registry, error)),
                }
            }
            let error = last.unwrap_or_else(no_registry);
            let pause = patience.pause(&error).ok_or_else(|| tried(error, &patience))?;
            tokio::time::sleep(pause).await;
        }
    }

    /// The digest that `reference` stands for in the registry now; none if no registry says.
    pub(super) async fn digest(&self, reference: &str) -> Result<Option<String>, FetchError> {
        let mut patience = Patience::default();
        loop {
            let mut last = None;
            for registry in &self.registries {
                match registry.digest(&self.repository, reference).await {
                    Ok(digest) => return Ok(digest),
                    Err(error) => last = Some(self.note(registry, error)),
                }
            }
            let error = last.unwrap_or_else(no_registry);
            let pause = patience.pause(&error).ok_or_else(|| tried(error, &patience))?;
            tokio::time::sleep(pause).await;
        }
    }

    /// Brings a blob into the store, unless it is there.
    pub(super) async fn blob(&self, part: &Part) -> Result<(), Failure> {
        let mut patience = Patience::default();
        loop {
            let mut last = None;
            let mut came_further = false;
            for registry in &self.registries {
                let before = self.progress.fetched_bytes();
                match self.try_blob(registry, part).await {
                    Ok(()) => return Ok(()),
                    Err(Failure::Fetch(error)) => last = Some(self.note(registry, error)),
                    Err(Failure::Locked) => {
                        tokio::time::sleep(LOCKED_PAUSE).await;
                        came_further = true;
                        last = Some(FetchError::Passing { text: "it is locked".into(), retry_after: None });
                    }
                    Err(error @ Failure::Store(_)) => return Err(error),
                }
                came_further |= self.progress.fetched_bytes() > before;
            }
            if came_further {
                patience = Patience::default();
            }
            let error = last.unwrap_or_else(no_registry);
            match patience.pause(&error) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(tried(error, &patience).into()),
            }
        }
    }

    async fn try_blob(&self, registry: &Registry, part: &Part) -> Result<(), Failure> {
        let opened =
            Upload::open(&self.link, &self.lease, &part.digest, part.size_bytes, self.deadline).await;
        let Some(mut upload) = opened.map_err(|status| store_failure(&status))? else {
            self.progress.found(part.size_bytes);
            return Ok(());
        };
        if let Err(error) = self.fill(registry, part, &mut upload).await {
            upload.pause().await;
            return Err(error);
        }
        let Err(status) = upload.commit().await else { return Ok(()) };
        if status.code() != Code::FailedPrecondition {
            return Err(store_failure(&status));
        }
        // What is there is wrong from some byte on, and nothing could ever be made of it.
        self.abort(part).await;
        let digest = &part.digest;
        let text = format!("{} sent something else as {digest}: {}", registry.host(), status.message());
        Err(FetchError::Refused(text).into())
    }

    /// Fetches what is missing of a blob.
    async fn fill(&self, registry: &Registry, part: &Part, upload: &mut Upload) -> Result<(), Failure> {
        let size = part.size_bytes;
        let have = if upload.offset() > size { 0 } else { upload.offset() };
        if have == size && size > 0 {
            return Ok(());
        }
        let (mut at, mut answer) = registry.blob(&self.repository, &part.digest, have).await?;
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        loop {
            let more = answer.chunk().await;
            let bytes = match &more {
                Ok(Some(bytes)) => &bytes[..],
                _ => &[],
            };
            if at + (piece.len() + bytes.len()) as u64 > size {
                let text = format!("{} sends more than the {size} bytes of {}", registry.host(), part.digest);
                return Err(FetchError::Refused(text).into());
            }
            let mut rest = bytes;
            while piece.len() + rest.len() >= PIECE_BYTES {
                let (now, later) = rest.split_at(PIECE_BYTES - piece.len());
                piece.extend_from_slice(now);
                rest = later;
                let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE_BYTES));
                at = self.write(upload, at, full).await?;
            }
            piece.extend_from_slice(rest);
            if matches!(more, Ok(Some(_))) {
                continue;
            }
            // Also what came before the connection broke is worth keeping.
            if !piece.is_empty() {
                at = self.write(upload, at, std::mem::take(&mut piece)).await?;
            }
            return match more {
                Err(error) => Err(unreachable(registry.host(), &error).into()),
                Ok(_) if at < size => {
                    let text = format!("{} broke off after {at} of {size} bytes", registry.host());
                    Err(FetchError::Passing { text, retry_after: None }.into())
                }
                Ok(_) => Ok(()),
            };
        }
    }

    async fn write(&self, upload: &mut Upload, at: u64, piece: Vec<u8>) -> Result<u64, Failure> {
        let length = piece.len() as u64;
        upload.write(at, piece).await.map_err(|status| store_failure(&status))?;
        self.progress.came(length);
        Ok(at + length)
    }

    async fn abort(&self, part: &Part) {
        let request = AbortRequest { r#ref: Upload::name_of(&part.digest) };
        let _ = self.link.client().content().abort(call(request, QUICK)).await;
    }

    /// Says in the log what the user may never hear of, because another place had it.
    fn note(&self, registry: &Registry, error: FetchError) -> FetchError {
        let (host, repository) = (registry.host(), &self.repository);
        tracing::debug!(host, repository, %error, "a registry did not give what it was asked for");
        error
    }
}

fn no_registry() -> FetchError {
    FetchError::Refused("there is no registry to ask".to_owned())
}

/// Adds how often it was tried.
fn tried(error: FetchError, patience: &Patience) -> FetchError {
    match error {
        FetchError::Passing { text, retry_after } if patience.failures > 1 => {
            FetchError::Passing { text: format!("{text} (tried {} times)", patience.failures), retry_after }
        }
        other => other,
    }
}

fn store_failure(status: &Status) -> Failure {
    if status.code() == Code::Unavailable && status.message().contains("locked") {
        return Failure::Locked;
    }
    Failure::Store(failure("store a blob", status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_and_is_only_for_what_passes() {
        let passing = |seconds: Option<u64>| FetchError::Passing {
            text: "busy".into(),
            retry_after: seconds.map(Duration::from_secs),
        };
        let mut patience = Patience::default();
        assert_eq!(patience.pause(&FetchError::Missing(String::new())), None);
        let pauses: Vec<_> = std::iter::from_fn(|| patience.pause(&passing(None))).collect();
        assert_eq!(pauses.len() as u32, TRIES - 1);
        assert!(pauses.is_sorted());
        assert!(tried(passing(None), &patience).to_string().contains("tried 6 times"));
        assert!(Patience::default().pause(&passing(Some(20))).unwrap() >= Duration::from_secs(20));
        assert_eq!(Patience::default().pause(&passing(Some(3600))), None);
    }
}
