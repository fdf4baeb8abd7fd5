//! Placing inputs, as the task's user in the task's view: a symbolic link into the storage's own mount, or a
//! file with the given content. It never changes a file that exists and is not its own.

use std::fs::{DirBuilder, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use teamster_values::AbsolutePath;

use super::copy::{self, Copier, fault, is_same, kind_of};
use super::work::{Directory, InputFrom, InputWork, StageError};

/// The deepest directory that is placed or copied.
pub(super) const DEPTH_MAX: usize = 64;

/// The most entries of one directory that are placed or copied.
pub(super) const ENTRIES_MAX: usize = 100_000;

/// Makes directories on shared storage, with their parents.
pub(super) fn make_directories(directories: &[Directory]) -> Result<(), StageError> {
    for directory in directories {
        DirBuilder::new().recursive(true).create(directory.path.as_path()).map_err(|error| {
            fault(format!("{}: make directory {}", directory.field, directory.path), &error)
        })?;
    }
    Ok(())
}

/// Places all inputs, and sees that each can be read.
pub(super) fn place(inputs: &[InputWork], copier: &mut Copier) -> Result<(), StageError> {
    for input in inputs {
        match &input.source {
            InputFrom::Content(content) => place_content(input, content, copier)?,
            InputFrom::Storage { path, url } => place_from_storage(input, path, url, copier)?,
        }
        copier.pulse();
    }
    Ok(())
}

fn place_from_storage(
    input: &InputWork,
    source: &AbsolutePath,
    url: &str,
    copier: &mut Copier,
) -> Result<(), StageError> {
    let name = format!("{} ({url})", input.field);
    let metadata = readable(source.as_path()).map_err(|error| match error.kind() {
        ErrorKind::NotFound => StageError::Missing(format!("{name}: there is no such file")),
        ErrorKind::PermissionDenied => StageError::Task(format!("{name}: the task's user may not read it")),
        _ => fault(&name, &error),
    })?;
    let at = input.at.as_path();
    if std::fs::metadata(at).is_ok_and(|there| is_same(&there, &metadata)) {
        return Ok(());
    }
    let placed = if metadata.is_dir() {
        let mut tree = Tree { copier, entries: 0 };
        tree.place(source.as_path(), at, 0)
    } else {
        place_link(source.as_path(), at, copier)
    };
    placed.map_err(|error| fault(format!("{name}: place it at {}", input.at), &error))
}

/// Opens a file or directory to see that it can be read.
fn readable(path: &Path) -> io::Result<Metadata> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        std::fs::read_dir(path)?;
        return Ok(metadata);
    }
    if !metadata.is_file() {
        return Err(io::Error::other(format!("it is {}, not a file", kind_of(&metadata))));
    }
    Ok(copy::open(path)?.1)
}

/// A link takes the place of nothing, or of another link, such as one of an earlier attempt.
fn place_link(to: &Path, at: &Path, copier: &mut Copier) -> io::Result<()> {
    match std::fs::symlink_metadata(at) {
        Ok(there) if !there.is_symlink() => Err(taken()),
        _ => copier.link(to, at),
    }
}

fn taken() -> io::Error {
    io::Error::new(ErrorKind::AlreadyExists, "another file is there already")
}

fn place_content(input: &InputWork, content: &str, copier: &mut Copier) -> Result<(), StageError> {
    let at = input.at.as_path();
    let placed = match std::fs::symlink_metadata(at) {
        Ok(there) if there.is_symlink() => copier.write(content, at),
        Ok(_) => match holds(at, content) {
            Ok(true) => Ok(()),
            Ok(false) => Err(taken()),
            Err(error) => Err(error),
        },
        Err(_) => copier.write(content, at),
    };
    placed.map_err(|error| fault(format!("{}: write {}", input.field, input.at), &error))
}

/// Whether a file has exactly this content.
fn holds(path: &Path, content: &str) -> io::Result<bool> {
    let (file, metadata) = copy::open(path)?;
    if !metadata.is_file() || metadata.len() != content.len() as u64 {
        return Ok(false);
    }
    let mut there = Vec::with_capacity(content.len());
    file.take(metadata.len()).read_to_end(&mut there)?;
    Ok(there == content.as_bytes())
}

/// A directory of real directories whose files are links: other files may be placed in it, and nothing
/// that the task adds reaches the source.
struct Tree<'a> {
    copier: &'a mut Copier,
    entries: usize,
}

impl Tree<'_> {
    fn place(&mut self, source: &Path, at: &Path, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("it is more than {DEPTH_MAX} directories deep")));
        }
        match std::fs::create_dir(at) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && at.is_dir() => {}
            other => other?,
        }
        for entry in std::fs::read_dir(source)? {
            let entry = entry?;
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(io::Error::other(format!("it has more than {ENTRIES_MAX} entries")));
            }
            let (from, to) = (entry.path(), at.join(entry.file_name()));
            if entry.file_type()?.is_dir() {
                self.place(&from, &to, depth + 1)?;
            } else {
                place_link(&from, &to, self.copier)?;
            }
            self.copier.pulse();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(at: &Path, source: InputFrom) -> InputWork {
        InputWork {
            field: "inputs[0]".into(),
            at: AbsolutePath::parse(at.to_str().unwrap()).unwrap(),
            source,
        }
    }

    fn from(path: &Path) -> InputFrom {
        let path = AbsolutePath::parse(path.to_str().unwrap()).unwrap();
        InputFrom::Storage { url: format!("file://{path}"), path }
    }

    fn place_one(at: &Path, source: InputFrom) -> Result<(), StageError> {
        place(&[input(at, source)], &mut Copier::new("t"))
    }

    #[test]
    fn links_and_does_it_again() {
        let directory = tempfile::tempdir().unwrap();
        let (source, at) = (directory.path().join("a"), directory.path().join("b"));
        std::fs::write(&source, "x").unwrap();
        std::os::unix::fs::symlink("/nonexistent", &at).unwrap();
        for _ in 0..2 {
            place_one(&at, from(&source)).unwrap();
        }
        assert_eq!(std::fs::read_link(&at).unwrap(), source);
        place_one(&source, from(&source)).unwrap();
        assert!(source.symlink_metadata().unwrap().is_file(), "the file itself stays");
    }

    #[test]
    fn changes_no_file_that_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let (source, at) = (directory.path().join("a"), directory.path().join("b"));
        std::fs::write(&source, "x").unwrap();
        std::fs::write(&at, "precious").unwrap();
        for content in [from(&source), InputFrom::Content("x".into()), InputFrom::Content("PRECIOUS".into())]
        {
            let error = place_one(&at, content).unwrap_err();
            assert!(matches!(&error, StageError::Task(text) if text.contains("already")), "{error}");
        }
        place_one(&at, InputFrom::Content("precious".into())).unwrap();
        assert_eq!(std::fs::read_to_string(&at).unwrap(), "precious");
    }

    #[test]
    fn names_what_is_missing_or_strange() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("b");
        let error = place_one(&at, from(&directory.path().join("none"))).unwrap_err().to_string();
        assert!(error.contains("inputs[0] (file://") && error.contains("no such file"), "{error}");
        let socket = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = place_one(&at, from(&socket)).unwrap_err().to_string();
        assert!(error.contains("a socket"), "{error}");
    }

    #[test]
    fn a_directory_becomes_a_tree_of_links() {
        let directory = tempfile::tempdir().unwrap();
        let (source, at) = (directory.path().join("a"), directory.path().join("b"));
        std::fs::create_dir_all(source.join("sub/empty")).unwrap();
        std::fs::write(source.join("sub/file"), "x").unwrap();
        std::os::unix::fs::symlink("file", source.join("sub/link")).unwrap();
        place_one(&at, from(&source)).unwrap();
        assert!(at.join("sub/empty").symlink_metadata().unwrap().is_dir());
        assert_eq!(std::fs::read_link(at.join("sub/file")).unwrap(), source.join("sub/file"));
        assert_eq!(std::fs::read_to_string(at.join("sub/link")).unwrap(), "x");
    }
}
