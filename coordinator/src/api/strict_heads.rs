//! A connection whose requests have exactly one end each. It stands between the socket and hyper, follows where each
//! head and each body begins, and spoils what two servers in a row could read in two ways, so that hyper refuses it
//! with 400 and closes the connection. It changes nothing else, and knows nothing of what is asked.
//!
//! Why: hyper takes a request with both a length and chunks (and, as the specification wants it, closes the
//! connection behind it), and lines that end with a bare line feed. A proxy in front that sees another end there
//! would let one client put words into another's mouth.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// NUL stands in no head: hyper refuses it wherever it is, and then closes the connection.
const SPOILT: u8 = 0;

/// The longest name of a field that matters here.
const NAME_BYTES_MAX: usize = "transfer-encoding".len();

/// A connection that is looked at.
pub(super) struct Strict<S> {
    stream: S,
    place: Place,
    stall_timeout: Duration,
    /// Runs while a write waits for its reader.
    stall: Option<Pin<Box<Sleep>>>,
}

/// Where in the stream of requests the next byte stands.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Head(Head),
    /// In a body with so many bytes left.
    Body(u64),
    /// In chunks: the connection is closed behind them, see `serve`, so nothing follows that matters.
    Chunks,
    /// Behind a byte that was spoilt.
    Over,
}

/// What is known of a head so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Head {
    line: Line,
    /// Whether the last byte was a carriage return, so that a line feed must follow.
    after_return: bool,
    has_request_line: bool,
    length: Option<u64>,
    is_chunked: bool,
}

/// Where in a line the next byte stands.
#[derive(Debug, Default, PartialEq, Eq)]
enum Line {
    #[default]
    Start,
    Request,
    /// In the name of a field, as far as it may still be one that matters; else none.
    Name(Option<Vec<u8>>),
    /// In a value that does not matter.
    Value,
    /// In the value of `Content-Length`: its digits, and whether only blanks may follow.
    Length {
        digits: Option<u64>,
        is_over: bool,
    },
}

/// A byte that must not stand where it stands.
#[derive(Debug)]
struct Fault;

/// What a head is followed by.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Head,
    Body(u64),
    Chunks,
}

impl Head {
    /// Takes the next byte in; says what follows if it was the last.
    fn take(&mut self, byte: u8) -> Result<Option<Next>, Fault> {
        if byte == SPOILT || (byte == b'\n') != self.after_return {
            return Err(Fault);
        }
        self.after_return = byte == b'\r';
        match byte {
            b'\r' => Ok(None),
            b'\n' => self.line_over(),
            _ => self.in_line(byte).map(|()| None),
        }
    }

    fn line_over(&mut self) -> Result<Option<Next>, Fault> {
        match std::mem::take(&mut self.line) {
            // Empty lines before a request are passed over, as they always were.
            Line::Start if !self.has_request_line => Ok(None),
            Line::Start => Ok(Some(match self.length {
                _ if self.is_chunked => Next::Chunks,
                None | Some(0) => Next::Head,
                Some(length) => Next::Body(length),
            })),
            Line::Request => {
                self.has_request_line = true;
                Ok(None)
            }
            Line::Value => Ok(None),
            Line::Length { digits: Some(length), .. } => {
                self.length = Some(length);
                Ok(None)
            }
            // No colon, or no number.
            Line::Name(_) | Line::Length { digits: None, .. } => Err(Fault),
        }
    }

    fn in_line(&mut self, byte: u8) -> Result<(), Fault> {
        match &mut self.line {
            Line::Start if !self.has_request_line => self.line = Line::Request,
            // A line that goes on with the one before it.
            Line::Start if matches!(byte, b' ' | b'\t') => return Err(Fault),
            Line::Start => self.line = Line::Name(Some(vec![byte.to_ascii_lowercase()])),
            Line::Name(name) if byte == b':' => {
                let name = name.take();
                self.field(name.as_deref())?;
            }
            Line::Name(name) => match name {
                Some(known) if known.len() < NAME_BYTES_MAX => known.push(byte.to_ascii_lowercase()),
                _ => *name = None,
            },
            Line::Length { digits, is_over } => match byte {
                b'0'..=b'9' if !*is_over => {
                    let longer = digits.unwrap_or(0).checked_mul(10);
                    *digits = Some(longer.and_then(|n| n.checked_add(u64::from(byte - b'0'))).ok_or(Fault)?);
                }
                b' ' | b'\t' => *is_over = digits.is_some(),
                _ => return Err(Fault),
            },
            Line::Request | Line::Value => {}
        }
        Ok(())
    }

    /// A field begins: each of the two that say where the body ends may come once, and not beside the other.
    fn field(&mut self, name: Option<&[u8]>) -> Result<(), Fault> {
        let has_end = self.length.is_some() || self.is_chunked;
        self.line = match name {
            Some(b"content-length" | b"transfer-encoding") if has_end => return Err(Fault),
            Some(b"content-length") => Line::Length { digits: None, is_over: false },
            Some(b"transfer-encoding") => {
                self.is_chunked = true;
                Line::Value
            }
            _ => Line::Value,
        };
        Ok(())
    }
}

impl Place {
    /// Looks at what came in, and spoils the byte with which it goes wrong.
    fn check(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            match self {
                Self::Body(left) => {
                    let passed = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= passed as u64;
                    if *left == 0 {
                        *self = Self::Head(Head::default());
                    }
                    bytes = &mut bytes[passed..];
                }
                Self::Head(head) => {
                    let (first, rest) = bytes.split_first_mut().expect("it is not empty");
                    match head.take(*first) {
                        Ok(None) => {}
                        Ok(Some(Next::Head)) => *self = Self::Head(Head::default()),
                        Ok(Some(Next::Body(length))) => *self = Self::Body(length),
                        Ok(Some(Next::Chunks)) => *self = Self::Chunks,
                        Err(Fault) => {
                            *first = SPOILT;
                            *self = Self::Over;
                        }
                    }
                    bytes = rest;
                }
                Self::Chunks | Self::Over => return,
            }
        }
    }
}

impl<S> Strict<S> {
    /// `stream`, from its first request on. It fails when its client takes nothing of an answer for so long.
    pub(super) fn new(stream: S, stall_timeout: Duration) -> Self {
        Self { stream, place: Place::Head(Head::default()), stall_timeout, stall: None }
    }

    /// An error once the reader has taken nothing for too long; cleared whenever it takes something.
    fn stalled<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let deadline = || Box::pin(sleep(self.stall_timeout));
        ready!(self.stall.get_or_insert_with(deadline).as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing of its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.place.check(&mut buffer.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.stalled(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.stalled(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the stream is spoilt, in whatever pieces it comes.
    fn spoilt_at(stream: &str) -> Option<usize> {
        let found = |piece_bytes: usize| {
            let (mut place, mut bytes) = (Place::Head(Head::default()), stream.as_bytes().to_vec());
            bytes.chunks_mut(piece_bytes).for_each(|piece| place.check(piece));
            let changed: Vec<_> =
                (0..bytes.len()).filter(|index| bytes[*index] != stream.as_bytes()[*index]).collect();
            assert!(changed.len() < 2 && changed.iter().all(|index| bytes[*index] == 0));
            (changed.first().copied(), place == Place::Over)
        };
        let whole = found(stream.len());
        for piece_bytes in 1..stream.len().min(40) {
            assert_eq!(found(piece_bytes), whole, "in pieces of {piece_bytes}");
        }
        assert_eq!(whole.0.is_some(), whole.1 && !stream.contains('\0'));
        whole.0
    }

    #[test]
    fn leaves_alone_what_has_one_end() {
        for stream in [
            "GET / HTTP/1.1\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\nx: a: b \x7f\r\nx:\r\n\r\nGET / HTTP/1.0\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\n\n\n \nGET / HTTP/1.1\r\nContent-Length:0 \t\r\n\r\nGET / HTTP/1.1\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\n\n\n\n\r\n0\r\n\r\nanything\n",
            "POST / HTTP/1.1\r\nContent-Lengthy: x\r\nx-transfer-encoding: y\r\ncontent-length: 1\r\n\r\n\n",
        ] {
            assert_eq!(spoilt_at(stream), None, "{stream:?}");
        }
    }

    #[test]
    fn spoils_what_can_be_read_in_two_ways() {
        for (before, after) in [
            ("POST / HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding", ": chunked\r\n\r\n"),
            ("POST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\nContent-Length", ":4\r\n\r\n"),
            ("POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length", ": 4\r\n\r\n"),
            ("POST / HTTP/1.1\r\ntransfer-encoding: a\r\ntransfer-encoding", ": chunked\r\n\r\n"),
            ("POST / HTTP/1.1\r\ncontent-length: 4", ", 4\r\n\r\n"),
            ("POST / HTTP/1.1\r\ncontent-length: 4 ", "4\r\n\r\n"),
            ("POST / HTTP/1.1\r\ncontent-length: ", "+4\r\n\r\n"),
            ("POST / HTTP/1.1\r\ncontent-length: 1844674407370955161", "6\r\n\r\n"),
            ("POST / HTTP/1.1\r\ncontent-length:\r", "\n\r\n"),
            ("GET / HTTP/1.1\r\nx: a\r\n", " b\r\n\r\n"),
            ("GET / HTTP/1.1\r\nx: a\r\n", "\tcontent-length: 4\r\n\r\n"),
            ("GET / HTTP/1.1", "\n\n"),
            ("GET / HTTP/1.1\r\nx: a", "\ncontent-length: 4\r\n\r\n"),
            ("GET / HTTP/1.1\r\nx: a\r", "b\r\n\r\n"),
            ("GET / HTTP/1.1\r\n\r", "x"),
            ("", "\nGET / HTTP/1.1\r\n\r\n"),
            ("GET / HTTP/1.1\r\nno colon\r", "\n\r\n"),
            ("GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n..GET /", "\n"),
        ] {
            assert_eq!(spoilt_at(&format!("{before}{after}")), Some(before.len()), "{before:?}");
        }
        // It is what it would be made.
        let mut place = Place::Head(Head::default());
        place.check(&mut "GET / HTTP/1.1\r\nx: \0".to_owned().into_bytes());
        assert_eq!(place, Place::Over);
    }
}
