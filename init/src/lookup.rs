//! Which file a command's first word means: as POSIX has it for the `exec` family, but never with a shell for
//! what is no program, because an argument vector is exact.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, eaccess};

/// The file to execute. `search` is the value of PATH, as the command will see it.
pub fn find(word: &OsStr, search: Option<&OsStr>) -> Result<PathBuf, &'static str> {
    if word.as_bytes().contains(&b'/') {
        let path = PathBuf::from(word);
        return if path.is_dir() { Err("is a directory") } else { Ok(path) };
    }
    let empty = OsString::new();
    let found =
        std::env::split_paths(search.unwrap_or(&empty))
            // No entry stands for the working directory.
            .map(|directory| {
                if directory.as_os_str().is_empty() {
                    Path::new(".").join(word)
                } else {
                    directory.join(word)
                }
            })
            .find(|path| path.is_file() && eaccess(path, AccessFlags::X_OK).is_ok());
    found.filter(|_| !word.is_empty() && search.is_some()).ok_or("executable file not found in $PATH")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn takes_the_first_that_can_be_executed() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        for directory in ["a", "b", "c", "b/dir"] {
            fs::create_dir(at(directory)).unwrap();
        }
        for (file, mode) in [("a/tool", 0o644), ("b/tool", 0o755), ("c/tool", 0o755), ("c/dir", 0o755)] {
            fs::write(at(file), "").unwrap();
            fs::set_permissions(at(file), fs::Permissions::from_mode(mode)).unwrap();
        }
        let search = std::env::join_paths(["a", "b", "c"].map(at)).unwrap();
        let found = |word: &str| find(OsStr::new(word), Some(&search));
        assert_eq!(found("tool"), Ok(at("b/tool")));
        assert_eq!(found("dir"), Ok(at("c/dir")), "a directory is no program");
        for word in ["other", ""] {
            assert!(found(word).unwrap_err().contains("not found in $PATH"));
        }
        assert!(find(OsStr::new("tool"), None).is_err());
        let path = at("b/tool");
        assert_eq!(find(path.as_os_str(), None), Ok(path), "a path is taken as it is");
        assert_eq!(find(at("b").as_os_str(), None), Err("is a directory"));
    }
}
