//! What may come in on the agents' port before it is known who sends it: as much as a hello takes. Afterwards an agent
//! may send what the wire allows. It stands before anything is decoded, and knows nothing of what is said.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use hyper::body::Frame;
use tonic::{Code, Status};

use crate::listen::Guest;

/// What may come in of a call before its hello was taken, beside the frame that it ends in. A hello names the storages
/// of a node, its networks and what it lacks: a few kilobytes.
pub(super) const HELLO_BYTES_MAX: usize = 64 << 10;

/// The body of a call, as long as it is within bounds.
struct Gate {
    body: Body,
    guest: Guest,
    left_bytes: usize,
}

/// A request whose body is bounded until its sender is admitted.
pub(super) fn bounded(request: Request) -> Request {
    // All that comes in through the listener has one.
    let Some(guest) = request.extensions().get::<Guest>().cloned() else { return request };
    request.map(|body| Body::new(Gate { body, guest, left_bytes: HELLO_BYTES_MAX }))
}

impl HttpBody for Gate {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(Status::from_error(error.into())))),
            None => return Poll::Ready(None),
        };
        if let Some(data) = frame.data_ref()
            && !self.guest.is_admitted()
        {
            match self.left_bytes.checked_sub(data.len()) {
                Some(left) => self.left_bytes = left,
                None => {
                    let reason = format!("a hello must not be longer than {HELLO_BYTES_MAX} bytes");
                    return Poll::Ready(Some(Err(Status::new(Code::ResourceExhausted, reason))));
                }
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }
}
