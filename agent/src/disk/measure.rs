//! How much of the disk an attempt has: a walk over what it may write. The walk runs as root in directories
//! that a hostile task changes at the same time, so it goes from open descriptor to open descriptor, never by
//! path, follows no link, enters no other file system, and does a bounded amount of work. It changes nothing.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};

use super::unlinked;

/// The deepest directory that is entered; each level holds a descriptor open. What lies deeper cannot be
/// measured, so nothing may lie there.
pub(super) const DEPTH_MAX: usize = 200;

/// A block, in which `stat` counts whatever the file system's own are.
const BLOCK_BYTES: u64 = 512;

/// What is measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Directories that only root can replace; what is in them is the task's.
    pub(super) directories: Vec<PathBuf>,
    /// Processes that may hold files open which have no name any more.
    pub(super) processes: Vec<i32>,
}

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// Space on the disk, holes not counted, files with several names once.
    pub(super) bytes: u64,
    /// Names of files, directories and links.
    pub(super) files: u64,
    /// There is more, deeper than can be measured.
    pub(super) is_too_deep: bool,
}

/// Measures until there are more than `files_max` names: whoever has that many is over a limit anyway.
pub(super) fn measure(place: &Place, files_max: u64) -> io::Result<Used> {
    let mut walk = Walk { used: Used::default(), seen: HashSet::new(), files_max };
    let mut devices = HashSet::new();
    for directory in &place.directories {
        match open(CWD, directory) {
            Ok(root) => {
                let device = rustix::fs::fstat(&root)?.st_dev;
                devices.insert(device);
                walk.tree(root, device)?;
            }
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for stat in unlinked::open_files(&place.processes, &devices) {
        walk.count(&stat);
    }
    Ok(walk.used)
}

struct Walk {
    used: Used,
    /// Files with several names, by device and number.
    seen: HashSet<(u64, u64)>,
    files_max: u64,
}

impl Walk {
    fn count(&mut self, stat: &Stat) {
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        // A file without any name may be held open by many processes.
        let may_come_again = !is_directory && stat.st_nlink != 1;
        if !may_come_again || self.seen.insert((stat.st_dev, stat.st_ino)) {
            self.used.bytes =
                self.used.bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES);
        }
    }

    /// Depth first, with one open descriptor per level. What vanishes or changes on the way is passed over.
    fn tree(&mut self, root: OwnedFd, device: u64) -> io::Result<()> {
        let mut levels = vec![Dir::new(root)?];
        while let Some(level) = levels.last_mut() {
            if self.used.files > self.files_max {
                return Ok(());
            }
            let Some(entry) = level.next() else {
                levels.pop();
                continue;
            };
            let Ok(entry) = entry else {
                levels.pop();
                continue;
            };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.used.files += 1;
            let directory = level.fd()?;
            let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if stat.st_dev != device {
                continue;
            }
            self.count(&stat);
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                continue;
            }
            let Ok(child) = open(directory, name) else { continue };
            // It may be another one by now.
            if rustix::fs::fstat(&child).is_ok_and(|stat| stat.st_dev == device) {
                if levels.len() >= DEPTH_MAX {
                    self.used.is_too_deep = true;
                } else {
                    levels.push(Dir::new(child)?);
                }
            }
        }
        Ok(())
    }
}

fn open(at: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// What is free on the file system of `path`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Free {
    pub(super) bytes: u64,
    /// Whether hardly a file can be made any more, on file systems that have a fixed number.
    pub(super) is_out_of_files: bool,
}

/// Asks the file system.
pub(super) fn free(path: &Path) -> io::Result<Free> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Free {
        bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        is_out_of_files: stat.f_files > 0 && stat.f_favail.saturating_mul(100) < stat.f_files,
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{Seek, SeekFrom, Write};
    use std::os::unix::fs::symlink;

    use super::*;

    fn used(path: &Path, files_max: u64) -> Used {
        let place = Place { directories: vec![path.to_owned()], processes: Vec::new() };
        measure(&place, files_max).unwrap()
    }

    #[test]
    fn counts_blocks_and_never_follows() {
        let home = tempfile::tempdir().unwrap();
        let (inside, outside) = (home.path().join("inside"), home.path().join("outside"));
        fs::create_dir_all(inside.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("large"), vec![1; 9 << 20]).unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        symlink(outside.join("large"), inside.join("a/link")).unwrap();
        fs::write(inside.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        let before = used(&inside, 100);
        assert!((1 << 20..2 << 20).contains(&before.bytes), "{before:?}");
        assert_eq!((before.files, before.is_too_deep), (5, false));

        fs::hard_link(inside.join("a/b/file"), inside.join("again")).unwrap();
        let mut holes = File::create(inside.join("holes")).unwrap();
        holes.seek(SeekFrom::Start(1 << 30)).unwrap();
        holes.write_all(b"x").unwrap();
        let after = used(&inside, 100);
        assert!(after.bytes < before.bytes + (1 << 20), "a second name and a hole take no space: {after:?}");
        assert_eq!(after.files, 7);
        assert_eq!(used(&home.path().join("nowhere"), 1), Used::default());
    }

    #[test]
    fn stops_where_there_is_too_much() {
        let home = tempfile::tempdir().unwrap();
        for number in 0..50 {
            fs::create_dir(home.path().join(number.to_string())).unwrap();
        }
        assert_eq!(used(home.path(), 10).files, 11);
        let mut deep = home.path().join("deep");
        (0..=DEPTH_MAX).for_each(|_| deep.push("d"));
        fs::create_dir_all(&deep).unwrap();
        assert!(used(home.path(), 1000).is_too_deep);
    }

    #[test]
    fn finds_what_has_no_name_any_more() {
        let home = tempfile::tempdir().unwrap();
        let mut file = File::create(home.path().join("file")).unwrap();
        file.write_all(&vec![1; 3 << 20]).unwrap();
        let again = file.try_clone().unwrap();
        fs::remove_file(home.path().join("file")).unwrap();
        let processes = vec![std::process::id() as i32];
        let place = Place { directories: vec![home.path().to_owned()], processes };
        let found = measure(&place, 10).unwrap();
        assert!((3 << 20..4 << 20).contains(&found.bytes), "once, however often it is open: {found:?}");
        drop((file, again));
        assert!(measure(&place, 10).unwrap().bytes < 1 << 20);
    }

    #[test]
    fn a_file_system_says_what_is_free() {
        assert!(free(Path::new("/")).unwrap().bytes > 0);
    }
}
