//! What the small programs around every container share, and what the agent must know to use them:
//! `teamster-init`, pid 1 inside the container, `teamster-keeper`, which keeps what the container writes, and
//! `teamster-shim` and `teamster-runc`, which do quickly what containerd's own programs would be started for.
//! Nothing here knows of attempts or of the coordinator.

pub mod boottime;
pub mod call;
pub mod lookup;
pub mod orders;
pub mod record;
pub mod spool;
pub mod state;

/// Where a container finds the directory with the program and, in [`TALK`], what init needs. On a file system
/// that every container has to itself, so that no image can be in the way and none is changed.
pub const INSIDE: &str = "/dev/teamster";

/// Below [`INSIDE`]: the directory of this one container.
pub const TALK: &str = "run";

/// Where crun keeps its state: beside runc's, and gone with the next boot like that.
pub const CRUN_STATE: &str = "/run/containerd/crun";

/// In [`TALK`]: the keeper's socket. It takes one connection, made before the command exists.
pub const SOCKET: &str = "keeper";

/// In [`TALK`], where there is one: the file whose content is standard input.
pub const STDIN: &str = "stdin";

/// What the keeper answers: init may go on.
pub const GO: u8 = b'g';
