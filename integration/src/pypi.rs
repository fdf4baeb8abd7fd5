//! Real clients, installed by name and version from PyPI into an environment of their own below the target
//! directory, where the next run finds them again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::cluster::teamster;
use crate::skip;

/// A Python environment.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Where it lies.
    pub path: PathBuf,
}

impl Environment {
    /// One that is called `name` and holds these packages. None, loudly, where PyPI cannot be reached.
    ///
    /// # Panics
    /// When it cannot be made and this is continuous integration.
    pub fn with(name: &str, packages: &[&str]) -> Option<Self> {
        let base = teamster().parent().expect("programs lie in directories").join("venvs");
        fs::create_dir_all(&base).unwrap();
        // Two runs of the tests may want the same one at the same time.
        let lock = File::create(base.join(format!("{name}.lock"))).unwrap();
        lock.lock().unwrap();
        let environment = Self { path: base.join(name) };
        match environment.install(packages) {
            Ok(()) => Some(environment),
            Err(reason) if skip::must_run_everything() => panic!("{name} cannot be installed: {reason}"),
            Err(reason) => {
                skip::skipped(name, &format!("it cannot be installed from PyPI: {reason}"));
                None
            }
        }
    }

    fn install(&self, packages: &[&str]) -> Result<(), String> {
        let (complete, wanted) = (self.path.join("complete"), packages.join("\n"));
        if fs::read_to_string(&complete).is_ok_and(|there| there == wanted) {
            return Ok(());
        }
        let _ = fs::remove_dir_all(&self.path);
        succeed(Command::new("python3").args(["-m", "venv"]).arg(&self.path))?;
        let mut pip = self.python();
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
        succeed(&mut pip)?;
        fs::write(complete, wanted).map_err(|error| error.to_string())
    }

    /// Its Python.
    pub fn python(&self) -> Command {
        Command::new(self.path.join("bin/python"))
    }
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(text_of(&output)) }
}

/// All that a program printed.
pub fn text_of(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// Runs a client to its end without holding up the runtime, and fails the test with all that it printed when
/// it fails.
pub async fn run(mut command: Command) -> String {
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("start it");
    let text = text_of(&output);
    assert!(output.status.success(), "{}:\n{text}", output.status);
    text
}

/// A file beside the tests.
pub fn beside_tests(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}
