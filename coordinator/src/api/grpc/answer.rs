//! REST's views as gRPC messages. Leaves out nothing and adds nothing.

use jiff::Timestamp;
use teamster_proto::tes::v1 as wire;

use super::super::list::ListView;
use super::super::response::{ExecutorLogView, OutputFileLogView, TaskLogView, TaskView};
use crate::board::Progress;
use crate::spec::{Executor, FileType, Input, Output, Resources, TaskSpec};

pub(super) fn list(list: ListView) -> wire::ListTasksResponse {
    let ListView { tasks, next_page_token } = list;
    wire::ListTasksResponse { tasks: tasks.into_iter().map(task).collect(), next_page_token }
}

pub(super) fn task(task: TaskView) -> wire::Task {
    let TaskView { id, state, spec, logs, creation_time } = task;
    let TaskSpec { name, description, inputs, outputs, resources, executors, volumes, tags } =
        spec.unwrap_or_default();
    wire::Task {
        id: id.to_string(),
        state: wire::State::from_str_name(&format!("STATE_{state}")).unwrap_or_default().into(),
        name,
        description,
        inputs: inputs.into_iter().map(input).collect(),
        outputs: outputs.into_iter().map(output).collect(),
        resources: resources.map(self::resources),
        executors: executors.into_iter().map(executor).collect(),
        volumes,
        tags: tags.into_iter().collect(),
        logs: logs.into_iter().map(task_log).collect(),
        creation_time: creation_time.as_ref().map(Timestamp::to_string),
    }
}

/// What runs; how far preparing it is stands in the system log.
pub(super) fn progress(progress: Progress) -> Option<wire::Progress> {
    match progress {
        Progress::Running { executor, since } => Some(wire::Progress { executor, since: since.to_string() }),
        Progress::Preparing { .. } => None,
    }
}

fn input(input: Input) -> wire::Input {
    let Input { name, description, url, path, file_type, content, streamable } = input;
    wire::Input { name, description, url, path, r#type: self::file_type(file_type), content, streamable }
}

fn output(output: Output) -> wire::Output {
    let Output { name, description, url, path, path_prefix, file_type } = output;
    wire::Output { name, description, url, path, path_prefix, r#type: self::file_type(file_type) }
}

fn resources(resources: Resources) -> wire::Resources {
    let Resources {
        cpu_cores,
        preemptible,
        ram_gb,
        disk_gb,
        zones,
        backend_parameters,
        backend_parameters_strict,
    } = resources;
    wire::Resources {
        cpu_cores,
        preemptible,
        ram_gb,
        disk_gb,
        zones,
        backend_parameters: backend_parameters.into_iter().collect(),
        backend_parameters_strict,
    }
}

fn executor(executor: Executor) -> wire::Executor {
    let Executor { image, command, workdir, stdin, stdout, stderr, env, ignore_error } = executor;
    let env = env.into_iter().collect();
    wire::Executor { image, command, workdir, stdin, stdout, stderr, env, ignore_error }
}

fn file_type(file_type: Option<FileType>) -> i32 {
    let file_type = match file_type {
        None => wire::FileType::Unspecified,
        Some(FileType::File) => wire::FileType::File,
        Some(FileType::Directory) => wire::FileType::Directory,
    };
    file_type.into()
}

fn task_log(log: TaskLogView) -> wire::TaskLog {
    let TaskLogView { logs, metadata, start_time, end_time, outputs, system_logs } = log;
    wire::TaskLog {
        logs: logs.into_iter().map(executor_log).collect(),
        metadata: metadata.into_iter().collect(),
        start_time: start_time.as_ref().map(Timestamp::to_string),
        end_time: end_time.as_ref().map(Timestamp::to_string),
        outputs: outputs.into_iter().map(output_file_log).collect(),
        system_logs,
    }
}

fn executor_log(log: ExecutorLogView) -> wire::ExecutorLog {
    let ExecutorLogView { start_time, end_time, stdout, stderr, exit_code } = log;
    let filled = |text: String| Some(text).filter(|text| !text.is_empty());
    wire::ExecutorLog {
        start_time: start_time.as_ref().map(Timestamp::to_string),
        end_time: end_time.as_ref().map(Timestamp::to_string),
        stdout: filled(stdout),
        stderr: filled(stderr),
        exit_code,
    }
}

fn output_file_log(file: OutputFileLogView) -> wire::OutputFileLog {
    let OutputFileLogView { url, path, size_bytes } = file;
    // No file has more than half of what 64 bits count.
    let size_bytes = size_bytes.map(|size| i64::try_from(size).unwrap_or(i64::MAX));
    wire::OutputFileLog { url, path, size_bytes }
}
