//! What is kept of an attempt that ended, made small enough for one message whatever the task did.

use jiff::Timestamp;
use teamster_values::Reason;

use crate::assignment::{AttemptResult, Outcome, OutputFile};
use crate::attempt::Attempt;

/// The most that the list of outputs may take, in bytes of text.
const OUTPUTS_BYTES: usize = 1 << 20;
/// The most that the system log may take, and the most of one line.
const SYSTEM_LOGS_BYTES: usize = 128 << 10;
const SYSTEM_LOG_LINE_BYTES: usize = 8 << 10;

/// The result of an attempt; takes its logs out of `attempt`.
pub(super) fn conclude(
    attempt: &mut Attempt,
    outcome: Outcome,
    started: bool,
    mut outputs: Vec<OutputFile>,
) -> AttemptResult {
    let metadata = attempt.measured.metadata(&attempt.executors);
    let reason = reason(attempt, outcome);
    let mut system_logs = std::mem::take(&mut attempt.system_logs);
    let all = outputs.len();
    let mut room = OUTPUTS_BYTES;
    let fits = outputs
        .iter()
        .take_while(|output| {
            let size = output.url.len() + output.path.len() + 16;
            let fits = size <= room;
            room = room.saturating_sub(size);
            fits
        })
        .count();
    outputs.truncate(fits);
    if fits < all {
        // Before the reason of a failure, which is the last line.
        system_logs.insert(0, format!("warning: only the first {fits} of {all} output files are listed"));
    }
    AttemptResult {
        outcome,
        started,
        executors: std::mem::take(&mut attempt.executors),
        outputs,
        system_logs: bounded(system_logs),
        reason,
        metadata,
        start_time: attempt.taken_up,
        end_time: Timestamp::now().max(attempt.taken_up),
    }
}

/// Why the attempt did not end well.
fn reason(attempt: &Attempt, outcome: Outcome) -> Option<Reason> {
    match outcome {
        Outcome::Complete => None,
        Outcome::ExecutorError => {
            let is_memory = attempt.executors.last().is_some_and(|log| log.out_of_memory);
            let other = if is_memory { Reason::OutOfMemory } else { Reason::CommandFailed };
            Some(attempt.reason.unwrap_or(other))
        }
        Outcome::SystemError | Outcome::Canceled | Outcome::Lost(_) => attempt.reason,
    }
}

/// Keeps the last lines, because the reason of a failure is the last of all.
fn bounded(mut lines: Vec<String>) -> Vec<String> {
    let mut room = SYSTEM_LOGS_BYTES;
    let mut first = lines.len();
    for (index, line) in lines.iter_mut().enumerate().rev() {
        if line.len() > SYSTEM_LOG_LINE_BYTES {
            let end = (0..=SYSTEM_LOG_LINE_BYTES).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
            line.truncate(end);
            line.push('…');
        }
        let Some(left) = room.checked_sub(line.len() + 8) else { break };
        room = left;
        first = index;
    }
    lines.drain(..first);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::tests::assignment;

    #[test]
    fn is_bounded_and_keeps_the_reason() {
        let mut attempt = Attempt::new(assignment(1, &["true"]), "boot", Timestamp::UNIX_EPOCH);
        attempt.system_logs = (0..1000).map(|n| format!("line {n} {}", "ä".repeat(6000))).collect();
        attempt.system_logs.push("the reason".into());
        let outputs: Vec<_> = (0..100_000)
            .map(|n| OutputFile { url: format!("/mnt/shared/{n}"), path: format!("/out/{n}"), size_bytes: 1 })
            .collect();
        let result = conclude(&mut attempt, Outcome::SystemError, true, outputs);
        assert_eq!(result.system_logs.last().unwrap(), "the reason");
        assert!(result.system_logs.iter().map(String::len).sum::<usize>() <= SYSTEM_LOGS_BYTES);
        assert!((1..100_000).contains(&result.outputs.len()));
        assert!(attempt.system_logs.is_empty());
    }

    #[test]
    fn says_when_the_list_of_outputs_is_cut() {
        let mut attempt = Attempt::new(assignment(1, &["true"]), "boot", Timestamp::UNIX_EPOCH);
        let one = OutputFile { url: "u".repeat(OUTPUTS_BYTES), path: "/p".into(), size_bytes: 1 };
        let result = conclude(&mut attempt, Outcome::Complete, true, vec![one]);
        assert_eq!(result.outputs, []);
        assert!(result.system_logs[0].contains("0 of 1"));
    }
}
