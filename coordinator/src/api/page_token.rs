//! Page tokens: a place in a list, signed, so that none can be made up, and bound to whose list it is and to its
//! filters, so that none leads into another one. Reads nothing; what is on a page is decided elsewhere.

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::store::{Cursor, Secret, TagFilter};

/// First byte of a token: the version of what follows.
const VERSION: u8 = 2;

/// Tells these signatures from others that are made with the same secret.
const PURPOSE: &[u8] = b"page token\0";

/// How much of a hash names the filters: enough that two lists of one caller are not taken for each other. That
/// nobody makes a token up is the signature's part.
const FILTERS_BYTES: usize = 8;

/// How much of the signature is sent: 128 bits cannot be guessed.
const SIGNATURE_BYTES: usize = 16;

/// Version, place, filters.
const SIGNED_BYTES: usize = 1 + 8 + FILTERS_BYTES;

/// What a list is narrowed to. The same on every page of it; the size of a page and the view may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filters<'f> {
    /// Name of the state, in upper case.
    pub(super) state: Option<&'f str>,
    pub(super) name_prefix: Option<&'f str>,
    pub(super) tags: &'f [TagFilter],
}

/// A token that was given out by this cluster, to this owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opened {
    /// Where the page begins.
    pub(super) cursor: Cursor,
    filters: [u8; FILTERS_BYTES],
}

impl Filters<'_> {
    fn digest(&self) -> [u8; FILTERS_BYTES] {
        let mut tags: Vec<_> = self.tags.iter().map(|tag| (&tag.key, &tag.value)).collect();
        // All of them must fit, so their order says nothing.
        tags.sort();
        let text = serde_json::json!([self.state, self.name_prefix, tags]).to_string();
        let mut digest = [0; FILTERS_BYTES];
        digest.copy_from_slice(&Sha256::digest(text)[..FILTERS_BYTES]);
        digest
    }
}

impl Opened {
    /// Whether it was given out for a list with these filters.
    pub(super) fn is_for(&self, filters: &Filters<'_>) -> bool {
        self.filters == filters.digest()
    }
}

/// The token of the page that begins at `cursor`: text that means nothing to clients.
pub(super) fn seal(secret: &Secret, owner: &str, filters: &Filters<'_>, cursor: Cursor) -> String {
    let mut bytes = Vec::with_capacity(SIGNED_BYTES + SIGNATURE_BYTES);
    bytes.push(VERSION);
    bytes.extend_from_slice(&cursor.0.to_be_bytes());
    bytes.extend_from_slice(&filters.digest());
    let signature = signing(secret, owner, &bytes).finalize().into_bytes();
    bytes.extend_from_slice(&signature[..SIGNATURE_BYTES]);
    BASE64URL_NOPAD.encode(&bytes)
}

/// What [`seal`] made for this owner; none where anybody else made it.
pub(super) fn open(secret: &Secret, owner: &str, token: &str) -> Option<Opened> {
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
    let (signed, signature) = bytes.split_at_checked(SIGNED_BYTES)?;
    if signature.len() != SIGNATURE_BYTES {
        return None;
    }
    // Takes as long for a near miss as for rubbish.
    signing(secret, owner, signed).verify_truncated_left(signature).ok()?;
    let (&VERSION, rest) = signed.split_first()? else { return None };
    let (place, filters) = rest.split_first_chunk()?;
    let cursor = Cursor(u64::from_be_bytes(*place));
    Some(Opened { cursor, filters: filters.try_into().ok()? })
}

fn signing(secret: &Secret, owner: &str, signed: &[u8]) -> Hmac<Sha256> {
    let mut signing = Hmac::new_from_slice(secret.as_bytes()).expect("a key may have any length");
    signing.update(PURPOSE);
    // Of a fixed length, so that it is clear where the owner begins.
    signing.update(signed);
    signing.update(owner.as_bytes());
    signing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(key: &str, value: Option<&str>) -> TagFilter {
        TagFilter { key: key.into(), value: value.map(Into::into) }
    }

    fn secret(byte: u8) -> Secret {
        Secret::from_bytes(&[byte; 32]).unwrap()
    }

    const NONE: Filters<'_> = Filters { state: None, name_prefix: None, tags: &[] };

    #[test]
    fn leads_back_to_its_place_and_nowhere_else() {
        let token = seal(&secret(1), "me", &NONE, Cursor(77));
        let opened = open(&secret(1), "me", &token).unwrap();
        assert_eq!(opened.cursor, Cursor(77));
        assert!(opened.is_for(&NONE));
        assert_eq!(open(&secret(1), "you", &token), None, "another's");
        assert_eq!(open(&secret(2), "me", &token), None, "another cluster's");
        let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&secret(1), "me", &BASE64URL_NOPAD.encode(&forged)), None, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(open(&secret(1), "me", &BASE64URL_NOPAD.encode(&bytes[..length])), None, "{length}");
        }
        for rubbish in ["", "x", "AAAA", "AQAAAAAAAABN", "../..", &format!("{token}AA"), &format!("{token}=")]
        {
            assert_eq!(open(&secret(1), "me", rubbish), None, "{rubbish}");
        }
    }

    #[test]
    fn belongs_to_its_filters() {
        let (a, b) = (tag("a", None), tag("b", Some("x")));
        let both = [a.clone(), b.clone()];
        let filters = Filters { state: Some("COMPLETE"), name_prefix: Some("n"), tags: &both };
        let opened = open(&secret(1), "me", &seal(&secret(1), "me", &filters, Cursor(1))).unwrap();
        assert!(opened.is_for(&Filters { tags: &[b.clone(), a.clone()], ..filters }), "in another order");
        for other in [
            NONE,
            Filters { state: None, ..filters },
            Filters { state: Some("CANCELED"), ..filters },
            Filters { name_prefix: Some("nn"), ..filters },
            Filters { tags: &[a], ..filters },
            Filters { tags: &[tag("a", Some("")), b], ..filters },
        ] {
            assert!(!opened.is_for(&other), "{other:?}");
        }
    }
}
