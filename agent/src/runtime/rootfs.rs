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

/// The layers of a root file system, topmost first.
pub(super) struct Rootfs {
    root: Directory,
}

/// The same directory in all layers that contribute to it, topmost first.
type Directory = Rc<Vec<OwnedFd>>;

/// What a path leads to.
enum Found {
    Missing,
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

    /// Whether `path` leads to a directory; `None` if it leads nowhere.
    pub(super) fn is_directory(&self, path: &Path) -> io::Result<Option<bool>> {
        Ok(match self.find(path)? {
            Found::Missing => None,
            Found::Directory => Some(true),
            Found::Other(..) => Some(false),
        })
    }

    /// The content of a regular file of at most `bytes_max`; `None` for anything else.
    pub(super) fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let Found::Other(directory, layer, name, FileType::RegularFile) = self.find(path)? else {
            return Ok(None);
        };
        // Whoever can change the layers is root already; the flags keep a surprise from blocking us.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::openat(&directory[layer], &name, flags, Mode::empty())?;
        let mut content = Vec::new();
        std::fs::File::from(file).take(bytes_max + 1).read_to_end(&mut content)?;
        Ok((content.len() as u64 <= bytes_max).then_some(content))
    }

    /// Where `path` leads when all links are followed; what is not there is taken as it is written. `None` when
    /// its links never end.
    pub(super) fn resolve(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        Ok(self.walk(path)?.map(|(place, _)| place))
    }

    fn find(&self, path: &Path) -> io::Result<Found> {
        Ok(self.walk(path)?.map_or(Found::Missing, |(_, found)| found))
    }

    /// Both at once.
    fn walk(&self, path: &Path) -> io::Result<Option<(PathBuf, Found)>> {
        let mut todo: VecDeque<OsString> = components(path.as_os_str());
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
                // Nothing is there, or a file in the middle of a path, which leads nowhere.
                Entry::Missing | Entry::Other(..) => {
                    place.push(name);
                    place.extend(todo);
                    return Ok(Some((place, Found::Missing)));
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
        let is_directory = |path: &str| rootfs.is_directory(Path::new(path)).unwrap();
        assert_eq!(is_directory("/"), Some(true));
        assert_eq!(is_directory("/etc/deep"), Some(true));
        assert_eq!(is_directory("/bin"), Some(true));
        assert_eq!(is_directory("/etc/passwd"), Some(false));
        assert_eq!(is_directory("/etc/passwd/x"), None);
        assert_eq!(is_directory("/nowhere"), None);
        let resolve = |path: &str| rootfs.resolve(Path::new(path)).unwrap();
        assert_eq!(resolve("/bin/link").unwrap(), Path::new("/etc/group"));
        assert_eq!(resolve("/usr/escape").unwrap(), Path::new("/etc/passwd"));
        assert_eq!(resolve("/bin/new/one").unwrap(), Path::new("/usr/bin/new/one"));
        assert_eq!(resolve("/etc/deep/../..").unwrap(), Path::new("/"));
        assert_eq!(resolve("/loop"), None);
    }

    #[test]
    fn a_file_over_a_directory_hides_it() {
        let home = tempfile::tempdir().unwrap();
        let (upper, lower) = (home.path().join("upper"), home.path().join("lower"));
        create_dir_all(&upper).unwrap();
        create_dir_all(lower.join("data/inner")).unwrap();
        write(upper.join("data"), "now a file").unwrap();
        let rootfs = Rootfs::open(&[upper, lower]).unwrap();
        assert_eq!(rootfs.is_directory(Path::new("/data")).unwrap(), Some(false));
        assert_eq!(rootfs.is_directory(Path::new("/data/inner")).unwrap(), None);
    }
}
