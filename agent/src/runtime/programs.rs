//! The small programs around tasks, put on this node's disk: below the data directory, in a place named after
//! their content, so that what running containers use is never overwritten by an upgrade. It starts nothing but
//! the check that they can be started.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

/// Name of the program that is pid 1 in containers.
pub(super) const INIT: &str = "teamster-init";

/// Name of the one outside.
const KEEPER: &str = "teamster-keeper";

/// Names of those that containerd and its shim start in place of the shim program and of runc.
const SHIM: &str = "teamster-shim";
const RUNC: &str = "teamster-runc";

/// The programs on this node's disk, and the data directory that they were made for.
#[derive(Debug, Clone)]
pub struct Programs {
    data_dir: PathBuf,
    directory: PathBuf,
}

/// Why they cannot be used. The texts fit after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// The file system refuses.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// They are there and do not start.
    #[error(
        "start {path}: {reason}; the agent's data directory must lie on a file system that allows programs \
         (not mounted noexec)"
    )]
    Unusable {
        /// The program.
        path: PathBuf,
        /// What came of it.
        reason: String,
    },
}

fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ProgramsError + 'a {
    move |source| ProgramsError::Io { action, path: path.to_owned(), source }
}

impl Programs {
    /// Puts them below the data directory, unless they are there, and sees that they can be started.
    pub fn install(data_dir: &Path) -> Result<Self, ProgramsError> {
        let content = Sha256::new()
            .chain_update(teamster_programs::INIT)
            .chain_update(teamster_programs::KEEPER)
            .chain_update(teamster_programs::SHIM)
            .chain_update(teamster_programs::RUNC);
        let name: String = content.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let top = data_dir.join("programs");
        let programs = Self { data_dir: data_dir.to_owned(), directory: top.join(name) };
        if !programs.directory.is_dir() {
            programs.make(&top)?;
        }
        programs.check()?;
        programs.forget_older().map_err(at("clear", &top))?;
        Ok(programs)
    }

    /// All or nothing: under a name of its own first.
    fn make(&self, top: &Path) -> Result<(), ProgramsError> {
        DirBuilder::new().mode(0o700).recursive(true).create(top).map_err(at("create", top))?;
        let new = self.directory.with_extension(format!("new-{}", std::process::id()));
        for directory in [&new, &new.join("inside"), &new.join("inside").join(teamster_init::TALK)] {
            DirBuilder::new().mode(0o755).create(directory).map_err(at("create", directory))?;
            fs::set_permissions(directory, Permissions::from_mode(0o755))
                .map_err(at("open to all", directory))?;
        }
        // Not readable, so that the kernel keeps even its memory from the task, which is the same user.
        write(&new.join("inside").join(INIT), teamster_programs::INIT, 0o711)?;
        write(&new.join(KEEPER), teamster_programs::KEEPER, 0o700)?;
        write(&new.join(SHIM), teamster_programs::SHIM, 0o700)?;
        write(&new.join(RUNC), teamster_programs::RUNC, 0o700)?;
        match fs::rename(&new, &self.directory) {
            // Another has made it meanwhile; what the content names is the same.
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
                fs::remove_dir_all(&new).map_err(at("remove", &new))
            }
            other => other.map_err(at("rename", &new)),
        }
    }

    fn check(&self) -> Result<(), ProgramsError> {
        let path = self.keeper();
        let status = Command::new(&path).arg("--check").stdin(Stdio::null()).env_clear().status();
        let reason = match status {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        Err(ProgramsError::Unusable { path, reason })
    }

    /// Removes what older versions left, if no attempt is here that could use it.
    fn forget_older(&self) -> io::Result<()> {
        let attempts = match fs::read_dir(self.data_dir.join("tasks")) {
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            other => other?.count(),
        };
        if attempts > 0 {
            return Ok(());
        }
        for entry in fs::read_dir(self.data_dir.join("programs"))? {
            let path = entry?.path();
            if path != self.directory {
                fs::remove_dir_all(&path)?;
            }
        }
        Ok(())
    }

    /// The directory that containers are shown.
    pub(super) fn inside(&self) -> PathBuf {
        self.directory.join("inside")
    }

    /// The program outside.
    pub(super) fn keeper(&self) -> PathBuf {
        self.directory.join(KEEPER)
    }

    /// What containerd starts as its shim program.
    pub(super) fn shim(&self) -> PathBuf {
        self.directory.join(SHIM)
    }

    /// What a shim starts as runc.
    pub(super) fn runc(&self) -> PathBuf {
        self.directory.join(RUNC)
    }

    /// The agent's data directory.
    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), ProgramsError> {
    let mut options = OpenOptions::new();
    let written = options.write(true).create_new(true).mode(mode).open(path).and_then(|mut file: File| {
        file.write_all(content)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    });
    written.map_err(at("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_there_once_and_can_be_started() {
        let data = tempfile::tempdir().unwrap();
        let first = Programs::install(data.path()).unwrap();
        let older = data.path().join("programs/older");
        fs::create_dir(&older).unwrap();
        fs::create_dir_all(data.path().join("tasks/some")).unwrap();
        let made = fs::metadata(first.keeper()).unwrap().modified().unwrap();
        let second = Programs::install(data.path()).unwrap();
        assert_eq!(fs::metadata(second.keeper()).unwrap().modified().unwrap(), made, "it was left alone");
        assert!(older.exists(), "a task may use it");
        fs::remove_dir(data.path().join("tasks/some")).unwrap();
        Programs::install(data.path()).unwrap();
        assert!(!older.exists());
        let init = fs::metadata(second.inside().join(INIT)).unwrap();
        assert_eq!(init.permissions().mode() & 0o777, 0o711);
    }

    #[test]
    fn what_does_not_start_is_said() {
        let data = tempfile::tempdir().unwrap();
        let programs = Programs::install(data.path()).unwrap();
        fs::set_permissions(programs.keeper(), Permissions::from_mode(0o600)).unwrap();
        let text = Programs::install(data.path()).unwrap_err().to_string();
        assert!(text.contains("noexec") && text.contains(KEEPER), "{text}");
    }
}
