//! Cuts what there is to say into messages that any receiver takes: by number and by size.

use prost::Message;
use teamster_proto::agent::v1 as wire;

/// Most entries of a message.
const ENTRIES_MAX: usize = 500;
/// About how large a message may become. One entry alone is smaller than 4 MiB, the common limit of gRPC,
/// because results are bounded when they are made.
const BYTES_MAX: usize = 1 << 20;

/// The inventory in chunks, of which the last says so. There is always at least one.
pub(super) fn inventory(held: Vec<wire::Held>) -> Vec<wire::AgentMessage> {
    let mut chunks = cut(held);
    if chunks.is_empty() {
        chunks.push(Vec::new());
    }
    let last = chunks.len() - 1;
    let message = |(index, held)| wire::Inventory { held, last: index == last };
    let body = |chunk| wire::agent_message::Body::Inventory(message(chunk));
    chunks.into_iter().enumerate().map(|chunk| wire::AgentMessage { body: Some(body(chunk)) }).collect()
}

/// Reports in as few messages as may be.
pub(super) fn reports(reports: Vec<wire::Report>) -> impl Iterator<Item = wire::AgentMessage> {
    cut(reports).into_iter().map(|reports| wire::AgentMessage {
        body: Some(wire::agent_message::Body::Reports(wire::Reports { reports })),
    })
}

fn cut<M: Message>(entries: Vec<M>) -> Vec<Vec<M>> {
    let mut pieces: Vec<Vec<M>> = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        let size = entry.encoded_len();
        let fits = pieces.last().is_some_and(|piece| piece.len() < ENTRIES_MAX && bytes + size <= BYTES_MAX);
        if !fits {
            pieces.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        pieces.last_mut().expect("one was pushed when there was none").push(entry);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(tail_bytes: usize) -> wire::Held {
        let log = wire::ExecutorLog { stdout_tail: "x".repeat(tail_bytes), ..Default::default() };
        let result = wire::Result { executors: vec![log], ..Default::default() };
        wire::Held { result: Some(result), ..Default::default() }
    }

    fn sizes(messages: &[wire::AgentMessage]) -> Vec<(usize, bool)> {
        let inventory = |message: &wire::AgentMessage| match &message.body {
            Some(wire::agent_message::Body::Inventory(chunk)) => (chunk.held.len(), chunk.last),
            other => panic!("{other:?}"),
        };
        messages.iter().map(inventory).collect()
    }

    #[test]
    fn an_empty_inventory_is_one_last_chunk() {
        assert_eq!(sizes(&inventory(Vec::new())), [(0, true)]);
    }

    #[test]
    fn cuts_by_number_and_by_size() {
        let many = vec![wire::Held::default(); 1001];
        assert_eq!(sizes(&inventory(many)), [(500, false), (500, false), (1, true)]);
        let large = vec![held(128 << 10); 100];
        let messages = inventory(large);
        assert!(messages.iter().all(|message| message.encoded_len() < 2 << 20));
        assert_eq!(sizes(&messages).iter().map(|(held, _)| held).sum::<usize>(), 100);
        // One that is too large alone still goes, alone.
        assert_eq!(sizes(&inventory(vec![held(3 << 20), held(1)])), [(1, false), (1, true)]);
    }
}
