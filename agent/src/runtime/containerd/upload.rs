//! A blob that comes into containerd's store piece by piece and may break off: what has arrived stays, and
//! the next upload of the same blob goes on behind it. containerd checks the digest; nobody can be given a
//! blob that is not whole.

use std::collections::HashMap;
use std::time::Duration;

use containerd_client::services::v1::{WriteAction, WriteContentRequest, WriteContentResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::link::{Link, leased};

/// One message of a write; containerd takes up to 16 MiB.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// Messages on their way: one is being sent while the next is being filled.
const PIECES_IN_FLIGHT: usize = 2;

/// An upload that is open.
pub(crate) struct Upload {
    name: String,
    digest: String,
    size_bytes: u64,
    offset: u64,
    sender: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
}

impl Upload {
    /// Opens the upload of a blob, or goes on with one that broke off. `deadline` is for all of it. None when the
    /// store has the blob already; the lease holds it now.
    pub(crate) async fn open(
        link: &Link,
        lease: &str,
        digest: &str,
        size_bytes: u64,
        deadline: Duration,
    ) -> Result<Option<Self>, Status> {
        let (sender, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let name = Self::name_of(digest);
        let ask = message(&name, digest, size_bytes, WriteAction::Stat, 0, Vec::new());
        sender.try_send(ask).expect("the channel is new and has room");
        let request = leased(ReceiverStream::new(receiver), deadline, lease);
        let opened = async {
            let mut answers = link.client().content().write(request).await?.into_inner();
            let first = answers.message().await?;
            Ok((answers, first))
        };
        let (answers, first) = match opened.await {
            Ok(opened) => opened,
            Err(status) if is_there(&status) => return Ok(None),
            Err(status) => return Err(status),
        };
        let first = first.ok_or_else(|| Status::unknown("containerd does not say what it has"))?;
        let offset = u64::try_from(first.offset).unwrap_or_default();
        let digest = digest.to_owned();
        Ok(Some(Self { name, digest, size_bytes, offset, sender, answers }))
    }

    /// The same name for the same blob, so that whoever comes next finds what is there.
    pub(crate) fn name_of(digest: &str) -> String {
        format!("pull-{digest}")
    }

    /// How much the store has.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Writes the next piece, of at most [`PIECE_BYTES`]. One at offset 0 replaces what was there.
    pub(crate) async fn write(&mut self, offset: u64, piece: Vec<u8>) -> Result<(), Status> {
        let length = piece.len() as u64;
        self.send(WriteAction::Write, offset, piece).await?;
        self.answer().await?;
        self.offset = offset + length;
        Ok(())
    }

    /// Says that this was all. It fails when the digest is another one than was promised.
    pub(crate) async fn commit(mut self) -> Result<(), Status> {
        self.send(WriteAction::Commit, self.offset, Vec::new()).await?;
        match self.answer().await {
            Err(status) if !is_there(&status) => Err(status),
            _ => Ok(()),
        }
    }

    /// Leaves the upload as it is, and waits until the store knows that.
    pub(crate) async fn pause(self) {
        let Self { sender, mut answers, .. } = self;
        drop(sender);
        while let Ok(Some(_)) = answers.message().await {}
    }

    async fn send(&mut self, action: WriteAction, offset: u64, data: Vec<u8>) -> Result<(), Status> {
        let message = message(&self.name, &self.digest, self.size_bytes, action, offset, data);
        if self.sender.send(message).await.is_err() {
            // Whoever received has given up, and its last answer says why.
            self.answer().await?;
            return Err(Status::unavailable("containerd broke an upload off"));
        }
        Ok(())
    }

    async fn answer(&mut self) -> Result<(), Status> {
        match self.answers.message().await? {
            Some(_) => Ok(()),
            None => Err(Status::unavailable("containerd broke an upload off")),
        }
    }
}

fn message(
    name: &str,
    digest: &str,
    size_bytes: u64,
    action: WriteAction,
    offset: u64,
    data: Vec<u8>,
) -> WriteContentRequest {
    WriteContentRequest {
        action: action as i32,
        r#ref: name.to_owned(),
        total: i64::try_from(size_bytes).unwrap_or(i64::MAX),
        expected: digest.to_owned(),
        offset: i64::try_from(offset).unwrap_or(i64::MAX),
        data,
        labels: HashMap::new(),
    }
}

fn is_there(status: &Status) -> bool {
    status.code() == Code::AlreadyExists
}
