//! The guest's kernel, and every program that this machine lacks, as Debian packages that are unpacked into a
//! directory below the target directory. Nothing is installed, and apt's own files are left alone.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};

/// What must be in the guest. apt adds what these need, and leaves out what this machine has.
const PACKAGES: [&str; 10] = [
    "user-mode-linux",
    "busybox-static",
    "kmod",
    "iproute2",
    "containerd",
    "runc",
    "crun",
    "nfs-kernel-server",
    "e2fsprogs",
    "xfsprogs",
];

/// The kernel among them.
const KERNEL: &str = "usr/bin/linux.uml";

/// Directories that Debian has below `/usr` only, with links at their old places.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Packages lie unpacked in a directory; it stays where it is until the target directory goes.
#[derive(Debug)]
pub(super) struct Packages {
    directory: PathBuf,
}

impl Packages {
    /// Those that are in `base` already, else they are downloaded: about 60 MB.
    pub(super) fn below(base: &Path) -> anyhow::Result<Self> {
        ensure!(std::env::consts::ARCH == "x86_64", "User Mode Linux is made for x86-64 only");
        fs::create_dir_all(base)?;
        // Many tests may want them at the same time.
        let lock = File::create(base.join("lock"))?;
        lock.lock()?;
        let directory = base.join(key());
        if !directory.exists() {
            let (half, apt) = (base.join("half"), base.join("apt"));
            for left_behind in [&half, &apt] {
                let _ = fs::remove_dir_all(left_behind);
            }
            unpack(&download(&apt)?, &half)?;
            fs::rename(&half, &directory)?;
            fs::remove_dir_all(apt)?;
        }
        Ok(Self { directory })
    }

    /// What lies over this machine's own files.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The kernel, a program of this machine.
    pub(super) fn kernel(&self) -> PathBuf {
        self.directory.join(KERNEL)
    }
}

/// Changes with whatever the packages were chosen by: the list, and what this machine has of it.
fn key() -> String {
    let mut state = PACKAGES.join(" ");
    state += &fs::read_to_string("/etc/os-release").unwrap_or_default();
    let installed = Command::new("dpkg-query").args(["-W", "--"]).args(PACKAGES).output();
    state +=
        &installed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    Sha256::digest(state).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Asks apt for the packages, with the lists of this machine and, where those are of no use, fresh ones.
fn download(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    for name in ["archives/partial", "lists/partial"] {
        fs::create_dir_all(directory.join(name))?;
    }
    let fresh = format!("Dir::State::lists={}", directory.join("lists").display());
    let mut install = apt(directory);
    install.args(["--download-only", "--yes", "--no-install-recommends", "--no-upgrade", "install"]);
    install.args(PACKAGES);
    if succeed(&mut install).is_err() {
        succeed(apt(directory).args(["-o", &fresh, "update"]))?;
        succeed(install.args(["-o", &fresh]))?;
    }
    let entries = fs::read_dir(directory.join("archives"))?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    Ok(found)
}

/// An apt that needs no privileges: all that it writes lies in `directory`.
fn apt(directory: &Path) -> Command {
    let mut apt = Command::new("apt-get");
    apt.args(["-qq", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User="]);
    apt.arg("-o").arg(format!("Dir::Cache={}", directory.display()));
    apt
}

fn unpack(packages: &[PathBuf], directory: &Path) -> anyhow::Result<()> {
    for name in MERGED {
        fs::create_dir_all(directory.join("usr").join(name))?;
        symlink(Path::new("usr").join(name), directory.join(name))?;
    }
    for package in packages {
        // tar, because dpkg-deb's own way of unpacking replaces those links by directories.
        let mut archive = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(package)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let content = archive.stdout.take().expect("it was asked for");
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--keep-directory-symlink", "--no-same-owner", "--directory"]);
        tar.arg(directory).args(["--exclude=./usr/share/doc", "--exclude=./usr/share/man"]).stdin(content);
        let unpacked = succeed(&mut tar);
        archive.wait()?;
        unpacked?;
    }
    Ok(())
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.env("LC_ALL", "C").output().context(program.clone())?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
    ensure!(output.status.success(), "{program}: {text}");
    Ok(())
}
