//! Putting outputs in place, as the task's user in the task's view, after all processes of the task are dead.
//! What the task left is not trusted to be what was declared: only regular files are copied, links lead
//! where the task itself could go, and depth and number are bounded.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::path::Path;

use teamster_values::PathPattern;

use super::copy::{self, Copier, fault, is_same, kind_of};
use super::inputs::{DEPTH_MAX, ENTRIES_MAX};
use super::matches;
use super::work::{Direction, OutputWork, StageError, StagedOut, Stream};
use crate::assignment::OutputFile;

/// More warnings than this help nobody.
const WARNINGS_MAX: usize = 50;

/// Copies all outputs. One that fails does not keep the others back, because engines read what there is; the
/// first failure is the result.
pub(super) fn put_in_place(wanted: &[OutputWork], copier: &mut Copier) -> Result<StagedOut, StageError> {
    let mut placing =
        Placing { copier, done: StagedOut::default(), entries: 0, told: 0, known: BTreeSet::new() };
    let mut first = None;
    for output in wanted {
        match placing.output(output) {
            Ok(()) => {}
            Err(error @ StageError::Node(_)) => return Err(error),
            Err(error) => first = first.or(Some(error)),
        }
    }
    match first {
        Some(error) => Err(error),
        None => Ok(placing.finish()),
    }
}

struct Placing<'a> {
    copier: &'a mut Copier,
    done: StagedOut,
    /// Entries of directories seen so far.
    entries: usize,
    /// Warnings, also those left out.
    told: usize,
    /// Container paths and URLs in `done`: a file may be declared by itself and within a directory.
    known: BTreeSet<(String, String)>,
}

impl Placing<'_> {
    fn output(&mut self, output: &OutputWork) -> Result<(), StageError> {
        let named = |error: &io::Error| {
            fault(format!("{}: put {} in place at {}", output.field, output.from, output.to), error)
        };
        if let Some(pattern) = &output.pattern {
            return self.matches(output, pattern).map_err(|error| named(&error));
        }
        let from = output.from.as_path();
        let metadata = match std::fs::metadata(from) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                self.warn(format!("output {} was not found", output.from));
                return Ok(());
            }
            Err(error) => return Err(named(&error)),
            Ok(metadata) => metadata,
        };
        let entry = Entry { from, to: output.to.as_path(), path: output.from.as_str(), url: &output.url };
        let parent = entry.to.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(parent).map_err(|error| named(&error))?;
        let placed = if metadata.is_dir() {
            self.directory(&entry, &metadata, 0)
        } else {
            self.file(&entry, &metadata)
        };
        placed.map_err(|error| named(&error))
    }

    /// Places whatever has the form of `pattern`, each at the same place below `to` as it has below `from`.
    fn matches(&mut self, output: &OutputWork, pattern: &PathPattern) -> io::Result<()> {
        let names = pattern.below(&output.from).unwrap_or_default();
        let found = matches::find(output.from.as_path(), names, &mut self.entries)?;
        if found.is_empty() {
            self.warn(format!("nothing matches output {pattern}"));
        }
        for relative in found {
            let (from, to) = (output.from.as_path().join(&relative), output.to.as_path().join(&relative));
            let names = relative.iter().map(|name| name.to_string_lossy());
            let url = names.fold(output.url.clone(), |url, name| url_below(&url, &name));
            let (Some(from_parent), Some(parent)) = (from.parent(), to.parent()) else { continue };
            std::fs::create_dir_all(parent)?;
            let in_place = is_same(&std::fs::metadata(parent)?, &std::fs::metadata(from_parent)?);
            let is_link = std::fs::symlink_metadata(&from)?.is_symlink();
            let entry = Entry { from: &from, to: &to, path: &from.to_string_lossy(), url: &url };
            self.item(&entry, is_link, in_place, 0)?;
            self.copier.pulse();
        }
        Ok(())
    }

    /// Places a file, or says why it is left out.
    fn file(&mut self, entry: &Entry<'_>, metadata: &Metadata) -> io::Result<()> {
        if !metadata.is_file() {
            self.warn(format!("output {} was left out: it is {}", entry.path, kind_of(metadata)));
            return Ok(());
        }
        let there = std::fs::metadata(entry.to);
        if there.is_ok_and(|there| is_same(&there, metadata)) {
            self.record(entry, metadata.len());
            return Ok(());
        }
        let (file, metadata) = copy::open(entry.from)?;
        if !metadata.is_file() {
            return Err(io::Error::other("it changed while it was copied"));
        }
        let mode = std::os::unix::fs::MetadataExt::mode(&metadata);
        let size_bytes = self.copier.install(&file, metadata.len(), mode, entry.to)?;
        self.record(entry, size_bytes);
        Ok(())
    }

    fn directory(&mut self, entry: &Entry<'_>, metadata: &Metadata, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("it is more than {DEPTH_MAX} directories deep")));
        }
        // Made even when it is empty, and listed only when it is in place already.
        std::fs::create_dir_all(entry.to)?;
        let in_place = is_same(&std::fs::metadata(entry.to)?, metadata);
        for item in std::fs::read_dir(entry.from)? {
            let item = item?;
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(io::Error::other(format!("there are more than {ENTRIES_MAX} entries")));
            }
            let (name, from) = (item.file_name(), item.path());
            let text = name.to_string_lossy();
            let inner = Entry {
                from: &from,
                to: &entry.to.join(&name),
                path: &format!("{}/{text}", entry.path),
                url: &url_below(entry.url, &text),
            };
            self.item(&inner, item.file_type()?.is_symlink(), in_place, depth)?;
            self.copier.pulse();
        }
        Ok(())
    }

    /// One entry of a directory.
    fn item(&mut self, entry: &Entry<'_>, is_link: bool, in_place: bool, depth: usize) -> io::Result<()> {
        let metadata = match std::fs::metadata(entry.from) {
            Err(error) if is_link && leads_nowhere(&error) => std::fs::symlink_metadata(entry.from)?,
            other => other?,
        };
        if metadata.is_dir() && !is_link {
            return self.directory(entry, &metadata, depth + 1);
        }
        if in_place {
            // Nothing to copy, and what is no file is not ours to remark upon.
            if metadata.is_file() {
                self.record(entry, metadata.len());
            }
            return Ok(());
        }
        if metadata.is_dir() {
            self.warn(format!("output {} was left out: it is a symbolic link to a directory", entry.path));
            return Ok(());
        }
        self.file(entry, &metadata)
    }

    fn record(&mut self, entry: &Entry<'_>, size_bytes: u64) {
        if self.known.insert((entry.path.to_owned(), entry.url.to_owned())) {
            self.done.files.push(OutputFile {
                url: entry.url.to_owned(),
                path: entry.path.to_owned(),
                size_bytes,
            });
        }
    }

    fn warn(&mut self, text: String) {
        self.told += 1;
        if self.told <= WARNINGS_MAX {
            self.done.warnings.push(text);
        }
    }

    fn finish(mut self) -> StagedOut {
        if self.told > WARNINGS_MAX {
            let more = self.told - WARNINGS_MAX;
            self.done.warnings.push(format!("and {more} more warnings about outputs"));
        }
        self.done
    }
}

/// One file or directory on its way.
struct Entry<'a> {
    from: &'a Path,
    to: &'a Path,
    /// `from` for people.
    path: &'a str,
    /// `to` for people.
    url: &'a str,
}

fn leads_nowhere(error: &io::Error) -> bool {
    let is_loop = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    let kinds = [ErrorKind::NotFound, ErrorKind::NotADirectory, ErrorKind::PermissionDenied];
    is_loop || kinds.contains(&error.kind())
}

/// A name below a URL; percent-encoded where the URL's form wants it.
fn url_below(url: &str, name: &str) -> String {
    if url.starts_with('/') {
        return format!("{url}/{name}");
    }
    let mut text = format!("{url}/");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Copies one standard stream; `kept` is the agent's end of it.
pub(super) fn copy_stream(stream: &Stream, mut kept: File, copier: &mut Copier) -> Result<(), StageError> {
    let path = stream.path.as_path();
    let copied = match stream.direction {
        Direction::Capture => copy::open(path).and_then(|(file, metadata)| {
            if !metadata.is_file() {
                return Err(io::Error::other(format!("it is {}", kind_of(&metadata))));
            }
            copier.copy(&file, metadata.len(), &mut kept).map(drop)
        }),
        Direction::Install => kept.metadata().and_then(|metadata| {
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            copier.install(&kept, metadata.len(), 0o644, path).map(drop)
        }),
    };
    let verb = if stream.direction == Direction::Capture { "read" } else { "write" };
    copied.map_err(|error| fault(format!("{}: {verb} {}", stream.field, stream.path), &error))
}

#[cfg(test)]
#[path = "outputs_tests.rs"]
mod tests;
