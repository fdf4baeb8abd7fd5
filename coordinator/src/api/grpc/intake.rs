//! Takes in the message of a call before anything decodes it, within the bounds that REST has for a body: of
//! size, of time, of room in memory, and of how many values it holds, because a value that takes two bytes
//! in a message takes some hundred once it is decoded.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};
use tokio::sync::SemaphorePermit;
use tonic::Status;

use super::super::Api;
use super::super::admission::Incoming;
use super::super::error::ApiError;
use super::super::request::{BODY_BYTES_MAX, JSON_VALUES_MAX};

/// Calls of this service send one message each.
const SERVICE: &str = "/tes.v1.TaskService/";
const CREATE: &str = "/tes.v1.TaskService/CreateTask";

/// What stands before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// Every message but a submitted task: an id, or the filters of a list.
const QUESTION_BYTES_MAX: usize = 128 << 10;

/// Fields that are messages and are looked into: those of the request, of the task, and of what a task is
/// made of. What lies deeper is counted with what holds it.
const MESSAGE_FIELDS: [&[u32]; 3] = [&[1], &[5, 6, 7, 8, 11], &[]];

/// Takes in the one message of a task call; other services have their own small messages.
pub(super) async fn bounded(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !path.starts_with(SERVICE) {
        return next.run(request).await;
    }
    let max_bytes = if path == CREATE { BODY_BYTES_MAX } else { QUESTION_BYTES_MAX };
    let (head, body) = request.into_parts();
    match take_in(&api, body, max_bytes).await {
        // The room is held until the call is over.
        Ok((body, _room)) => next.run(Request::from_parts(head, Body::from(body))).await,
        Err(error) => Status::from(error).into_http(),
    }
}

async fn take_in(api: &Api, body: Body, max_bytes: usize) -> Result<(Bytes, SemaphorePermit<'_>), ApiError> {
    let mut incoming = Incoming::new(body);
    incoming.at_least(PREFIX_BYTES).await?;
    let length = incoming.taken().first_chunk().map_or(0, |[_, length @ ..]: &[u8; PREFIX_BYTES]| {
        // No message is longer than four bytes can say.
        u32::from_be_bytes(*length) as usize
    });
    if length > max_bytes {
        return Err(ApiError::TooLarge { limit_bytes: max_bytes });
    }
    // Meanwhile flow control holds the sender.
    let room = api.state.admission.body(length).await?;
    let taken = incoming.all(PREFIX_BYTES + length).await?;
    let taken = taken.ok_or_else(|| ApiError::Invalid("the call must send one message".to_owned()))?;
    let message = taken.get(PREFIX_BYTES..).unwrap_or_default();
    if count(message, 0) > JSON_VALUES_MAX {
        return Err(ApiError::Invalid(format!(
            "the message must not hold more than {JSON_VALUES_MAX} values"
        )));
    }
    Ok((taken.freeze(), room))
}

/// How many values stand in `message`, and in those of its fields that are messages themselves. Where it
/// makes no sense the count ends: decoding will say so.
fn count(mut message: &[u8], depth: usize) -> usize {
    let mut found = 0;
    while let Ok((field, wire_type)) = decode_key(&mut message) {
        found += 1;
        let length = match wire_type {
            WireType::Varint => decode_varint(&mut message).ok().map(|_| 0),
            WireType::SixtyFourBit => Some(8),
            WireType::ThirtyTwoBit => Some(4),
            WireType::LengthDelimited => {
                decode_varint(&mut message).ok().and_then(|length| usize::try_from(length).ok())
            }
            WireType::StartGroup | WireType::EndGroup => None,
        };
        let Some(value) = length.and_then(|length| message.get(..length)) else { break };
        if wire_type == WireType::LengthDelimited && MESSAGE_FIELDS[depth].contains(&field) {
            found += count(value, depth + 1);
        }
        message.advance(value.len());
    }
    found
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use teamster_proto::tes::v1 as wire;

    use super::*;

    fn count_of(task: wire::Task) -> usize {
        let request = wire::CreateTaskRequest { task: Some(task) };
        count(&request.encode_to_vec(), 0)
    }

    #[test]
    fn counts_what_takes_room() {
        let executor = wire::Executor { command: vec![String::new(); 3], ..Default::default() };
        assert_eq!(
            count_of(wire::Task { executors: vec![executor; 2], ..Default::default() }),
            1 + 2 * (1 + 3)
        );
        let log = wire::TaskLog { logs: vec![wire::ExecutorLog::default(); 5], ..wire::TaskLog::default() };
        assert_eq!(count_of(wire::Task { logs: vec![log], ..Default::default() }), 1 + 1 + 5);
        // A text is one value, whatever it looks like.
        assert_eq!(count_of(wire::Task { volumes: vec!["\n\0".repeat(50)], ..Default::default() }), 2);
        let input = wire::Input { content: Some("\n\0".repeat(50)), ..Default::default() };
        assert_eq!(count_of(wire::Task { inputs: vec![input], ..Default::default() }), 3);
    }

    #[test]
    fn rubbish_is_counted_to_its_first_mistake() {
        for rubbish in [&[0xff; 30][..], &[0x0a], &[0x0a, 0x7f, 1], &[0x0b, 0x0c]] {
            assert!(count(rubbish, 0) <= 2);
        }
    }
}
