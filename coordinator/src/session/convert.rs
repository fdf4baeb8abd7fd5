//! The wire's words and ours. The only file besides the session itself that knows both; what an agent says
//! is checked here before anybody believes it.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use teamster_proto::agent::v1 as wire;
use teamster_values::{TaskId, has_wildcards, without_escapes};
use tonic::Status;

use crate::attempt_log::{AttemptLog, ExecutorLog, OutputFileLog};
use crate::board::{Amount, StorageView};
use crate::cluster::{Ending, Loss};
use crate::controller::{AgentHello, AgentOffer, HeldAttempt, Stage, ToAgent};
use crate::parameters::TaskPolicy;
use crate::spec::{self, FileType, TaskSpec};

/// More than this of anything is a broken agent: 1 PiB, or as many thousandths of a CPU.
const CAPACITY_MAX: u64 = 1 << 50;

/// The longest reason for which a node takes no new tasks.
const CLOSED_CHARACTERS_MAX: usize = 200;

/// The longest note of how far an attempt is. As many tasks as are prepared at a time may have one.
const NOTE_CHARACTERS_MAX: usize = 500;

/// The most that the metadata of an attempt may take.
const METADATA_BYTES_MAX: usize = 16 << 10;

pub(super) fn hello(hello: wire::Hello) -> Result<AgentHello, Status> {
    let capacity = hello.capacity.unwrap_or_default();
    let capacity = Amount {
        cpu_milli: capacity.cpu_milli,
        memory_bytes: capacity.memory_bytes,
        disk_bytes: capacity.disk_bytes,
    };
    if capacity.cpu_milli.max(capacity.memory_bytes).max(capacity.disk_bytes) > CAPACITY_MAX {
        return Err(Status::invalid_argument("the capacity is beyond belief"));
    }
    Ok(AgentHello {
        node_id: hello.node_id,
        boot_id: hello.boot_id,
        capacity,
        storages: storages(hello.storages),
        closed: closed(hello.closed),
        networks: hello.networks,
        versions: hello.versions.into_iter().collect(),
        lacks: hello.lacks,
    })
}

pub(super) fn offer(heartbeat: wire::Heartbeat) -> AgentOffer {
    let (versions, lacks) = (heartbeat.versions, heartbeat.lacks);
    let has_changed = !versions.is_empty() || !lacks.is_empty();
    AgentOffer {
        storages: storages(heartbeat.storages),
        closed: closed(heartbeat.closed),
        programs: has_changed.then(|| (versions.into_iter().collect(), lacks)),
    }
}

/// Why a node takes no new tasks, at most so much of it as people read.
pub(super) fn closed(reason: String) -> Option<String> {
    (!reason.is_empty()).then(|| reason.chars().take(CLOSED_CHARACTERS_MAX).collect())
}

pub(super) fn storages(offers: Vec<wire::StorageOffer>) -> Vec<StorageView> {
    offers.into_iter().map(|offer| StorageView { name: offer.name, path: offer.path, ok: offer.ok }).collect()
}

pub(super) fn held(held: wire::Held) -> Result<HeldAttempt, Status> {
    let stage = match (held.stage(), held.result) {
        (wire::Stage::Ended, Some(result)) => ended(result)?,
        (wire::Stage::Running, _) => Stage::Running { executor: 0, since: Timestamp::now() },
        (wire::Stage::Finalizing, _) => Stage::Finalizing,
        // What a newer agent means by an unknown stage is not known to have started.
        (wire::Stage::Preparing | wire::Stage::Unspecified, _) => Stage::Preparing { note: None },
        (wire::Stage::Ended, None) => {
            return Err(Status::invalid_argument("an attempt that ended needs its result"));
        }
    };
    Ok(HeldAttempt { task: task(&held.task_id)?, attempt: held.attempt, stage })
}

pub(super) fn report(report: wire::Report) -> Result<HeldAttempt, Status> {
    use wire::report::Body;
    let stage = match report.body {
        Some(Body::Result(result)) => ended(result)?,
        Some(Body::Progress(progress)) => match progress.stage() {
            wire::Stage::Running => Stage::Running {
                executor: progress.executor,
                since: timestamp(progress.since_unix_micros).unwrap_or_else(Timestamp::now),
            },
            wire::Stage::Finalizing => Stage::Finalizing,
            _ => Stage::Preparing { note: note(&progress.note) },
        },
        None => Stage::Preparing { note: None },
    };
    Ok(HeldAttempt { task: task(&report.task_id)?, attempt: report.attempt, stage })
}

/// One line, at most so much of it as people read.
fn note(text: &str) -> Option<String> {
    let printable = text.chars().filter(|character| !character.is_control());
    Some(printable.take(NOTE_CHARACTERS_MAX).collect()).filter(|note: &String| !note.is_empty())
}

fn task(id: &str) -> Result<TaskId, Status> {
    id.parse().map_err(|error| Status::invalid_argument(format!("task_id: {error}")))
}

fn ended(result: wire::Result) -> Result<Stage, Status> {
    let started = result.started;
    let ending = match result.outcome() {
        wire::Outcome::Complete => Ending::Complete,
        wire::Outcome::ExecutorError => Ending::ExecutorError,
        wire::Outcome::SystemError => Ending::SystemError,
        wire::Outcome::Canceled => Ending::Canceled,
        wire::Outcome::Lost => Ending::Lost { loss: loss(result.loss_cause()), started },
        wire::Outcome::Unspecified => Ending::Lost { loss: Loss::NodeFault, started },
    };
    Ok(Stage::Ended { ending, log: Box::new(log(result)) })
}

fn loss(cause: wire::LossCause) -> Loss {
    match cause {
        wire::LossCause::Reboot => Loss::Reboot,
        wire::LossCause::LeaseEnded => Loss::LeaseEnded,
        wire::LossCause::NodeStopped => Loss::NodeStopped,
        wire::LossCause::NodeFault | wire::LossCause::Unspecified => Loss::NodeFault,
    }
}

fn log(result: wire::Result) -> AttemptLog {
    let executors = result.executors.into_iter().map(|log| ExecutorLog {
        start_time: timestamp(log.start_unix_micros),
        end_time: timestamp(log.end_unix_micros),
        exit_code: log.exit_code,
        stdout: log.stdout_tail,
        stderr: log.stderr_tail,
        stdout_bytes: log.stdout_bytes,
        stderr_bytes: log.stderr_bytes,
        out_of_memory: log.out_of_memory,
    });
    let outputs = result.outputs.into_iter().map(|file| OutputFileLog {
        url: file.url,
        path: file.path,
        size_bytes: file.size_bytes,
    });
    AttemptLog {
        start_time: timestamp(result.start_unix_micros),
        end_time: timestamp(result.end_unix_micros),
        executors: executors.collect(),
        outputs: outputs.collect(),
        system_logs: result.system_logs,
        metadata: metadata(result.metadata, result.reason),
        node: None,
    }
}

/// What was measured, and why it did not end well. A healthy agent has a dozen short entries; more than
/// [`METADATA_BYTES_MAX`] is a broken one's, and is cut.
fn metadata(measured: HashMap<String, String>, reason: String) -> BTreeMap<String, String> {
    let mut entries: BTreeMap<_, _> = measured.into_iter().collect();
    if !reason.is_empty() {
        entries.insert("reason".to_owned(), reason);
    }
    let mut room = METADATA_BYTES_MAX;
    entries.retain(|key, value| {
        let size = key.len() + value.len();
        let fits = size <= room;
        room -= if fits { size } else { 0 };
        fits
    });
    entries
}

/// Zero is the wire's word for "not known".
fn timestamp(unix_micros: i64) -> Option<Timestamp> {
    (unix_micros != 0).then(|| Timestamp::from_microsecond(unix_micros).ok()).flatten()
}

pub(super) fn command(command: ToAgent, policy: &TaskPolicy) -> wire::Command {
    use wire::command::Body;
    let body = match command {
        ToAgent::Start { task, attempt, spec, lease } => {
            let mut assignment = assignment(&spec, policy);
            assignment.task_id = task.to_string();
            assignment.attempt = attempt;
            assignment.lease_millis = lease.as_millis() as u64;
            Body::Start(assignment)
        }
        ToAgent::Stop { task, attempt } => Body::Stop(wire::Stop { task_id: task.to_string(), attempt }),
        ToAgent::Forget { task, attempt } => {
            Body::Forget(wire::Forget { task_id: task.to_string(), attempt })
        }
    };
    wire::Command { body: Some(body) }
}

fn assignment(spec: &TaskSpec, policy: &TaskPolicy) -> wire::Assignment {
    let parameters = spec.resources.as_ref().map(|resources| resources.backend_parameters.clone());
    let parameters = parameters.unwrap_or_default();
    let (cpu_milli, memory_bytes, disk_bytes) = spec.need();
    wire::Assignment {
        executors: spec.executors.iter().map(executor).collect(),
        inputs: spec.inputs.iter().map(input).collect(),
        outputs: spec.outputs.iter().map(output).collect(),
        volumes: spec.volumes.clone(),
        network: spec.network().unwrap_or_default().to_owned(),
        limits: Some(wire::Capacity { cpu_milli, memory_bytes, disk_bytes }),
        time_limit_millis: policy.time_limit(&parameters).map_or(0, |time| time.as_millis() as u64),
        image_entrypoint: policy.image_entrypoint(&parameters),
        ..wire::Assignment::default()
    }
}

fn executor(executor: &spec::Executor) -> wire::Executor {
    wire::Executor {
        image: executor.image.clone(),
        command: executor.command.clone(),
        workdir: executor.workdir.clone().unwrap_or_default(),
        stdin: executor.stdin.clone().unwrap_or_default(),
        stdout: executor.stdout.clone().unwrap_or_default(),
        stderr: executor.stderr.clone().unwrap_or_default(),
        env: executor.env.clone().into_iter().collect(),
        ignore_error: executor.ignore_error.unwrap_or(false),
    }
}

fn input(input: &spec::Input) -> wire::Input {
    use wire::input::Source;
    let content = input.content.clone().filter(|content| !content.is_empty());
    let source = match (content, &input.url) {
        (Some(content), _) => Source::Content(content),
        (None, Some(url)) => Source::Url(url.clone()),
        // An empty `content` and no URL: an empty file.
        (None, None) => Source::Content(String::new()),
    };
    wire::Input {
        path: input.path.clone(),
        directory: input.file_type == Some(FileType::Directory),
        source: Some(source),
    }
}

fn output(output: &spec::Output) -> wire::Output {
    let is_pattern = has_wildcards(&output.path);
    wire::Output {
        path: if is_pattern { output.path.clone() } else { without_escapes(&output.path) },
        directory: output.file_type == Some(FileType::Directory),
        url: output.url.clone(),
        // By the specification it is ignored where there are no wildcards.
        path_prefix: output.path_prefix.clone().filter(|_| is_pattern).unwrap_or_default(),
    }
}
