//! Random bytes that only this cluster knows. Made once, kept in the database; never shown, not even where the rest
//! of a structure is printed.

use std::fmt;
use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// What the cluster signs with.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new one.
    pub(super) fn new() -> io::Result<Self> {
        let mut bytes = [0; 32];
        // The kernel gives so few bytes whole, or waits.
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        Ok(Self(bytes))
    }

    /// The one that is kept.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes, to sign with or to keep.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_another_each_time_and_not_shown() {
        let (one, other) = (Secret::new().unwrap(), Secret::new().unwrap());
        assert_ne!(one.as_bytes(), other.as_bytes());
        assert_eq!(format!("{one:?}"), "Secret");
        assert!(Secret::from_bytes(&[1; 31]).is_none() && Secret::from_bytes(&[1; 32]).is_some());
    }
}
