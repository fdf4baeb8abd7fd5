//! The state table: every state × every event, with the expected result written out.

use super::*;

const NOW: Millis = Millis(1_000_000);
const HERE: NodeKey = NodeKey(3);
const CHOSEN: NodeKey = NodeKey(7);
/// The attempt that the states below speak of.
const CURRENT: u32 = 2;
const PLACEMENT: Placement = Placement { attempt: CURRENT, node: HERE };
const RULE: RetryRule = RetryRule { started: false, attempts_max: 4 };

/// Rows are states, columns are events.
///
/// `.` refused, `I` initializing, `R` running, `F` finalizing, `ci`/`cr` canceling shown as initializing or
/// running, `C` complete, `E` executor error, `S` system error, `X` canceled, `Q` queued again after a
/// back-off, avoiding the node, `Q!` queued again at once. Columns that end in `'` are of another attempt;
/// `0` means that the first executor had not been started.
const TABLE: &str = "
           place cancel start start' final final' C  C' E  S  X  lost0 lost lost' stop gone gone'
queued     I     X      .     .      .     .      .  .  .  .  .  .     .    .     .    .    .
later      .     X      .     .      .     .      .  .  .  .  .  .     .    .     .    .    .
init       .     ci     R     .      F     .      C  .  E  S  S  Q     S    .     Q!   Q    .
running    .     cr     .     .      F     .      C  .  E  S  S  Q     S    .     Q!   S    .
finalizing .     cr     .     .      .     .      C  .  E  S  S  Q     S    .     Q!   S    .
cancel-i   .     .      cr    .      .     .      X  .  X  X  X  X     X    .     X    X    .
cancel-r   .     .      .     .      .     .      X  .  X  X  X  X     X    .     X    X    .
complete   .     .      .     .      .     .      .  .  .  .  .  .     .    .     .    .    .
exec-error .     .      .     .      .     .      .  .  .  .  .  .     .    .     .    .    .
sys-error  .     .      .     .      .     .      .  .  .  .  .  .     .    .     .    .    .
canceled   .     .      .     .      .     .      .  .  .  .  .  .     .    .     .    .    .
";

fn state(name: &str) -> TaskState {
    match name {
        "queued" => TaskState::Queued { attempt: CURRENT, not_before: NOW, avoid: None },
        "later" => TaskState::Queued { attempt: CURRENT, not_before: NOW.after_millis(1), avoid: None },
        "init" => TaskState::Initializing(PLACEMENT),
        "running" => TaskState::Running(PLACEMENT),
        "finalizing" => TaskState::Finalizing(PLACEMENT),
        "cancel-i" => TaskState::Canceling { placement: PLACEMENT, shown: Shown::Initializing },
        "cancel-r" => TaskState::Canceling { placement: PLACEMENT, shown: Shown::Running },
        "complete" => TaskState::Complete,
        "exec-error" => TaskState::ExecutorError,
        "sys-error" => TaskState::SystemError,
        "canceled" => TaskState::Canceled,
        other => panic!("no such state: {other}"),
    }
}

fn event(name: &str) -> TaskEvent {
    let attempt = if name.ends_with('\'') { CURRENT - 1 } else { CURRENT };
    let fault = |started| Ending::Lost { loss: Loss::NodeFault, started };
    match name.trim_end_matches('\'') {
        "place" => TaskEvent::Placed(CHOSEN),
        "cancel" => TaskEvent::CancelRequested,
        "start" => TaskEvent::Started(attempt),
        "final" => TaskEvent::Finalizing(attempt),
        "C" => TaskEvent::Ended(attempt, Ending::Complete),
        "E" => TaskEvent::Ended(attempt, Ending::ExecutorError),
        "S" => TaskEvent::Ended(attempt, Ending::SystemError),
        "X" => TaskEvent::Ended(attempt, Ending::Canceled),
        "lost0" => TaskEvent::Ended(attempt, fault(false)),
        "lost" => TaskEvent::Ended(attempt, fault(true)),
        "stop" => TaskEvent::Ended(attempt, Ending::Lost { loss: Loss::NodeStopped, started: true }),
        "gone" => TaskEvent::Lost(attempt, Loss::LeaseEnded),
        other => panic!("no such event: {other}"),
    }
}

fn expected(code: &str) -> Result<TaskState, Refused> {
    Ok(match code {
        "." => return Err(Refused),
        "I" => TaskState::Initializing(Placement { attempt: CURRENT, node: CHOSEN }),
        "R" => TaskState::Running(PLACEMENT),
        "F" => TaskState::Finalizing(PLACEMENT),
        "ci" => state("cancel-i"),
        "cr" => state("cancel-r"),
        "C" => TaskState::Complete,
        "E" => TaskState::ExecutorError,
        "S" => TaskState::SystemError,
        "X" => TaskState::Canceled,
        // The second attempt was lost: the back-off has doubled once.
        "Q" => TaskState::Queued {
            attempt: CURRENT + 1,
            not_before: NOW.after_millis(2 * BACKOFF_FIRST_MILLIS),
            avoid: Some(HERE),
        },
        "Q!" => TaskState::Queued { attempt: CURRENT + 1, not_before: NOW, avoid: None },
        other => panic!("no such result: {other}"),
    })
}

#[test]
fn every_state_takes_every_event_as_the_table_says() {
    let mut lines = TABLE.lines().filter(|line| !line.is_empty());
    let events: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(events.len(), 17);
    let mut rows = 0;
    for line in lines {
        let mut words = line.split_whitespace();
        let state_name = words.next().unwrap();
        let codes: Vec<_> = words.collect();
        assert_eq!(codes.len(), events.len(), "row {state_name}");
        for (event_name, code) in events.iter().zip(codes) {
            let result = state(state_name).step(NOW, event(event_name), RULE);
            assert_eq!(result, expected(code), "{state_name} × {event_name}");
        }
        rows += 1;
    }
    assert_eq!(rows, 11);
}

#[test]
fn what_had_started_is_run_again_only_where_the_rule_says_so() {
    let lost = TaskEvent::Lost(CURRENT, Loss::LeaseEnded);
    let always = RetryRule { started: true, ..RULE };
    assert_eq!(state("running").step(NOW, lost, RULE), Ok(TaskState::SystemError));
    assert!(matches!(state("running").step(NOW, lost, always), Ok(TaskState::Queued { attempt: 3, .. })));
}

#[test]
fn the_last_attempt_is_the_last() {
    let rule = RetryRule { started: true, attempts_max: CURRENT };
    let fault = event("lost0");
    assert_eq!(state("init").step(NOW, fault, rule), Ok(TaskState::SystemError));
    assert!(matches!(state("init").step(NOW, event("stop"), rule), Ok(TaskState::Queued { .. })));
}

#[test]
fn back_off_doubles_up_to_its_limit() {
    let rule = RetryRule { started: true, attempts_max: u32::MAX };
    let wait = |attempt| {
        let state = TaskState::Initializing(Placement { attempt, node: HERE });
        match state.step(NOW, TaskEvent::Lost(attempt, Loss::LeaseEnded), rule) {
            Ok(TaskState::Queued { not_before, .. }) => not_before.0 - NOW.0,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([wait(1), wait(2), wait(3)], [5_000, 10_000, 20_000]);
    assert_eq!(wait(1000), BACKOFF_MAX_MILLIS);
}
