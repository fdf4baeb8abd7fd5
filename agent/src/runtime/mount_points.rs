//! Whether an image has room for what is mounted in every container. A link by which a mount would come to lie
//! over the root or in the kernel's own trees, a file where a directory belongs: the container would fail in the
//! runtime's hands, in words from which nobody can tell a bad image from a bad node, and some of these have been
//! the way to the host. Looks only.

use std::io;
use std::path::Path;

use oci_spec::runtime::Mount;

use super::rootfs::{KERNEL_TREES, Kind, Rootfs};

/// Whether a path in a container lies in one of the kernel's own file systems.
pub(super) fn is_kernels(path: &Path) -> bool {
    path.strip_prefix("/").is_ok_and(|below| KERNEL_TREES.iter().any(|tree| below.starts_with(tree)))
}

/// What of the image is in the way, in words; none when all can be mounted. `mounts` are in the order in which
/// they are made; those at `files` are of single files.
pub(super) fn obstacle(rootfs: &Rootfs, mounts: &[Mount], files: &[&Path]) -> io::Result<Option<String>> {
    for (index, mount) in mounts.iter().enumerate() {
        let place = mount.destination();
        if mounts[..index].iter().any(|earlier| place.starts_with(earlier.destination())) {
            // What the image has there is covered by then.
            continue;
        }
        if let Some(why) = refusal(rootfs, place, files.contains(&place.as_path()))? {
            return Ok(Some(format!("'{}' in it {why}", place.display())));
        }
    }
    Ok(None)
}

fn refusal(rootfs: &Rootfs, place: &Path, is_file: bool) -> io::Result<Option<String>> {
    let Some(led) = rootfs.resolve(place)? else {
        return Ok(Some("is a link that leads back to itself".to_owned()));
    };
    // The kernel's trees go where they belong, and nothing else goes there.
    let is_tree = is_kernels(place);
    let leads_astray =
        if is_tree { led.path != place } else { led.path == Path::new("/") || is_kernels(&led.path) };
    if leads_astray {
        let target = led.path.display();
        return Ok(Some(format!("is a link to '{target}', where nothing can be mounted")));
    }
    let why = match led.kind {
        Kind::Missing => None,
        Kind::Directory => is_file.then_some("is a directory and should be a file"),
        Kind::File => (!is_file).then_some("is a file and should be a directory"),
        Kind::Special => Some("is neither a file nor a directory"),
        Kind::Blocked => Some("cannot be made: a part of the way to it is no directory"),
    };
    Ok(why.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    use oci_spec::runtime::MountBuilder;

    use super::*;

    fn mounts(paths: &[&str]) -> Vec<Mount> {
        paths.iter().map(|path| MountBuilder::default().destination(*path).build().unwrap()).collect()
    }

    #[test]
    fn an_empty_image_has_room_for_everything() {
        let home = tempfile::tempdir().unwrap();
        let rootfs = Rootfs::open(&[home.path().to_owned()]).unwrap();
        let all = mounts(&["/proc", "/dev", "/dev/shm", "/etc/passwd", "/tmp", "/a/b/c"]);
        assert_eq!(obstacle(&rootfs, &all, &[Path::new("/etc/passwd")]).unwrap(), None);
    }

    #[test]
    fn says_what_is_in_the_way() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path();
        write(path.join("file"), "").unwrap();
        create_dir_all(path.join("etc/passwd")).unwrap();
        create_dir_all(path.join("real")).unwrap();
        for (link, target) in [
            ("to-the-kernel", "/proc/self/fd"),
            ("through-a-file", "file/x"),
            ("loop", "loop"),
            ("dangling", "elsewhere"),
            ("to-the-root", "/../../.."),
            ("sys", "/real"),
            ("dev", "../../../dev"),
        ] {
            symlink(target, path.join(link)).unwrap();
        }
        let rootfs = Rootfs::open(&[path.to_owned()]).unwrap();
        let found = |paths: &[&str]| obstacle(&rootfs, &mounts(paths), &[]).unwrap();
        for (place, word) in [
            ("/file", "is a file"),
            ("/file/x", "no directory"),
            ("/to-the-kernel", "'/proc/self/fd'"),
            ("/to-the-kernel/7", "'/proc/self/fd/7'"),
            ("/through-a-file", "no directory"),
            ("/loop", "back to itself"),
            ("/to-the-root", "'/'"),
            ("/sys", "'/real'"),
            ("/dev", "back to itself"),
        ] {
            let text = found(&[place]).unwrap_or_default();
            assert!(text.contains(place) && text.contains(word), "{place}: {text}");
        }
        for places in [&["/dangling"][..], &["/dangling/x"], &["/to-the-root/data"], &["/new", "/new/file"]] {
            assert_eq!(found(places), None, "{places:?}");
        }
        let file = |place: &str| obstacle(&rootfs, &mounts(&[place]), &[Path::new(place)]).unwrap();
        assert_eq!((file("/file"), file("/etc/group")), (None, None));
        assert!(file("/etc/passwd").unwrap().contains("is a directory"));
    }

    #[test]
    fn what_an_earlier_mount_covers_is_in_nobodys_way() {
        let home = tempfile::tempdir().unwrap();
        create_dir_all(home.path().join("dev")).unwrap();
        write(home.path().join("dev/shm"), "").unwrap();
        let rootfs = Rootfs::open(&[home.path().to_owned()]).unwrap();
        assert_eq!(obstacle(&rootfs, &mounts(&["/dev", "/dev/shm"]), &[]).unwrap(), None);
        assert!(obstacle(&rootfs, &mounts(&["/dev/shm"]), &[]).unwrap().is_some());
    }
}
