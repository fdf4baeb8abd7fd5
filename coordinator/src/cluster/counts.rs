//! How many live tasks are in each state, kept up with every change so that nobody has to count.

use super::task::TaskState;

/// Live tasks by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Waiting for a node.
    pub queued: usize,
    /// Assigned; no executor is known to have started.
    pub initializing: usize,
    /// Executors run.
    pub running: usize,
    /// Outputs are being put in place.
    pub finalizing: usize,
    /// Cancelled, not yet known to be dead.
    pub canceling: usize,
}

impl Counts {
    pub(super) fn add(&mut self, state: &TaskState) {
        if let Some(count) = self.of(state) {
            *count += 1;
        }
    }

    pub(super) fn remove(&mut self, state: &TaskState) {
        if let Some(count) = self.of(state) {
            *count -= 1;
        }
    }

    fn of(&mut self, state: &TaskState) -> Option<&mut usize> {
        match state {
            TaskState::Queued { .. } => Some(&mut self.queued),
            TaskState::Initializing(_) => Some(&mut self.initializing),
            TaskState::Running(_) => Some(&mut self.running),
            TaskState::Finalizing(_) => Some(&mut self.finalizing),
            TaskState::Canceling { .. } => Some(&mut self.canceling),
            TaskState::Complete | TaskState::ExecutorError | TaskState::SystemError | TaskState::Canceled => {
                None
            }
        }
    }
}
