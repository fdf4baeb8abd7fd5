//! URLs of files on shared storage.

use percent_encoding::percent_decode_str;

use crate::path::{AbsolutePath, PathError};

/// Why a URL does not name a file on shared storage.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StorageUrlError {
    /// Another scheme than `file`.
    #[error("the scheme '{0}' is not served; use an absolute path or file:///path")]
    Scheme(String),
    /// `file://host/path`.
    #[error("a file URL must not name a host: write file:///path")]
    Host,
    /// Percent escapes that are not UTF-8.
    #[error("must be valid UTF-8 after percent-decoding")]
    NotUtf8,
    /// The path in it is not acceptable.
    #[error(transparent)]
    Path(#[from] PathError),
}

/// The path that a storage URL names: `/mnt/shared/x` (taken as it is written) or `file:///mnt/shared/x`
/// (percent-decoded), the two forms of TES 1.1.0's `tesInput.url` that engines use for shared storage.
pub fn parse_storage_url(url: &str) -> Result<AbsolutePath, StorageUrlError> {
    if url.starts_with('/') {
        return Ok(AbsolutePath::parse(url)?);
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(PathError::NotAbsolute.into());
    };
    if !scheme.eq_ignore_ascii_case("file") {
        return Err(StorageUrlError::Scheme(scheme.to_owned()));
    }
    let encoded = rest.strip_prefix("localhost").unwrap_or(rest);
    if !encoded.starts_with('/') {
        return Err(StorageUrlError::Host);
    }
    let decoded = percent_decode_str(encoded).decode_utf8().map_err(|_| StorageUrlError::NotUtf8)?;
    Ok(AbsolutePath::parse(&decoded)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Result<String, StorageUrlError> {
        parse_storage_url(url).map(String::from)
    }

    #[test]
    fn takes_both_forms() {
        assert_eq!(parsed("/mnt/shared/a%20b").unwrap(), "/mnt/shared/a%20b");
        assert_eq!(parsed("file:///mnt/shared/a%20b/").unwrap(), "/mnt/shared/a b");
        assert_eq!(parsed("FILE://localhost/x").unwrap(), "/x");
    }

    #[test]
    fn refuses_the_rest() {
        assert_eq!(parsed("s3://bucket/x"), Err(StorageUrlError::Scheme("s3".into())));
        assert_eq!(parsed("file://server/x"), Err(StorageUrlError::Host));
        assert_eq!(parsed("file:///a/%2e%2e/b"), Err(PathError::HasParent.into()));
        assert_eq!(parsed("file:///a%00b"), Err(PathError::HasNul.into()));
        assert_eq!(parsed("x/y"), Err(PathError::NotAbsolute.into()));
        assert_eq!(parsed("file:///%ff"), Err(StorageUrlError::NotUtf8));
    }
}
