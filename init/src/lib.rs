//! What the two programs that run beside every task share, and what the agent must know to use them:
//! `teamster-init`, pid 1 inside the container, and `teamster-keeper`, which keeps what the container writes.
//! Nothing here knows of containerd, of attempts or of the coordinator.

pub mod boottime;
pub mod lookup;
pub mod orders;
pub mod record;
pub mod spool;

/// Where a container finds the directory with the program and, in [`TALK`], what init needs. On a file system
/// that every container has to itself, so that no image can be in the way and none is changed.
pub const INSIDE: &str = "/dev/teamster";

/// Below [`INSIDE`]: the directory of this one container.
pub const TALK: &str = "run";

/// In [`TALK`]: the keeper's socket. It takes one connection, made before the command exists.
pub const SOCKET: &str = "keeper";

/// In [`TALK`], where there is one: the file whose content is standard input.
pub const STDIN: &str = "stdin";

/// What the keeper answers: init may go on.
pub const GO: u8 = b'g';
