//! Generated files that every container finds in `/etc`: who the user is and what the machine is called.
//! They are written into a root-only directory of the host and never into anything that a task can write.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::network::Names;
use super::rootfs::Rootfs;
use super::{ContainerSpec, Identity};

/// An image's own file is used up to this size; no honest one is larger.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The name that a user or group gets which the image does not know.
const NAME: &str = "teamster";

/// One generated file.
pub(super) struct EtcFile {
    /// On the host.
    pub(super) source: PathBuf,
    /// In the container.
    pub(super) destination: String,
}

/// Writes the files of one container and says where they belong.
pub(super) fn write(
    spec: &ContainerSpec,
    rootfs: &Rootfs,
    hostname: &str,
    names: &Names,
) -> io::Result<Vec<EtcFile>> {
    // Executors share the attempt's directory but not the image.
    let directory = spec.private.join(spec.id.executor.to_string());
    fs::create_dir_all(&directory)?;
    let home = spec.env.iter().find_map(|entry| entry.strip_prefix("HOME=")).unwrap_or("/");
    let files = [
        ("passwd", passwd(&image_file(rootfs, "/etc/passwd")?, spec.identity, home)),
        ("group", group(&image_file(rootfs, "/etc/group")?, spec.identity)),
        ("hosts", hosts(hostname) + &names.hosts),
        ("hostname", format!("{hostname}\n")),
        ("resolv.conf", names.resolv_conf.clone()),
    ];
    files
        .into_iter()
        .map(|(name, content)| {
            let source = directory.join(name);
            fs::write(&source, content)?;
            Ok(EtcFile { source, destination: format!("/etc/{name}") })
        })
        .collect()
}

/// The image's own file; empty if it has none or none that is sane.
fn image_file(rootfs: &Rootfs, path: &str) -> io::Result<String> {
    let content = rootfs.read(Path::new(path), FILE_BYTES_MAX)?.unwrap_or_default();
    let mut text = String::from_utf8_lossy(&content).into_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

fn passwd(image: &str, identity: Identity, home: &str) -> String {
    let Identity { uid, gid } = identity;
    if has_id(image, uid) {
        return image.to_owned();
    }
    // A colon or a line break would make other fields of it.
    let home = if home.starts_with('/') && !home.contains([':', '\n']) { home } else { "/" };
    format!("{image}{}:x:{uid}:{gid}::{home}:/bin/sh\n", free_name(image, uid))
}

fn group(image: &str, identity: Identity) -> String {
    let gid = identity.gid;
    if has_id(image, gid) {
        return image.to_owned();
    }
    format!("{image}{}:x:{gid}:\n", free_name(image, gid))
}

fn hosts(hostname: &str) -> String {
    format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n")
}

/// In both files the third field is the id.
fn has_id(text: &str, id: u32) -> bool {
    let id = id.to_string();
    text.lines().any(|line| line.split(':').nth(2) == Some(id.as_str()))
}

fn free_name(text: &str, id: u32) -> String {
    let is_taken = text.lines().any(|line| line.split(':').next() == Some(NAME));
    if is_taken { format!("{NAME}-{id}") } else { NAME.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Identity = Identity { uid: 1234, gid: 5678 };

    #[test]
    fn a_line_is_added_only_where_the_image_lacks_one() {
        let image = "root:x:0:0:root:/root:/bin/sh\n";
        assert_eq!(
            passwd(image, WHO, "/home/work"),
            format!("{image}teamster:x:1234:5678::/home/work:/bin/sh\n")
        );
        let known = "me:x:1234:1:me:/me:/bin/false\n";
        assert_eq!(passwd(known, WHO, "/"), known);
        assert_eq!(group("", WHO), "teamster:x:5678:\n");
        assert_eq!(group("teamster:x:1:\n", WHO), "teamster:x:1:\nteamster-5678:x:5678:\n");
    }

    #[test]
    fn a_home_cannot_smuggle_in_a_line() {
        let text = passwd("", WHO, "/x\nroot2:x:0:0::/:/bin/sh");
        assert_eq!(text, "teamster:x:1234:5678::/:/bin/sh\n");
    }
}
