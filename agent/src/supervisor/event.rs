//! Everything that can happen to the supervisor.

use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinError};

use crate::assignment::{Command, Held, Report};
use crate::boot::BootInstant;
use crate::runtime::ContainerId;

/// Reports that may wait for a session. One that falls further behind is ended and begins anew with the
/// inventory.
pub const REPORTS_MAX: usize = 1024;

/// Everything that can happen.
#[derive(Debug)]
pub enum Event {
    /// The coordinator wants something.
    Command {
        /// What.
        command: Command,
        /// When the message was sent that the coordinator has answered last: leases count from there.
        heard: BootInstant,
    },
    /// A session begins. It gets the whole inventory, and each report from then on; it takes the place of
    /// the session before.
    Attached {
        /// Where reports go; holds [`REPORTS_MAX`].
        reports: mpsc::Sender<Report>,
        /// Where the inventory goes.
        inventory: oneshot::Sender<Vec<Held>>,
    },
    /// The coordinator has answered a message that was sent then.
    Heard(BootInstant),
    /// A task went on or ended.
    Reported(Report),
    /// A task's driver is done with it.
    DriverEnded(Result<(Id, ()), JoinError>),
    /// Some lease may have ended.
    LeaseTick,
    /// The runtime has these containers.
    Found(Vec<ContainerId>),
}
