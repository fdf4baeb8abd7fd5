//! Bytes that come in pieces, as text that never splits a character. Bytes that are no UTF-8 become U+FFFD.

/// Turns pieces of one stream into text.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The beginning of a character whose rest has not come yet: at most three bytes.
    held: Vec<u8>,
    /// Whether the stream was entered in the middle, so that it may begin with the rest of a character.
    is_cut: bool,
}

impl Decoder {
    /// For a stream that is entered anywhere.
    pub(super) fn after_cut() -> Self {
        Self { held: Vec::new(), is_cut: true }
    }

    /// How many bytes wait for the rest of their character.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held.len() as u64
    }

    /// The text of what came before and `data`, and how many bytes it stands for. At the end of the stream
    /// nothing is held back.
    pub(super) fn decode(&mut self, data: &[u8], is_end: bool) -> (String, u64) {
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(data);
        let mut skipped = 0;
        if self.is_cut && !bytes.is_empty() {
            self.is_cut = false;
            skipped = bytes.iter().take(3).take_while(|byte| **byte & 0xC0 == 0x80).count();
        }
        if !is_end {
            self.held = bytes.split_off(bytes.len() - unfinished(&bytes[skipped..]));
        }
        (String::from_utf8_lossy(&bytes[skipped..]).into_owned(), bytes.len() as u64)
    }
}

/// How many bytes at the end are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last();
    let rest = last.map(|chunk| chunk.invalid()).unwrap_or_default();
    // What is invalid whatever follows must not be waited for.
    let may_go_on = std::str::from_utf8(rest).is_err_and(|error| error.error_len().is_none());
    if may_go_on { rest.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_make_the_same_text() {
        let bytes = "aä€🙂b\n".as_bytes().iter().copied().chain([0xff, b'x', 0xe2, 0x82]).collect::<Vec<_>>();
        let whole = String::from_utf8_lossy(&bytes).into_owned();
        for size in 1..=bytes.len() {
            let mut decoder = Decoder::default();
            let (mut text, mut taken) = (String::new(), 0);
            for piece in bytes.chunks(size) {
                let (more, count) = decoder.decode(piece, false);
                text.push_str(&more);
                taken += count;
                assert!(decoder.held_bytes() <= 3);
            }
            assert_eq!(taken + decoder.held_bytes(), bytes.len() as u64);
            let (rest, count) = decoder.decode(&[], true);
            assert_eq!((text + &rest, taken + count), (whole.clone(), bytes.len() as u64), "{size}");
        }
    }

    #[test]
    fn the_rest_of_a_character_at_a_cut_is_left_out() {
        let bytes = "🙂ok".as_bytes();
        for cut in 1..4 {
            assert_eq!(Decoder::after_cut().decode(&bytes[cut..], false), ("ok".to_owned(), 6 - cut as u64));
        }
        assert_eq!(Decoder::after_cut().decode(bytes, false).0, "🙂ok");
    }
}
