//! Releases of containerd other than the one that is installed: Debian's packages of them, unpacked beside each
//! other below the target directory, where the next run finds them again. Nothing is installed. apt is called with a
//! configuration of its own, and checks what it fetches against Debian's keys.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::teamster;
use crate::skip;

/// The Debian releases whose containerd is tried, and the version that each begins with.
pub const SUITES: [(&str, &str); 2] = [("trixie", "1.7."), ("sid", "2.")];

const MIRROR: &str = "http://deb.debian.org/debian";

/// The directory with the programs of the containerd of a Debian release; none, loudly, where the mirror does
/// not give it.
///
/// # Panics
/// When it cannot be had and this is continuous integration.
pub fn containerd_of(suite: &str, version: &str) -> Option<PathBuf> {
    let test = format!("containerd {version}x of Debian's {suite}");
    let top = teamster().parent().expect("programs lie in directories").join("releases");
    fs::create_dir_all(&top).expect("a directory for packages");
    // Two runs of the tests may want the same one at the same time.
    let lock = File::create(top.join(format!("{suite}.lock"))).expect("a lock");
    lock.lock().expect("lock");
    let unpacked = top.join(suite);
    let programs = unpacked.join("usr/bin");
    if !programs.join("containerd").exists()
        && let Err(reason) = fetch(suite, &top, &unpacked)
    {
        assert!(!skip::must_run_everything(), "{test}: {reason}");
        skip::skipped(&test, &reason);
        return None;
    }
    let said = Command::new(programs.join("containerd")).arg("--version").output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    if said.split(' ').any(|word| word.trim_start_matches('v').starts_with(version)) {
        return Some(programs);
    }
    skip::skipped(&test, &format!("it says that it is {said:?}"));
    None
}

fn fetch(suite: &str, top: &Path, unpacked: &Path) -> Result<(), String> {
    let apt = top.join(format!("{suite}-apt"));
    for directory in ["lists/partial", "archives/partial", "packages"] {
        fs::create_dir_all(apt.join(directory)).map_err(|error| error.to_string())?;
    }
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let source = format!("deb [signed-by={keys}] {MIRROR} {suite} main\n");
    fs::write(apt.join("sources.list"), source).map_err(|error| error.to_string())?;
    fs::write(apt.join("status"), "").map_err(|error| error.to_string())?;
    let run = |program: &str, arguments: &[&str]| {
        let at = apt.display();
        let options = [
            format!("Dir::Etc::sourcelist={at}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={at}/lists"),
            format!("Dir::State::status={at}/status"),
            format!("Dir::Cache={at}"),
            "Acquire::Languages=none".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ];
        let mut command = Command::new(program);
        if program == "apt-get" {
            command.args(options.iter().flat_map(|option| ["-o", option.as_str()]));
        }
        let output = command.args(arguments).current_dir(apt.join("packages")).output();
        let output = output.map_err(|error| format!("{program}: {error}"))?;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(format!("{program} {arguments:?}: {words}")) }
    };
    run("apt-get", &["update"])?;
    run("apt-get", &["download", "containerd"])?;
    let package = fs::read_dir(apt.join("packages"))
        .ok()
        .and_then(|mut entries| entries.next()?.ok())
        .ok_or("apt has fetched nothing")?;
    run("dpkg-deb", &["--extract", &package.path().to_string_lossy(), &unpacked.to_string_lossy()])?;
    fs::remove_dir_all(&apt).map_err(|error| error.to_string())
}
