//! Deleting what a task left, however deep it is: a task may have made more directories within each other than this
//! process has descriptors, or room for on its stack. It goes from open descriptor to open descriptor and follows
//! no link. No process of the task may be alive, and nothing may be mounted there.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, renameat, unlinkat};
use rustix::io::Errno;

/// The most directories that are held open within each other. What lies deeper is moved up first.
const DEPTH_MAX: usize = 100;

/// Deletes a directory with all that is in it. One that is gone is fine.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let root = match open(CWD, path) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let mut removal = Removal { root, moved: 0, removed: 0 };
    loop {
        let before = (removal.moved, removal.removed);
        removal.pass()?;
        match rustix::fs::rmdir(path) {
            // What was moved up, and what a file system did not tell of while others were deleted.
            Err(Errno::NOTEMPTY | Errno::EXIST) if before != (removal.moved, removal.removed) => {}
            Err(Errno::NOENT) => return Ok(()),
            other => return Ok(other?),
        }
    }
}

struct Removal {
    root: OwnedFd,
    /// Directories that were moved up to the root.
    moved: u64,
    /// Entries that are gone.
    removed: u64,
}

impl Removal {
    /// Deletes what it meets on the way through all of it.
    fn pass(&mut self) -> io::Result<()> {
        let mut levels = vec![(Dir::read_from(&self.root)?, CString::default())];
        while let depth @ 1.. = levels.len() {
            let level = &mut levels[depth - 1].0;
            let Some(entry) = level.next() else {
                self.leave(&mut levels)?;
                continue;
            };
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let directory = level.fd()?;
            if !is_directory(directory, &entry)? {
                unlinkat(directory, name, AtFlags::empty())?;
                self.removed += 1;
            } else if depth < DEPTH_MAX {
                let (name, child) = (name.to_owned(), open(directory, name)?);
                levels.push((Dir::new(child)?, name));
            } else {
                self.move_up(directory, &entry)?;
            }
        }
        Ok(())
    }

    /// Deletes the innermost directory, through the one that it lies in.
    fn leave(&mut self, levels: &mut Vec<(Dir, CString)>) -> io::Result<()> {
        let Some((_, name)) = levels.pop() else { return Ok(()) };
        let Some((parent, _)) = levels.last() else { return Ok(()) };
        match unlinkat(parent.fd()?, &name, AtFlags::REMOVEDIR) {
            Ok(()) => self.removed += 1,
            // The next pass has it.
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn move_up(&mut self, directory: impl AsFd, entry: &rustix::fs::DirEntry) -> io::Result<()> {
        loop {
            self.moved += 1;
            let name = format!("teamster-deep-{}", self.moved);
            match renameat(&directory, entry.file_name(), &self.root, name) {
                // The task's own, of that name.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                other => return Ok(other?),
            }
        }
    }
}

fn is_directory(directory: impl AsFd, entry: &rustix::fs::DirEntry) -> io::Result<bool> {
    match entry.file_type() {
        FileType::Unknown => {
            let stat = rustix::fs::statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        }
        known => Ok(known == FileType::Directory),
    }
}

fn open(at: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn follows_nothing_and_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let (tree, outside) = (home.path().join("tree"), home.path().join("outside"));
        for directory in [tree.join("a/b"), tree.join("empty"), outside.clone()] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::write(outside.join("file"), "kept").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("a/b/link")).unwrap();
        for number in 0..500 {
            fs::write(tree.join("a/b").join(number.to_string()), "x").unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && outside.join("file").exists());
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn no_depth_is_too_deep() {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        fs::create_dir(&tree).unwrap();
        // In the way of what is moved up.
        fs::create_dir_all(tree.join("teamster-deep-1/x")).unwrap();
        fs::write(tree.join("teamster-deep-2"), "x").unwrap();
        let mut deepest = open(CWD, &tree).unwrap();
        for _ in 0..3000 {
            mkdirat(&deepest, "d", Mode::RWXU).unwrap();
            deepest = open(&deepest, "d").unwrap();
        }
        // As small as no recursion of that depth could be content with.
        let remove = std::thread::Builder::new().stack_size(128 << 10);
        let path = tree.clone();
        remove.spawn(move || remove_tree(&path)).unwrap().join().unwrap().unwrap();
        assert!(!tree.exists());
    }
}
