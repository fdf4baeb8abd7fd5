//! Reads `/proc/self/mountinfo`, the one way to learn what is mounted without touching a file system that
//! may hang. [`mount_points_below`] is pure.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Mount points at or below `directory` in this process's mount namespace, in the order they were mounted.
/// `directory` must be free of symbolic links, as the kernel's table is.
pub(crate) fn mounted_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(mount_points_below(&std::fs::read("/proc/self/mountinfo")?, directory))
}

/// The same from the table's text.
pub(crate) fn mount_points_below(table: &[u8], directory: &Path) -> Vec<PathBuf> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(mount_point)
        .filter(|at| at.starts_with(directory))
        .collect()
}

/// The fifth field of a line: `36 35 98:0 /root /mnt/point rw,noatime shared:1 - ext4 /dev/sda1 rw`.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|byte| *byte == b' ').nth(4)?;
    Some(PathBuf::from(OsString::from_vec(unescape(field))))
}

/// Blanks, tabs, line ends and backslashes stand as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'\\').then(|| tail.get(..3).and_then(octal)).flatten();
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    plain
}

/// Three octal digits as a byte.
fn octal(digits: &[u8]) -> Option<u8> {
    let value = digits.iter().try_fold(0_u16, |value, digit| {
        (b'0'..=b'7').contains(digit).then(|| value * 8 + u16::from(digit - b'0'))
    })?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw\n\
91 27 0:50 /x /var/lib/t/tasks/a/1/binds/0 rw shared:3 master:1 - nfs4 server:/x rw\n\
92 27 0:50 /x /var/lib/t/tasks/a/10/binds/0 rw - nfs4 server:/x rw\n\
93 27 0:50 /x /var/lib/t/tasks/a/1/binds/a\\040b\\134c rw - nfs4 server:/x rw\n\
\n\
garbage\n";

    #[test]
    fn finds_what_lies_below_by_component() {
        let found = mount_points_below(TABLE, Path::new("/var/lib/t/tasks/a/1"));
        assert_eq!(
            found,
            [
                PathBuf::from("/var/lib/t/tasks/a/1/binds/0"),
                PathBuf::from("/var/lib/t/tasks/a/1/binds/a b\\c")
            ]
        );
    }

    #[test]
    fn a_directory_that_is_itself_a_mount_counts() {
        assert_eq!(mount_points_below(TABLE, Path::new("/proc")), [PathBuf::from("/proc")]);
        assert!(mount_points_below(TABLE, Path::new("/pro")).is_empty());
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(unescape(br"a\9b\04"), br"a\9b\04");
        assert_eq!(unescape(br"\777"), br"\777", "no byte has this code");
    }
}
