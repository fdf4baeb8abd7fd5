//! A controller that finds tasks on disk: they are known as soon as somebody speaks of them, and not before.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use teamster_values::TaskId;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::{AgentHello, CancelAnswer, Event, Handle, HeldAttempt, Parts, Stage, ToAgent, start};
use crate::attempt_log::AttemptLog;
use crate::board::{Amount, Board};
use crate::cluster::{Ending, Policy};
use crate::disk::{Guard, HOLD};
use crate::metrics::Metrics;
use crate::spec::TaskSpec;
use crate::store::{self, Asks, Change, FinalState, LiveRow, LiveState, Reader, Status, Want};

const QUEUED: u8 = 1;
const ALSO_QUEUED: u8 = 2;
const RUNNING: u8 = 3;
const ENDED: u8 = 4;
const UNKNOWN: u8 = 9;

fn id(seq: u8) -> TaskId {
    TaskId::from_bytes([seq; 16])
}

fn accepted(seq: u8) -> Change {
    Change::Accepted {
        seq: seq.into(),
        id: id(seq),
        owner: "o".into(),
        created: Timestamp::UNIX_EPOCH,
        spec: Arc::new(TaskSpec { name: Some(format!("t{seq}")), ..TaskSpec::default() }),
        asks: Asks { cpu_milli: 1000, ..Asks::default() },
        notes: vec![format!("note {seq}")],
    }
}

fn rows() -> Vec<Change> {
    let mut rows: Vec<_> = [QUEUED, ALSO_QUEUED, RUNNING, ENDED].map(accepted).into();
    let running = LiveRow {
        state: LiveState::Running,
        attempt: 1,
        node: Some("n".into()),
        since: Some(Timestamp::UNIX_EPOCH),
        ..LiveRow::queued(Asks { cpu_milli: 1000, ..Asks::default() })
    };
    rows.push(Change::Live { seq: RUNNING.into(), row: running });
    rows.push(Change::Finished { seq: ENDED.into(), state: FinalState::Complete });
    rows
}

struct Bench {
    controller: Handle,
    reader: Reader,
    _directory: TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut opened = store::open(directory.path()).unwrap();
        opened.writer.commit(&rows()).unwrap();
        let board = Arc::new(Board::default());
        let metrics = Metrics::new(board.clone());
        let policy = Policy {
            retry_started_always: false,
            attempts_max: 1,
            lease_millis: 60_000,
            preemptible_lease_millis: 60_000,
            lease_margin_millis: 60_000,
        };
        let parts = Parts {
            writer: opened.writer,
            reader: opened.reader.clone(),
            board,
            policy,
            storages: Vec::new(),
            task_retention: Duration::from_secs(1 << 40),
            stranger_retention: Duration::from_secs(60),
            room: Guard::new(directory.path(), 0, HOLD, metrics.clone()).1,
            metrics,
        };
        let (controller, _) = start(parts).unwrap();
        Self { controller, reader: opened.reader, _directory: directory }
    }

    /// What the node "n" with room for two tasks is told when it comes with what it holds.
    async fn connect(&self, held: Vec<HeldAttempt>) -> mpsc::Receiver<ToAgent> {
        let agent = Box::new(AgentHello {
            node_id: "n".into(),
            boot_id: "b".into(),
            capacity: Amount { cpu_milli: 2000, ..Amount::default() },
            storages: Vec::new(),
            closed: None,
            networks: Vec::new(),
            versions: Default::default(),
            lacks: Vec::new(),
        });
        let (outbox, told) = mpsc::channel(16);
        let connected = |reply| Event::AgentConnected { agent, held, outbox, reply };
        self.controller.ask(connected).await.unwrap().unwrap();
        told
    }

    fn status(&self, seq: u8) -> Status {
        self.reader.task(&id(seq), Want::Status).unwrap().unwrap().status
    }
}

async fn next(told: &mut mpsc::Receiver<ToAgent>) -> ToAgent {
    timeout(Duration::from_secs(30), told.recv()).await.unwrap().unwrap()
}

fn ended(task: u8) -> HeldAttempt {
    let stage = Stage::Ended { ending: Ending::Complete, log: Box::default() };
    HeldAttempt { task: id(task), attempt: 1, stage }
}

#[tokio::test]
async fn what_waited_is_placed_with_all_that_is_to_be_known_of_it() {
    let bench = Bench::new();
    let running = Stage::Running { executor: 0, since: Timestamp::UNIX_EPOCH };
    let held = vec![HeldAttempt { task: id(RUNNING), attempt: 1, stage: running }];
    let mut told = bench.connect(held).await;
    let ToAgent::Start { task, attempt, spec, .. } = next(&mut told).await else { panic!("it is started") };
    assert_eq!((task, attempt, spec.name.as_deref()), (id(QUEUED), 1, Some("t1")));
    let Status::Live(row) = bench.status(QUEUED) else { panic!("it lives") };
    assert_eq!((row.state, row.attempt, row.node.as_deref()), (LiveState::Initializing, 1, Some("n")));
    assert_eq!((row.notes, row.asks.cpu_milli), (vec!["note 1".to_owned()], 1000));
    let Status::Live(row) = bench.status(ALSO_QUEUED) else { panic!("it lives") };
    assert_eq!(row.state, LiveState::Queued, "there is no room for it");
}

#[tokio::test]
async fn an_end_is_taken_once_and_what_is_left_of_it_may_go() {
    let bench = Bench::new();
    let mut told = bench.connect(vec![ended(ENDED), ended(RUNNING), ended(UNKNOWN)]).await;
    let mut forgotten = Vec::new();
    while forgotten.len() < 2 {
        if let ToAgent::Forget { task, attempt: 1 } = next(&mut told).await {
            forgotten.push(task);
        }
    }
    forgotten.sort();
    assert_eq!(forgotten, [id(RUNNING), id(ENDED)], "what nobody knows here is kept");
    assert!(matches!(bench.status(RUNNING), Status::Final(row) if row.notes == ["note 3"]));
    let found = bench.reader.task(&id(RUNNING), Want::Everything).unwrap().unwrap();
    let [(1, AttemptLog { node: Some(node), .. })] = &found.attempts[..] else { panic!("{found:?}") };
    assert_eq!(node, "n");
}

#[tokio::test]
async fn what_waited_can_be_canceled() {
    let bench = Bench::new();
    for (task, expected) in
        [(QUEUED, CancelAnswer::Accepted), (ENDED, CancelAnswer::Accepted), (UNKNOWN, CancelAnswer::Unknown)]
    {
        assert_eq!(bench.controller.cancel(id(task), "somebody".into()).await.unwrap(), expected);
    }
    let Status::Final(row) = bench.status(QUEUED) else { panic!("it has ended") };
    assert_eq!(row.state, FinalState::Canceled);
    assert!(row.notes[0] == "note 1" && row.notes[1].contains("somebody"), "{:?}", row.notes);
    assert!(matches!(bench.status(ENDED), Status::Final(row) if row.state == FinalState::Complete));
    assert!(matches!(bench.status(ALSO_QUEUED), Status::Live(_)));
}
