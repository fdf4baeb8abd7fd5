//! What should run on a node × what does run there → what to believe and what to say. The only resend
//! logic there is: connect, reconnect, a restarted coordinator and a restarted agent all come through here.

use std::collections::BTreeMap;

use super::Seq;
use super::task::{Ending, Loss, TaskEvent, TaskState};

/// One line of an agent's inventory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The task.
    pub seq: Seq,
    /// Which attempt at it.
    pub attempt: u32,
    /// How far it is.
    pub stage: HeldStage,
}

/// How far a held attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldStage {
    /// No executor has been started.
    Preparing,
    /// An executor has been started.
    Running,
    /// The executors are done.
    Finalizing,
    /// It ended, and waits for our word.
    Ended(Ending),
}

/// What follows for one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The task went on or ended while nobody was listening.
    Believe(Seq, TaskEvent),
    /// The assignment never arrived: send it again.
    Start(Seq, u32),
    /// It should be dying: say so again.
    Stop(Seq, u32),
    /// Nobody wants this attempt any more.
    Forget(Seq, u32),
}

/// Compares. `should` are the tasks whose live attempt is on this node, with their states.
pub(super) fn reconcile(should: &BTreeMap<Seq, TaskState>, held: &[Held]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut missing: BTreeMap<Seq, TaskState> = should.clone();
    for line in held {
        let state = should.get(&line.seq);
        let current = state.and_then(TaskState::placement).is_some_and(|p| p.attempt == line.attempt);
        if !current {
            steps.push(Step::Forget(line.seq, line.attempt));
            continue;
        }
        missing.remove(&line.seq);
        let canceling = matches!(state, Some(TaskState::Canceling { .. }));
        if canceling && !matches!(line.stage, HeldStage::Ended(_)) {
            steps.push(Step::Stop(line.seq, line.attempt));
        }
        let event = match line.stage {
            HeldStage::Preparing => continue,
            HeldStage::Running => TaskEvent::Started(line.attempt),
            HeldStage::Finalizing => TaskEvent::Finalizing(line.attempt),
            HeldStage::Ended(ending) => TaskEvent::Ended(line.attempt, ending),
        };
        steps.push(Step::Believe(line.seq, event));
    }
    for (seq, state) in missing {
        let Some(placement) = state.placement() else { continue };
        let attempt = placement.attempt;
        steps.push(match state {
            // An agent writes down what it is given before it touches anything, so what it does not know
            // has never begun.
            TaskState::Initializing(_) => Step::Start(seq, attempt),
            TaskState::Canceling { .. } => Step::Believe(seq, TaskEvent::Ended(attempt, Ending::Canceled)),
            _ => Step::Believe(seq, TaskEvent::Lost(attempt, Loss::Forgotten)),
        });
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::super::node::NodeKey;
    use super::super::task::{Placement, Shown};
    use super::*;

    const SEQ: Seq = 9;
    const PLACEMENT: Placement = Placement { attempt: 2, node: NodeKey(0) };
    const ENDED: HeldStage = HeldStage::Ended(Ending::Complete);

    fn steps(state: Option<TaskState>, held: Option<(u32, HeldStage)>) -> Vec<Step> {
        let should = state.map(|state| (SEQ, state)).into_iter().collect();
        let held: Vec<_> =
            held.map(|(attempt, stage)| Held { seq: SEQ, attempt, stage }).into_iter().collect();
        reconcile(&should, &held)
    }

    #[test]
    fn what_agrees_needs_nothing() {
        let state = Some(TaskState::Initializing(PLACEMENT));
        assert_eq!(steps(state, Some((2, HeldStage::Preparing))), []);
    }

    #[test]
    fn news_is_believed() {
        let state = Some(TaskState::Initializing(PLACEMENT));
        assert_eq!(steps(state, Some((2, HeldStage::Running))), [Step::Believe(SEQ, TaskEvent::Started(2))]);
        assert_eq!(
            steps(state, Some((2, ENDED))),
            [Step::Believe(SEQ, TaskEvent::Ended(2, Ending::Complete))]
        );
    }

    #[test]
    fn an_old_attempt_is_dropped_whatever_it_says_and_the_true_one_is_sent() {
        let state = Some(TaskState::Initializing(PLACEMENT));
        for stage in [HeldStage::Running, ENDED] {
            assert_eq!(steps(state, Some((1, stage))), [Step::Forget(SEQ, 1), Step::Start(SEQ, 2)]);
            assert_eq!(steps(None, Some((1, stage))), [Step::Forget(SEQ, 1)]);
        }
    }

    #[test]
    fn an_assignment_that_never_arrived_is_sent_again() {
        assert_eq!(steps(Some(TaskState::Initializing(PLACEMENT)), None), [Step::Start(SEQ, 2)]);
    }

    #[test]
    fn what_ran_and_is_unknown_there_is_lost() {
        for state in [TaskState::Running(PLACEMENT), TaskState::Finalizing(PLACEMENT)] {
            assert_eq!(steps(Some(state), None), [Step::Believe(SEQ, TaskEvent::Lost(2, Loss::Forgotten))]);
        }
    }

    #[test]
    fn a_cancelled_one_is_stopped_or_was_never_there() {
        let state = Some(TaskState::Canceling { placement: PLACEMENT, shown: Shown::Initializing });
        assert_eq!(
            steps(state, Some((2, HeldStage::Running))),
            [Step::Stop(SEQ, 2), Step::Believe(SEQ, TaskEvent::Started(2))]
        );
        assert_eq!(steps(state, None), [Step::Believe(SEQ, TaskEvent::Ended(2, Ending::Canceled))]);
    }
}
