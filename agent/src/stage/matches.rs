//! Finding what an output with wildcards names, as the task's user in the task's view, after all processes of
//! the task are dead. It only looks; placing is done elsewhere.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use teamster_values::{NamePattern, Wild};

use super::inputs::ENTRIES_MAX;

/// Everything below `from` that `names` lead to, relative to it, in the order of their names. Directories that
/// cannot be entered hold nothing that matches, as for a shell. `entries` counts what was looked at.
pub(super) fn find(from: &Path, names: &[NamePattern], entries: &mut usize) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for name in names {
        let mut next = Vec::new();
        for relative in &found {
            match name {
                NamePattern::Literal(name) => next.push(relative.join(name)),
                NamePattern::Wild(wild) => next.extend(matching(from, relative, wild, entries)?),
            }
        }
        found = next;
    }
    let mut there = Vec::with_capacity(found.len());
    for relative in found {
        match std::fs::symlink_metadata(from.join(&relative)) {
            Ok(_) => there.push(relative),
            Err(error) if is_no_way(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(there)
}

fn matching(from: &Path, relative: &Path, wild: &Wild, entries: &mut usize) -> io::Result<Vec<PathBuf>> {
    let items = match std::fs::read_dir(from.join(relative)) {
        Err(error) if is_no_way(&error) => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for item in items {
        let name = item?.file_name();
        *entries += 1;
        if *entries > ENTRIES_MAX {
            return Err(io::Error::other(format!("there are more than {ENTRIES_MAX} entries to look at")));
        }
        if wild.matches(&name.to_string_lossy()) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names.into_iter().map(|name| relative.join(name)).collect())
}

fn is_no_way(error: &io::Error) -> bool {
    let is_loop = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    is_loop
        || matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied
        )
}

#[cfg(test)]
mod tests {
    use teamster_values::{AbsolutePath, PathPattern};

    use super::*;

    fn found(root: &Path, pattern: &str, prefix: &str) -> Vec<String> {
        let text = |path: &str| format!("{}/{path}", root.display());
        let pattern = PathPattern::parse(&text(pattern)).unwrap();
        let prefix = AbsolutePath::parse(&text(prefix)).unwrap();
        let found = find(prefix.as_path(), pattern.below(&prefix).unwrap(), &mut 0).unwrap();
        found.into_iter().map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn goes_name_by_name() {
        let root = tempfile::tempdir().unwrap();
        for path in ["a/x.bam", "a/.hidden.bam", "a/y.bai", "b/x.bam", "b/deep/x.bam", ".c/x.bam", "x.bam"] {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::os::unix::fs::symlink("loop", root.path().join("loop")).unwrap();
        std::os::unix::fs::symlink("a", root.path().join("l")).unwrap();
        let root = root.path();
        assert_eq!(found(root, "*.bam", ""), ["x.bam"]);
        assert_eq!(found(root, "*/*.bam", ""), ["a/x.bam", "b/x.bam", "l/x.bam"]);
        assert_eq!(found(root, "[ab]/x.ba?", ""), ["a/x.bam", "b/x.bam"]);
        assert_eq!(found(root, "*/deep/x.bam", ""), ["b/deep/x.bam"]);
        assert_eq!(found(root, ".*/x.bam", ""), [".c/x.bam"]);
        assert_eq!(found(root, "b/*", "b"), ["deep", "x.bam"]);
        assert_eq!(found(root, "a/.h*", ""), ["a/.hidden.bam"]);
        assert_eq!(found(root, "none/*", "").len() + found(root, "*/none", "").len(), 0);
        assert_eq!(found(root, "l*", ""), ["l", "loop"], "a link that leads nowhere is there, too");
    }

    #[test]
    fn a_maze_has_an_end() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            std::os::unix::fs::symlink(".", root.path().join(name)).unwrap();
        }
        let pattern = PathPattern::parse(&"/*".repeat(40)).unwrap();
        let names = pattern.below(&AbsolutePath::root()).unwrap();
        let error = find(root.path(), names, &mut 0).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
    }
}
