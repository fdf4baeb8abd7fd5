//! What the coordinator itself writes into a task's system log.

use std::time::Duration;

use teamster_values::Reason;

use crate::cluster::Loss;

/// The code of a loss.
pub(super) fn reason(loss: Loss) -> Reason {
    match loss {
        Loss::Reboot => Reason::NodeRestarted,
        Loss::NodeFault => Reason::NodeFault,
        Loss::LeaseEnded | Loss::Forgotten => Reason::NodeLost,
        Loss::NodeStopped => Reason::NodeStopped,
    }
}

/// Why an attempt is held to be dead.
pub(super) fn lost(loss: Loss, node: &str) -> String {
    let text = match loss {
        Loss::Reboot => format!("lost: node '{node}' was restarted"),
        Loss::NodeFault => format!("lost: node '{node}' failed it"),
        Loss::LeaseEnded => {
            format!("lost: node '{node}' was not heard for the whole lease, so the attempt has ended there")
        }
        Loss::NodeStopped => format!("lost: the operator stopped node '{node}'"),
        Loss::Forgotten => format!("lost: node '{node}' came back and knows nothing of it"),
    };
    reason(loss).line(text)
}

/// Who wants the task to end.
pub(super) fn canceled(by: &str) -> String {
    Reason::Canceled.line(format_args!("canceled by {by}"))
}

/// What follows when it is made again.
pub(super) fn run_again(attempt: u32, wait: Duration) -> String {
    format!(
        "attempt {attempt} was lost to the infrastructure; it is run again, not before {} s",
        wait.as_secs()
    )
}

/// What follows when it is not.
pub(super) fn not_run_again() -> String {
    "it is not run again: it may have had effects, and it is neither preemptible nor has it attempts left"
        .to_owned()
}
