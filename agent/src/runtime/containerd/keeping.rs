//! The side of a container that its keeper and init see: the directory in which they meet, the record, the
//! address of the streams. And what the record says when the container has ended: it comes before what
//! containerd says, because containerd may have been down.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use teamster_init::orders::Orders;
use teamster_init::record::{Record, Status};
use tokio::time::Instant;

use super::{Containerd, blocking};
use crate::attempt_dir::AttemptDir;
use crate::runtime::{ContainerId, ContainerSpec, Exit, RuntimeError};

/// How long a keeper may take to end after its container: it puts the end of a long log in its place.
const KEEPER_DEADLINE: Duration = Duration::from_secs(60);

/// How long it may take to put everything in its place when all processes are dead, before the container is
/// removed, which ends it.
const WHOLE_DEADLINE: Duration = Duration::from_secs(2);

/// Between two looks at whether it has.
const PAUSE: Duration = Duration::from_millis(5);

/// The same where a task's end waits for it.
const SHORT_PAUSE: Duration = Duration::from_millis(1);

/// What a record says of a container that has ended.
pub(super) enum Told {
    /// How it ended.
    Ended { status: Status, at: Option<Timestamp> },
    /// The keeper killed it: its lease was over.
    LeaseEnded,
    /// The keeper was killed, so nothing of what came after is known.
    KeeperLost,
    /// Init never came to the keeper, so nothing of the task has run.
    NeverBegan,
    /// Nothing: init was killed, or there is no record.
    Nothing,
}

/// Makes the directory in which init and keeper meet and an empty record, in place of whatever is there:
/// nothing of this container has run.
pub(super) fn prepare(spec: &ContainerSpec) -> io::Result<()> {
    let keeping = &spec.keeping;
    match fs::remove_dir_all(&keeping.talk) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => other?,
    }
    if let Some(parent) = keeping.talk.parent() {
        DirBuilder::new().mode(0o700).recursive(true).create(parent)?;
    }
    DirBuilder::new().create(&keeping.talk)?;
    fs::set_permissions(&keeping.talk, Permissions::from_mode(0o755))?;
    if let Some(stdin) = &spec.stdin {
        let name = keeping.talk.join(teamster_init::STDIN);
        fs::hard_link(stdin, &name)?;
        // All directories on the way are root's own; in the container it can only be read.
        fs::set_permissions(&name, Permissions::from_mode(0o444))?;
    }
    Record::create(&keeping.record)
}

/// What containerd is told about the streams: start this keeper.
pub(super) fn address(spec: &ContainerSpec, keeper: &Path) -> String {
    let keeping = &spec.keeping;
    let orders = Orders {
        talk: keeping.talk.clone(),
        stdout: spec.stdout.clone(),
        stderr: spec.stderr.clone(),
        record: keeping.record.clone(),
        lease: keeping.lease.clone(),
        lease_length: keeping.lease_length,
        stdout_max_bytes: keeping.stdout_max_bytes,
        stderr_max_bytes: keeping.stderr_max_bytes,
    };
    orders.address(keeper)
}

/// `exit` as the record has it.
pub(super) fn corrected(id: ContainerId, told: Told, exit: Exit) -> Result<Exit, RuntimeError> {
    match told {
        Told::Ended { status: Status::Unusable(reason), .. } => Err(RuntimeError::CommandUnusable(reason)),
        Told::Ended { status, .. } => Ok(Exit { code: status.code().into(), ..exit }),
        Told::LeaseEnded => Err(RuntimeError::LeaseEnded(id)),
        // What the kernel killed for memory is known without anybody's word.
        Told::KeeperLost if !exit.out_of_memory => Err(RuntimeError::KeeperLost(id)),
        // The runtime's own first process has ended, and its code is not the task's: it does so when containerd is
        // killed while it starts one. What was killed for memory is what it is.
        Told::NeverBegan if !exit.out_of_memory => Err(RuntimeError::NeverBegan(id)),
        Told::KeeperLost | Told::NeverBegan | Told::Nothing => Ok(exit),
    }
}

impl Containerd {
    fn record_path(&self, id: ContainerId) -> Option<PathBuf> {
        let programs = self.programs.as_ref()?;
        Some(AttemptDir::new(programs.data_dir(), id.attempt).keeper_record(id.executor))
    }

    /// What the record says now. Init waits until it is written before it ends, so once containerd has seen
    /// the end it is there.
    pub(super) async fn told(&self, id: ContainerId) -> Result<Told, RuntimeError> {
        let Some(path) = self.record_path(id) else { return Ok(Told::Nothing) };
        blocking("read the keeper's record", move || told(&path)).await
    }

    /// Whether the keeper says that it has taken all that there is, now or soon. It stays until the container is
    /// removed.
    pub(super) async fn are_streams_whole(&self, id: ContainerId) -> bool {
        let Some(path) = self.record_path(id) else { return false };
        let deadline = Instant::now() + WHOLE_DEADLINE;
        loop {
            match Record::read(&path) {
                Ok(Some(record)) if record.complete => return true,
                Ok(Some(_)) if Record::is_kept(&path) && Instant::now() < deadline => {}
                _ => return false,
            }
            tokio::time::sleep(SHORT_PAUSE).await;
        }
    }

    /// Waits until the keeper has taken all that there is and ended, and says whether it has. One that was killed has.
    pub(super) async fn await_keeper(&self, id: ContainerId) -> bool {
        let Some(path) = self.record_path(id) else { return true };
        let deadline = Instant::now() + KEEPER_DEADLINE;
        while Record::is_kept(&path) {
            if Instant::now() > deadline {
                tracing::warn!(container = %id, "the keeper of its streams does not end; their last part may be missing");
                return false;
            }
            tokio::time::sleep(PAUSE).await;
        }
        true
    }
}

fn told(path: &Path) -> io::Result<Told> {
    // Before the record is read: what it holds then is the keeper's last word, if there is none any more.
    let is_kept = Record::is_kept(path);
    let Some(record) = Record::read(path)? else { return Ok(Told::Nothing) };
    Ok(match record.status {
        Some(status) => {
            let at = i128::from(record.at_unix_nanos);
            Told::Ended { status, at: Timestamp::from_nanosecond(at).ok() }
        }
        None if record.lease_ended => Told::LeaseEnded,
        // Without a keeper init starts nothing, so one that was killed before they met has lost nothing.
        None if !record.met => Told::NeverBegan,
        None if !is_kept && !record.complete => Told::KeeperLost,
        None => Told::Nothing,
    })
}
