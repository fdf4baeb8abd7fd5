//! Absolute paths as tasks name them.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The longest path that is taken, in bytes: Linux's own limit.
const MAX_BYTES: usize = 4096;

/// An absolute, normalised path: no `..`, no `.`, no empty component, no NUL, no trailing slash.
/// Comparison and [`strip_prefix`](Self::strip_prefix) go by whole components, never by text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AbsolutePath(String);

/// Why a text is not an acceptable path.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("must be an absolute path")]
    NotAbsolute,
    /// It has a `..` component.
    #[error("must not contain '..'")]
    HasParent,
    /// It has a NUL byte.
    #[error("must not contain a NUL byte")]
    HasNul,
    /// It is over 4096 bytes.
    #[error("must not be longer than {MAX_BYTES} bytes")]
    TooLong,
}

impl AbsolutePath {
    /// Parses and normalises `text`.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if !text.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        if text.len() > MAX_BYTES {
            return Err(PathError::TooLong);
        }
        if text.contains('\0') {
            return Err(PathError::HasNul);
        }
        let mut normal = String::with_capacity(text.len());
        for component in text.split('/') {
            match component {
                "" | "." => {}
                ".." => return Err(PathError::HasParent),
                name => {
                    normal.push('/');
                    normal.push_str(name);
                }
            }
        }
        if normal.is_empty() {
            normal.push('/');
        }
        Ok(Self(normal))
    }

    /// The root directory.
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// Whether this is `/`.
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As a path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The directory that holds it; none for `/`.
    pub fn parent(&self) -> Option<Self> {
        let parent = self.as_path().parent()?;
        Some(Self(parent.to_str()?.to_owned()))
    }

    /// The last component; none for `/`.
    pub fn file_name(&self) -> Option<&str> {
        self.as_path().file_name()?.to_str()
    }

    /// How many components it has; 0 for `/`.
    pub fn depth(&self) -> usize {
        self.as_path().components().filter(|c| matches!(c, Component::Normal(_))).count()
    }

    /// Whether it is `ancestor` or lies below it.
    pub fn starts_with(&self, ancestor: &Self) -> bool {
        self.as_path().starts_with(ancestor.as_path())
    }

    /// What is left below `ancestor`: relative, empty when they are equal, none when it does not lie there.
    pub fn strip_prefix(&self, ancestor: &Self) -> Option<&Path> {
        self.as_path().strip_prefix(ancestor.as_path()).ok()
    }

    /// This path with a relative one appended; refused when `relative` has `..` or is absolute.
    pub fn join(&self, relative: &str) -> Result<Self, PathError> {
        Self::parse(&format!("{}/{relative}", self.0))
    }

    /// This path seen from `root`: `root` + this.
    pub fn below(&self, root: &Path) -> PathBuf {
        root.join(self.0.trim_start_matches('/'))
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<String> for AbsolutePath {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        Self::parse(&text)
    }
}

impl From<AbsolutePath> for String {
    fn from(path: AbsolutePath) -> Self {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> AbsolutePath {
        AbsolutePath::parse(text).unwrap()
    }

    #[test]
    fn normalises() {
        assert_eq!(path("//a/./b//c/").as_str(), "/a/b/c");
        assert_eq!(path("///").as_str(), "/");
        assert_eq!(path("/").depth(), 0);
        assert_eq!(path("/a/b").depth(), 2);
    }

    #[test]
    fn refuses_what_could_escape() {
        assert_eq!(AbsolutePath::parse("a/b"), Err(PathError::NotAbsolute));
        assert_eq!(AbsolutePath::parse(""), Err(PathError::NotAbsolute));
        assert_eq!(AbsolutePath::parse("/a/../b"), Err(PathError::HasParent));
        assert_eq!(AbsolutePath::parse("/a\0b"), Err(PathError::HasNul));
        assert_eq!(AbsolutePath::parse(&format!("/{}", "x".repeat(5000))), Err(PathError::TooLong));
        assert_eq!(path("/a").join("../b"), Err(PathError::HasParent));
    }

    #[test]
    fn compares_by_component() {
        assert!(path("/mnt/shared/x").starts_with(&path("/mnt/shared")));
        assert!(path("/mnt/shared").starts_with(&path("/mnt/shared")));
        assert!(!path("/mnt/shared2/x").starts_with(&path("/mnt/shared")));
        assert_eq!(path("/a/b/c").strip_prefix(&path("/a")), Some(Path::new("b/c")));
        assert_eq!(path("/a").below(Path::new("/root")), Path::new("/root/a"));
    }
}
