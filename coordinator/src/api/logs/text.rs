//! Logs as plain text: whole from the node, byte for byte, or what is stored with the task where the node or
//! its files are gone. A header says which of the two it is.

use std::io;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::source::{Place, STREAMS, Source, end_of, stored_end};
use super::{Question, Stream};
use crate::log_hub::{LogStream, Unread};

/// Says whether the text is `whole`, or only the `tail` that is stored with the task.
const EXTENT: &str = "teamster-logs";

/// A piece of the answer.
enum Piece {
    Text(String),
    /// On the node, up to `end`.
    OnNode {
        place: Place,
        end: u64,
    },
}

/// The answer, of which `system` is the system log.
pub(super) async fn answer(source: Option<Source>, question: &Question, system: String) -> Response {
    let mut pieces = Vec::new();
    let mut is_whole = true;
    for stream in STREAMS.into_iter().filter(|stream| question.wants(*stream)) {
        let Some(source) = &source else { continue };
        let mut found = match on_node(source, stream).await {
            Ok(found) => found,
            Err(_) => {
                let (found, all) = stored(source, stream);
                is_whole &= all;
                found
            }
        };
        found.retain(|(executor, _)| question.executor.is_none_or(|wanted| wanted == *executor));
        let found = found.into_iter().map(|(_, piece)| piece).collect();
        pieces.extend(cut(found, question.tail));
    }
    if question.stream.is_none_or(|stream| stream == Stream::System) {
        pieces.push(Piece::Text(system));
    }
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/plain; charset=utf-8"),
        // Not even a browser may take what a task wrote for anything but text.
        (header::X_CONTENT_TYPE_OPTIONS.as_str(), "nosniff"),
        (EXTENT, if is_whole { "whole" } else { "tail" }),
    ];
    (headers, body(source, pieces)).into_response()
}

async fn on_node(source: &Source, stream: LogStream) -> Result<Vec<(u32, Piece)>, Unread> {
    let sizes = source.sizes(stream).await?;
    let piece = |(executor, end): (usize, u64)| {
        let executor = executor as u32;
        (executor, Piece::OnNode { place: Place { executor, stream, offset: 0 }, end })
    };
    Ok(sizes.into_iter().enumerate().filter(|(_, size)| *size > 0).map(piece).collect())
}

/// What is stored with the task, and whether that is all. Of an attempt under way nothing is.
fn stored(source: &Source, stream: LogStream) -> (Vec<(u32, Piece)>, bool) {
    let mut is_all = source.stored.is_some();
    let mut pieces = Vec::new();
    for executor in 0..source.executors {
        let Some(log) = source.stored_executor(executor) else { break };
        let (text, size_bytes) = stored_end(log, stream);
        is_all &= size_bytes == text.len() as u64;
        pieces.push((executor, Piece::Text(text.to_owned())));
    }
    (pieces, is_all)
}

/// The last `tail` bytes of all pieces together.
fn cut(mut pieces: Vec<Piece>, tail: Option<u64>) -> Vec<Piece> {
    let Some(mut room) = tail else { return pieces };
    let mut kept = Vec::new();
    while let Some(mut piece) = pieces.pop() {
        if room == 0 {
            break;
        }
        match &mut piece {
            Piece::Text(text) => {
                *text = end_of(text, room).to_owned();
                room = room.saturating_sub(text.len() as u64);
            }
            Piece::OnNode { place, end } => {
                place.offset = end.saturating_sub(room);
                room -= *end - place.offset;
            }
        }
        kept.push(piece);
    }
    kept.reverse();
    kept
}

/// A body that is fetched as fast as it is read. A node that goes away in the middle breaks it off, so that
/// nobody takes a part for the whole.
fn body(source: Option<Source>, mut pieces: Vec<Piece>) -> Body {
    pieces.reverse();
    Body::from_stream(stream::try_unfold((source, pieces), |(source, mut pieces)| async move {
        loop {
            match pieces.pop() {
                None => return Ok(None),
                Some(Piece::Text(text)) if text.is_empty() => {}
                Some(Piece::Text(text)) => return Ok(Some((Bytes::from(text), (source, pieces)))),
                Some(Piece::OnNode { place, end }) if place.offset >= end => {}
                Some(Piece::OnNode { mut place, end }) => {
                    let Some(from) = &source else { return Ok(None) };
                    let left = usize::try_from(end - place.offset).unwrap_or(usize::MAX);
                    let part = from.read_now(place, left).await.map_err(io::Error::other)?;
                    if part.data.is_empty() {
                        return Err(io::Error::other("the log has become shorter"));
                    }
                    place.offset += part.data.len() as u64;
                    pieces.push(Piece::OnNode { place, end });
                    return Ok(Some((Bytes::from(part.data), (source, pieces))));
                }
            }
        }
    }))
}
