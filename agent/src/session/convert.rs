//! The wire's words and ours. What the coordinator says is checked here before anybody acts on it; what it
//! means for this node is decided elsewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use teamster_proto::agent::v1 as wire;
use teamster_values::{AbsolutePath, PathPattern, Reason};

use super::Offer;
use crate::assignment::{
    Assignment, AttemptId, AttemptResult, Command, Executor, FileKind, Held, Input, InputSource, LossCause,
    Network, Outcome, Output, Report, Resources, Stage, Wildcards,
};

/// A command that cannot be understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    /// The attempt that it is about, if it says so.
    pub(super) id: Option<AttemptId>,
    /// Every field that is wrong, and what is wrong with it.
    pub(super) reason: String,
}

pub(super) fn command(command: wire::Command) -> Result<Command, Malformed> {
    use wire::command::Body;
    match command.body {
        Some(Body::Start(start)) => assignment(start).map(|start| Command::Start(Box::new(start))),
        Some(Body::Stop(stop)) => attempt_id(&stop.task_id, stop.attempt).map(Command::Stop),
        Some(Body::Forget(forget)) => attempt_id(&forget.task_id, forget.attempt).map(Command::Forget),
        None => {
            Err(Malformed { id: None, reason: "it is of a kind that this agent does not know".to_owned() })
        }
    }
}

fn attempt_id(task: &str, attempt: u32) -> Result<AttemptId, Malformed> {
    let malformed = |reason: String| Malformed { id: None, reason };
    let task = task.parse().map_err(|error| malformed(format!("task_id: {error}")))?;
    if attempt == 0 {
        return Err(malformed("attempt: counts from 1".to_owned()));
    }
    Ok(AttemptId { task, attempt })
}

/// The result of an assignment that cannot be understood.
pub(super) fn refusal(reason: &str) -> AttemptResult {
    let now = Timestamp::now();
    AttemptResult {
        outcome: Outcome::SystemError,
        started: false,
        executors: Vec::new(),
        outputs: Vec::new(),
        system_logs: vec![
            Reason::TaskRefused.line(format!("the node cannot understand the assignment: {reason}")),
        ],
        reason: Some(Reason::TaskRefused),
        metadata: BTreeMap::new(),
        start_time: now,
        end_time: now,
    }
}

/// Collects every wrong field, so that all are told at once.
#[derive(Default)]
struct Fields {
    wrong: Vec<String>,
}

impl Fields {
    fn path(&mut self, name: impl FnOnce() -> String, text: &str) -> AbsolutePath {
        AbsolutePath::parse(text).unwrap_or_else(|error| {
            self.wrong.push(format!("{}: {error}", name()));
            AbsolutePath::root()
        })
    }

    fn optional_path(&mut self, name: impl FnOnce() -> String, text: &str) -> Option<AbsolutePath> {
        (!text.is_empty()).then(|| self.path(name, text))
    }
}

fn assignment(start: wire::Assignment) -> Result<Assignment, Malformed> {
    let id = attempt_id(&start.task_id, start.attempt)?;
    let mut fields = Fields::default();
    let mut executors = Vec::new();
    for (index, executor) in start.executors.into_iter().enumerate() {
        executors.push(self::executor(&mut fields, index, executor));
    }
    let mut inputs = Vec::new();
    for (index, input) in start.inputs.into_iter().enumerate() {
        let path = fields.path(|| format!("inputs[{index}].path"), &input.path);
        let source = match input.source {
            Some(wire::input::Source::Url(url)) => InputSource::Url(url),
            Some(wire::input::Source::Content(content)) => InputSource::Content(content),
            None => {
                fields.wrong.push(format!("inputs[{index}]: needs a url or content"));
                continue;
            }
        };
        inputs.push(Input { path, kind: kind(input.directory), source });
    }
    let mut outputs = Vec::new();
    for (index, output) in start.outputs.into_iter().enumerate() {
        outputs.push(self::output(&mut fields, index, output));
    }
    let mut volumes = Vec::new();
    for (index, volume) in start.volumes.iter().enumerate() {
        volumes.push(fields.path(|| format!("volumes[{index}]"), volume));
    }
    let network = (!start.network.is_empty()).then(|| start.network.parse::<Network>());
    let network = network.transpose().unwrap_or_else(|reason| {
        fields.wrong.push(format!("network: {reason}"));
        None
    });
    if start.limits.is_none() {
        fields.wrong.push("limits: must be set".to_owned());
    }
    if start.lease_millis == 0 {
        fields.wrong.push("lease_millis: must be above 0".to_owned());
    }
    if !fields.wrong.is_empty() {
        return Err(Malformed { id: Some(id), reason: fields.wrong.join("; ") });
    }
    let limits = start.limits.unwrap_or_default();
    Ok(Assignment {
        network,
        id,
        executors,
        inputs,
        outputs,
        volumes,
        limits: Resources {
            cpu_milli: limits.cpu_milli,
            memory_bytes: limits.memory_bytes,
            disk_bytes: limits.disk_bytes,
        },
        lease: Duration::from_millis(start.lease_millis),
        time_limit: (start.time_limit_millis > 0).then(|| Duration::from_millis(start.time_limit_millis)),
        image_entrypoint: start.image_entrypoint,
    })
}

fn output(fields: &mut Fields, index: usize, output: wire::Output) -> Output {
    let kind = kind(output.directory);
    if output.path_prefix.is_empty() {
        let path = fields.path(|| format!("outputs[{index}].path"), &output.path);
        return Output { path, kind, url: output.url, wildcards: None };
    }
    let prefix = fields.path(|| format!("outputs[{index}].path_prefix"), &output.path_prefix);
    match PathPattern::parse(&output.path) {
        Ok(pattern) => {
            let path = pattern.directory();
            Output { path, kind, url: output.url, wildcards: Some(Wildcards { pattern, prefix }) }
        }
        Err(error) => {
            fields.wrong.push(format!("outputs[{index}].path: {error}"));
            Output { path: AbsolutePath::root(), kind, url: output.url, wildcards: None }
        }
    }
}

fn executor(fields: &mut Fields, index: usize, executor: wire::Executor) -> Executor {
    let name = |field: &'static str| move || format!("executors[{index}].{field}");
    Executor {
        image: executor.image,
        command: executor.command,
        workdir: fields.optional_path(name("workdir"), &executor.workdir),
        stdin: fields.optional_path(name("stdin"), &executor.stdin),
        stdout: fields.optional_path(name("stdout"), &executor.stdout),
        stderr: fields.optional_path(name("stderr"), &executor.stderr),
        env: executor.env.into_iter().collect(),
        ignore_error: executor.ignore_error,
    }
}

fn kind(directory: bool) -> FileKind {
    if directory { FileKind::Directory } else { FileKind::File }
}

pub(super) fn capacity(resources: &Resources) -> wire::Capacity {
    wire::Capacity {
        cpu_milli: resources.cpu_milli,
        memory_bytes: resources.memory_bytes,
        disk_bytes: resources.disk_bytes,
    }
}

pub(super) fn offers(offers: &[Offer]) -> Vec<wire::StorageOffer> {
    let offer = |offer: &Offer| wire::StorageOffer {
        name: offer.name.clone(),
        path: offer.path.clone(),
        ok: offer.ok,
    };
    offers.iter().map(offer).collect()
}

pub(super) fn held(held: Held) -> wire::Held {
    let (id, stage, result) = match held {
        Held::Live(id, stage) => (id, wire_stage(&stage), None),
        Held::Ended(id, result) => (id, wire::Stage::Ended, Some(self::result(*result))),
    };
    wire::Held { task_id: id.task.to_string(), attempt: id.attempt, stage: stage.into(), result }
}

pub(super) fn report(report: Report) -> wire::Report {
    use wire::report::Body;
    let (id, body) = match report {
        Report::Progress(id, stage) => (id, Body::Progress(progress(&stage))),
        Report::Note(id, note) => {
            (id, Body::Progress(wire::Progress { note, ..progress(&Stage::Preparing) }))
        }
        Report::Ended(id, result) => (id, Body::Result(self::result(*result))),
    };
    wire::Report { task_id: id.task.to_string(), attempt: id.attempt, body: Some(body) }
}

fn wire_stage(stage: &Stage) -> wire::Stage {
    match stage {
        Stage::Preparing => wire::Stage::Preparing,
        Stage::Running { .. } => wire::Stage::Running,
        Stage::Finalizing => wire::Stage::Finalizing,
    }
}

fn progress(stage: &Stage) -> wire::Progress {
    let (executor, since_unix_micros) = match stage {
        Stage::Running { executor, since } => (*executor, since.as_microsecond()),
        Stage::Preparing | Stage::Finalizing => (0, 0),
    };
    let stage = wire_stage(stage).into();
    wire::Progress { stage, executor, since_unix_micros, note: String::new() }
}

fn result(result: AttemptResult) -> wire::Result {
    let (outcome, loss_cause) = match result.outcome {
        Outcome::Complete => (wire::Outcome::Complete, wire::LossCause::Unspecified),
        Outcome::ExecutorError => (wire::Outcome::ExecutorError, wire::LossCause::Unspecified),
        Outcome::SystemError => (wire::Outcome::SystemError, wire::LossCause::Unspecified),
        Outcome::Canceled => (wire::Outcome::Canceled, wire::LossCause::Unspecified),
        Outcome::Lost(cause) => (wire::Outcome::Lost, loss_cause(cause)),
    };
    let executors = result.executors.into_iter().map(|log| wire::ExecutorLog {
        exit_code: log.exit_code,
        start_unix_micros: log.start_time.as_microsecond(),
        end_unix_micros: log.end_time.as_microsecond(),
        stdout_tail: log.stdout_tail,
        stderr_tail: log.stderr_tail,
        out_of_memory: log.out_of_memory,
        stdout_bytes: log.stdout_bytes,
        stderr_bytes: log.stderr_bytes,
    });
    let outputs = result.outputs.into_iter().map(|file| wire::OutputFile {
        url: file.url,
        path: file.path,
        size_bytes: file.size_bytes,
    });
    wire::Result {
        outcome: outcome.into(),
        loss_cause: loss_cause.into(),
        started: result.started,
        executors: executors.collect(),
        outputs: outputs.collect(),
        system_logs: result.system_logs,
        start_unix_micros: result.start_time.as_microsecond(),
        end_unix_micros: result.end_time.as_microsecond(),
        metadata: result.metadata.into_iter().collect(),
        reason: result.reason.map(|reason| reason.code().to_owned()).unwrap_or_default(),
    }
}

fn loss_cause(cause: LossCause) -> wire::LossCause {
    match cause {
        LossCause::Reboot => wire::LossCause::Reboot,
        LossCause::NodeFault => wire::LossCause::NodeFault,
        LossCause::LeaseEnded => wire::LossCause::LeaseEnded,
        LossCause::NodeStopped => wire::LossCause::NodeStopped,
    }
}
