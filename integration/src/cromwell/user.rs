//! File work as somebody who is not root: an engine has a user of its own, and what it may do on the shared
//! storage is part of what is tested. Each piece of work is a child process with that user's id.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Somebody with a user id and a group of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User(pub u32);

impl User {
    /// Runs a shell script as this user; its output, or what it complained about.
    pub fn run(self, script: &str, arguments: &[&str], stdin: &str) -> Result<String, String> {
        let mut child = Command::new("/bin/sh")
            .args(["-euc", script, "engine"])
            .args(arguments)
            .current_dir("/")
            .uid(self.0)
            .gid(self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start a shell as another user");
        let mut input = child.stdin.take().expect("it was asked for");
        // A script that reads nothing may have ended by now.
        let _ = input.write_all(stdin.as_bytes());
        drop(input);
        let output = child.wait_with_output().expect("see the shell end");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Makes a directory and its missing parents, each open to others as Cromwell leaves them.
    pub fn make_directories(self, path: &Path) -> Result<(), String> {
        // Another call may make the same one at the same time.
        let script = r#"make() {
                            if ! [ -d "$1" ]; then
                                make "$(dirname "$1")"
                                if mkdir "$1" 2>/dev/null; then chmod o+rwx "$1"; else [ -d "$1" ]; fi
                            fi
                        }
                        make "$1""#;
        self.run(script, &[text(path)], "").map(drop)
    }

    /// Writes a file.
    pub fn write(self, path: &Path, content: &str) -> Result<(), String> {
        self.run(r#"cat > "$1""#, &[text(path)], content).map(drop)
    }

    /// Reads a file.
    pub fn read(self, path: &Path) -> Result<String, String> {
        self.run(r#"cat "$1""#, &[text(path)], "")
    }

    /// How many bytes a file has, as text.
    pub fn length_bytes(self, path: &Path) -> Result<String, String> {
        self.run(r#"stat -L -c %s "$1""#, &[text(path)], "").map(|length| length.trim().to_owned())
    }

    /// Removes a directory with all that is in it.
    pub fn remove_all(self, path: &Path) -> Result<(), String> {
        self.run(r#"rm -r "$1""#, &[text(path)], "").map(drop)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}
