//! A look into a container's root file system before it is mounted: the layers one over the other, as
//! overlayfs would show them. Layers come from strangers, so nothing here follows a link of the kernel's:
//! each component is opened by itself and links are followed by hand, inside the layers only.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;

/// Names in the root under which the kernel's own file systems are mounted.
pub(super) const KERNEL_TREES: [&str; 3] = ["proc", "sys", "dev"];

/// The layers of a root file system, topmost first.
pub(super) struct Rootfs {
    root: Directory,
}

/// The same directory in all layers that contribute to it, topmost first.
type Directory = Rc<Vec<OwnedFd>>;

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The path without links. What is not there is taken as it is written.
    pub(super) path: PathBuf,
    /// What is there.
    pub(super) kind: Kind,
}

/// What lies at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing, but it could be made.
    Missing,
    /// Nothing, and it cannot be made: a component on the way is no directory.
    Blocked,
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A device, a pipe, a socket.
    Special,
}

/// What a path leads to.
enum Found {
    Missing,
    Blocked,
    Directory,
    /// Not a directory: its layer's directory, its name there and what it is.
    Other(Directory, usize, OsString, FileType),
}

/// What one name in one directory is.
enum Entry {
    Missing,
    Directory(Directory),
    /// The index of the layer, and what it is there.
    Other(usize, FileType),
}

impl Rootfs {
    /// Opens the directories of the layers, topmost first.
    pub(super) fn open(layers: &[PathBuf]) -> io::Result<Self> {
        let open = |path: &PathBuf| {
            Ok(fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
        };
        let root = layers.iter().map(open).collect::<io::Result<Vec<OwnedFd>>>()?;
        Ok(Self { root: Rc::new(root) })
    }

    /// The content of a regular file of at most `bytes_max`; `None` for anything else.
    pub(super) fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let found = self.walk(path)?;
        let Some((_, Found::Other(directory, layer, name, FileType::RegularFile))) = found else {
            return Ok(None);
        };
        // Whoever can change the layers is root already; the flags keep a surprise from blocking us.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::openat(&directory[layer], &name, flags, Mode::empty())?;
        let mut content = Vec::new();
        std::fs::File::from(file).take(bytes_max + 1).read_to_end(&mut content)?;
        Ok((content.len() as u64 <= bytes_max).then_some(content))
    }

    /// Where `path` leads when all links are followed; `None` when they never end.
    pub(super) fn resolve(&self, path: &Path) -> io::Result<Option<Place>> {
        let Some((path, found)) = self.walk(path)? else { return Ok(None) };
        let kind = match found {
            Found::Missing => Kind::Missing,
            Found::Blocked => Kind::Blocked,
            Found::Directory => Kind::Directory,
            Found::Other(_, _, _, FileType::RegularFile) => Kind::File,
            Found::Other(..) => Kind::Special,
        };
        Ok(Some(Place { path, kind }))
    }

    fn walk(&self, path: &Path) -> io::Result<Option<(PathBuf, Found)>> {
        let mut todo: VecDeque<OsString> = components(path.as_os_str());
        let first = todo.front().cloned();
        let mut stack = vec![Rc::clone(&self.root)];
        let mut place = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                // The root's parent is the root.
                if stack.len() > 1 {
                    stack.pop();
                    place.pop();
                }
                continue;
            }
            if links > 0 && stack.len() == 1 && is_kernel_tree(&name) && first.as_ref() != Some(&name) {
                // What a link finds there is the kernel's and not the image's, however the image fills it. Not
                // so on the way to the tree itself, which is not there yet when it is mounted.
                place.push(name);
                place.extend(todo);
                return Ok(Some((place, Found::Missing)));
            }
            let here = Rc::clone(stack.last().expect("the root is never popped"));
            match entry(&here, &name)? {
                Entry::Directory(directory) => {
                    stack.push(directory);
                    place.push(name);
                }
                Entry::Other(layer, FileType::Symlink) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Ok(None);
                    }
                    let target = fs::readlinkat(&here[layer], &name, Vec::new())?;
                    let target = OsStr::from_bytes(target.as_bytes());
                    if target.as_bytes().first() == Some(&b'/') {
                        stack.truncate(1);
                        place = PathBuf::from("/");
                    }
                    for component in components(target).into_iter().rev() {
                        todo.push_front(component);
                    }
                }
                Entry::Other(layer, kind) if todo.is_empty() => {
                    return Ok(Some((place.join(&name), Found::Other(here, layer, name, kind))));
                }
                nothing => {
                    // A file in the middle of a path leads nowhere.
                    let is_missing = matches!(nothing, Entry::Missing);
                    place.push(name);
                    place.extend(todo);
                    return Ok(Some((place, if is_missing { Found::Missing } else { Found::Blocked })));
                }
            }
        }
        Ok(Some((place, Found::Directory)))
    }
}

/// One name in one directory: the topmost layer that has it decides, and a directory goes on through the
/// layers below until one of them says that it starts anew.
fn entry(directory: &Directory, name: &OsStr) -> io::Result<Entry> {
    let mut parts = Vec::new();
    for (layer, part) in directory.iter().enumerate() {
        let stat = match fs::statat(part, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_whiteout = kind == FileType::CharacterDevice && stat.st_rdev == 0;
        if kind != FileType::Directory {
            if parts.is_empty() && !is_whiteout {
                return Ok(Entry::Other(layer, kind));
            }
            break;
        }
        // For reading, because an `O_PATH` handle has no attributes to ask for.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let part = fs::openat(part, name, flags, Mode::empty())?;
        let mut value = [0; 1];
        let is_opaque = fs::fgetxattr(&part, "trusted.overlay.opaque", &mut value) == Ok(1) && value == *b"y";
        parts.push(part);
        if is_opaque {
            break;
        }
    }
    Ok(if parts.is_empty() { Entry::Missing } else { Entry::Directory(Rc::new(parts)) })
}

fn is_kernel_tree(name: &OsStr) -> bool {
    KERNEL_TREES.iter().any(|tree| name == *tree)
}

fn components(path: &OsStr) -> VecDeque<OsString> {
    path.as_bytes()
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn upper_layers_win_and_links_stay_inside() {
        let home = tempfile::tempdir().unwrap();
        let (upper, lower) = (home.path().join("upper"), home.path().join("lower"));
        create_dir_all(upper.join("etc")).unwrap();
        create_dir_all(lower.join("etc/deep")).unwrap();
        create_dir_all(lower.join("usr/bin")).unwrap();
        write(upper.join("etc/passwd"), "upper").unwrap();
        write(lower.join("etc/passwd"), "lower").unwrap();
        write(lower.join("etc/group"), "group").unwrap();
        symlink("usr/bin", upper.join("bin")).unwrap();
        symlink("/etc/group", lower.join("usr/bin/link")).unwrap();
        symlink("../../../../../../etc/passwd", lower.join("usr/escape")).unwrap();
        symlink("loop", lower.join("loop")).unwrap();

        let rootfs = Rootfs::open(&[upper, lower]).unwrap();
        let read = |path: &str| rootfs.read(Path::new(path), 100).unwrap();
        assert_eq!(read("/etc/passwd").unwrap(), b"upper");
        assert_eq!(read("/etc/group").unwrap(), b"group", "a directory is the sum of its layers");
        assert_eq!(read("/bin/link").unwrap(), b"group", "a link may lead through several layers");
        assert_eq!(read("/usr/escape").unwrap(), b"upper", "'..' never leaves the root");
        assert_eq!(read("/loop"), None);
        assert_eq!(read("/etc"), None);
        assert_eq!(rootfs.read(Path::new("/etc/passwd"), 4).unwrap(), None, "too long is not read");
        let resolve = |path: &str| rootfs.resolve(Path::new(path)).unwrap();
        for (path, leads_to, kind) in [
            ("/", "/", Kind::Directory),
            ("/etc/deep", "/etc/deep", Kind::Directory),
            ("/bin", "/usr/bin", Kind::Directory),
            ("/bin/link", "/etc/group", Kind::File),
            ("/usr/escape", "/etc/passwd", Kind::File),
            ("/etc/passwd/x", "/etc/passwd/x", Kind::Blocked),
            ("/nowhere", "/nowhere", Kind::Missing),
            ("/bin/new/one", "/usr/bin/new/one", Kind::Missing),
            ("/etc/deep/../..", "/", Kind::Directory),
        ] {
            assert_eq!(resolve(path), Some(Place { path: leads_to.into(), kind }), "{path}");
        }
        assert_eq!(resolve("/loop"), None);
    }

    #[test]
    fn no_link_sees_what_an_image_hides_under_the_kernels_trees() {
        let home = tempfile::tempdir().unwrap();
        create_dir_all(home.path().join("proc/self/fd/7")).unwrap();
        create_dir_all(home.path().join("safe")).unwrap();
        symlink("/safe", home.path().join("proc/link")).unwrap();
        symlink("/proc/self/fd/7", home.path().join("work")).unwrap();
        symlink("proc/link", home.path().join("round")).unwrap();
        let rootfs = Rootfs::open(&[home.path().to_owned()]).unwrap();
        for (path, leads_to) in [("/work", "/proc/self/fd/7"), ("/round/x", "/proc/link/x")] {
            let place = rootfs.resolve(Path::new(path)).unwrap();
            assert_eq!(place, Some(Place { path: leads_to.into(), kind: Kind::Missing }));
        }
    }

    #[test]
    fn a_file_over_a_directory_hides_it() {
        let home = tempfile::tempdir().unwrap();
        let (upper, lower) = (home.path().join("upper"), home.path().join("lower"));
        create_dir_all(&upper).unwrap();
        create_dir_all(lower.join("data/inner")).unwrap();
        write(upper.join("data"), "now a file").unwrap();
        let rootfs = Rootfs::open(&[upper, lower]).unwrap();
        let kind = |path: &str| rootfs.resolve(Path::new(path)).unwrap().unwrap().kind;
        assert_eq!((kind("/data"), kind("/data/inner")), (Kind::File, Kind::Blocked));
    }
}
