//! The running guest: a process with many children, all of which end with this value.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::statvfs;
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use super::{Ended, end_of};

/// Between two looks at output and end.
const PAUSE: Duration = Duration::from_millis(50);

/// A guest that runs.
#[derive(Debug)]
pub(super) struct Machine {
    job: TempDir,
    process: Child,
    /// What ends it.
    end: Signal,
    ends: Instant,
}

impl Machine {
    /// Starts the kernel on a job directory that is complete.
    pub(super) fn start(
        kernel: &Path,
        job: TempDir,
        memory_mib: u64,
        deadline: Duration,
        is_interactive: bool,
    ) -> anyhow::Result<Self> {
        let directory = job.path().display();
        let (mut command, end) = contained();
        command
            .arg(kernel)
            .arg(format!("mem={memory_mib}M"))
            .args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "panic=-1", "loglevel=3"])
            .args(["umid=guest", "con=null"])
            .arg(if is_interactive { "con0=fd:0,fd:1" } else { "con0=null,fd:1" })
            .args([format!("uml_dir={directory}/"), format!("init={directory}/init")])
            .arg(format!("job={directory}"))
            .env("HOME", job.path())
            .env("TMPDIR", memory_directory(memory_mib));
        if !is_interactive {
            let console = File::create(job.path().join("console"))?;
            command.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
        }
        let process = command.spawn().context("start its kernel")?;
        Ok(Self { job, process, end, ends: Instant::now() + deadline })
    }

    /// Waits for the end of the command, or for the deadline, and passes on what it prints meanwhile.
    pub(super) fn until_end(mut self, sink: &mut dyn Write) -> Ended {
        let mut file = File::open(self.path("output")).expect("the job directory is complete");
        let mut output = Vec::new();
        let mut pass_on = |output: &mut Vec<u8>| {
            let before = output.len();
            file.read_to_end(output).expect("read a file of our own");
            // Nobody has to listen.
            let _ = sink.write_all(&output[before..]).and_then(|()| sink.flush());
        };
        let mut last_words = String::new();
        loop {
            // Asked first, so that what it wrote last is read after its end.
            match self.process.try_wait().expect("look at a child") {
                Some(status) if status.success() => break,
                Some(status) => {
                    last_words = format!("\nthe guest's kernel ended with {:?}", status.into_raw());
                    break;
                }
                None if Instant::now() > self.ends => {
                    last_words = "\nthe guest was ended at its deadline".to_owned();
                    break;
                }
                None => std::thread::sleep(PAUSE),
            }
            pass_on(&mut output);
        }
        pass_on(&mut output);
        let console = fs::read(self.path("console")).unwrap_or_default();
        let code = fs::read_to_string(self.path("code")).ok();
        Ended {
            code: code.and_then(|text| text.trim().parse().ok()),
            output: String::from_utf8_lossy(&output).into_owned(),
            console: end_of(&String::from_utf8_lossy(&console)) + &last_words,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.job.path().join(name)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let process = Pid::from_raw(self.process.id().try_into().expect("process ids are small"));
        // It is still our child, so the number is nobody else's; it may have ended by itself.
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = kill(process, self.end);
        }
        let _ = self.process.wait();
    }
}

/// A command to put the kernel behind, and the signal that ends it: whatever the kernel starts ends with it, and
/// it ends with us, however we end. Who is not root would need a user namespace for that, in which all of root's
/// files belong to nobody, also for the guest. There a shell ends the kernel's process group, which the kernel
/// makes for itself.
fn contained() -> (Command, Signal) {
    let namespace = ["unshare", "--fork", "--pid", "--kill-child=KILL", "--"];
    let probe = || Command::new(namespace[0]).args(&namespace[1..]).arg("true").output();
    let mut command = Command::new("setpriv");
    if geteuid().is_root() && probe().is_ok_and(|output| output.status.success()) {
        command.args(["--pdeathsig", "KILL", "--"]).args(namespace);
        return (command, Signal::SIGKILL);
    }
    // The background has no standard input unless it is given one.
    let watch = "trap 'kill -s KILL -- -$! $!' TERM; \"$@\" <&0 & wait $!";
    command.args(["--pdeathsig", "TERM", "--", "sh", "-c", watch, "guest"]);
    (command, Signal::SIGTERM)
}

/// Where the file lies that is the guest's memory: in memory where that has room for it.
fn memory_directory(memory_mib: u64) -> PathBuf {
    let shared_memory = Path::new("/dev/shm");
    let free = statvfs(shared_memory).map_or(0, |stat| stat.blocks_available() * stat.fragment_size());
    if free >> 20 >= memory_mib { shared_memory.to_owned() } else { std::env::temp_dir() }
}
