//! containerd's content store: blobs in and out, and the labels that tie them together for its garbage
//! collector. It knows nothing of what the blobs mean.

use std::collections::HashMap;
use std::io::{self, Read};
use std::time::Duration;

use containerd_client::services::v1::{
    Info, ReadContentRequest, UpdateRequest, WriteAction, WriteContentRequest,
};
use prost_types::FieldMask;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::link::{Link, QUICK, call, failure, leased};
use crate::runtime::RuntimeError;

/// One message of a write; containerd takes up to 16 MiB.
const CHUNK_BYTES: usize = 1 << 20;

/// Chunks between the reader and the connection: one is being sent while the next is being read.
const CHUNKS_IN_FLIGHT: usize = 2;

/// For one blob, however large.
const BLOB: Duration = Duration::from_secs(3600);

/// A blob that is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    /// `sha256:…`
    pub(crate) digest: String,
    pub(crate) size_bytes: u64,
    /// Whether its content begins as gzip does.
    pub(crate) is_gzip: bool,
}

/// Why a blob was not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("read the blob: {0}")]
    Read(#[from] io::Error),
    #[error("its content is {found}, not {expected}")]
    Digest { expected: String, found: String },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Streams a blob into the store, held by `lease`. `upload` names the transfer and must be unique. Reads
/// `data` on the calling thread: call it where that may block.
pub(crate) async fn write_blob(
    link: &Link,
    lease: &str,
    upload: &str,
    expected: Option<&str>,
    size_bytes: u64,
    data: impl Read,
) -> Result<Written, WriteError> {
    let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let answer = async {
        let request = leased(ReceiverStream::new(receiver), BLOB, lease);
        let mut answers = link.client().content().write(request).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok::<(), Status>(())
    };
    let (answer, written) = tokio::join!(answer, feed(sender, upload, expected, size_bytes, data));
    // If the data was bad, the store's complaint about a transfer that broke off says nothing more.
    let written = written?;
    match answer {
        Ok(()) => Ok(written),
        Err(status) if status.code() == Code::AlreadyExists => Ok(written),
        Err(status) => Err(failure("store a blob", &status).into()),
    }
}

async fn feed(
    sender: mpsc::Sender<WriteContentRequest>,
    upload: &str,
    expected: Option<&str>,
    size_bytes: u64,
    mut data: impl Read,
) -> Result<Written, WriteError> {
    let message = |action: WriteAction, offset: u64, data: Vec<u8>| WriteContentRequest {
        action: action as i32,
        r#ref: upload.to_owned(),
        total: i64::try_from(size_bytes).unwrap_or(i64::MAX),
        expected: expected.unwrap_or_default().to_owned(),
        offset: i64::try_from(offset).unwrap_or(i64::MAX),
        data,
        labels: HashMap::new(),
    };
    let mut hash = Sha256::new();
    let mut offset = 0;
    let mut is_gzip = false;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        data.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            break;
        }
        if offset == 0 {
            is_gzip = chunk.starts_with(&[0x1f, 0x8b]);
        }
        hash.update(&chunk);
        let length = chunk.len() as u64;
        // A receiver that went has the blob already, or failed; its answer says so. Reading goes on, because
        // the digest is wanted all the same.
        let _ = sender.send(message(WriteAction::Write, offset, chunk)).await;
        offset += length;
    }
    let digest = digest_text(hash);
    if let Some(expected) = expected.filter(|expected| *expected != digest) {
        return Err(WriteError::Digest { expected: expected.to_owned(), found: digest });
    }
    let _ = sender.send(message(WriteAction::Commit, offset, Vec::new())).await;
    Ok(Written { digest, size_bytes: offset, is_gzip })
}

/// A whole blob of at most `bytes_max`; `None` if the store has none or it is larger.
pub(crate) async fn read_blob(
    link: &Link,
    digest: &str,
    bytes_max: usize,
) -> Result<Option<Vec<u8>>, RuntimeError> {
    let read = async {
        let request = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
        let mut answers = link.client().content().read(call(request, QUICK)).await?.into_inner();
        let mut content = Vec::new();
        while let Some(part) = answers.message().await? {
            content.extend_from_slice(&part.data);
            if content.len() > bytes_max {
                return Ok(None);
            }
        }
        Ok::<_, Status>(Some(content))
    };
    match read.await {
        Ok(content) => Ok(content),
        Err(status) if matches!(status.code(), Code::NotFound | Code::InvalidArgument) => Ok(None),
        Err(status) => Err(failure("read a blob", &status)),
    }
}

/// Adds labels to a blob.
pub(crate) async fn label_blob(
    link: &Link,
    digest: &str,
    labels: HashMap<String, String>,
) -> Result<(), RuntimeError> {
    let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
    let request = UpdateRequest {
        info: Some(Info { digest: digest.to_owned(), labels, ..Info::default() }),
        update_mask: Some(FieldMask { paths }),
    };
    let answer = link.client().content().update(call(request, QUICK)).await;
    answer.map(drop).map_err(|status| failure("label a blob", &status))
}

/// `sha256:` and the digest in hexadecimal.
pub(crate) fn digest_text(hash: Sha256) -> String {
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
