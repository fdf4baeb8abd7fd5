//! What was submitted -> a task that can be run, or every error in it at once. The only maker of a
//! `TaskSpec` from user input: past this point a spec is known to be sound.
//!
//! What only a node can know (whether a path is free in an image, whether a file exists) is left to the
//! agents.

use serde_json::Value;
use teamster_values::{
    AbsolutePath, PathPattern, StorageUrlError, has_wildcards, parse_storage_url, without_escapes,
};

use super::backend_parameters::{self, BACKEND_PARAMETERS};
use super::error::ApiError;
use super::fields::{Errors, Object};
use super::json;
use crate::config::Config;
use crate::parameters::{self, TaskPolicy};
use crate::spec::{Executor, FileType, Input, Output, Resources, TaskSpec};

/// The largest body. Engines that gather thousands of files in one task send several megabytes.
pub(super) const BODY_BYTES_MAX: usize = 32 << 20;

/// Values in one body. A parsed value takes some ten times the bytes of a short one in the text, so the
/// size alone would let a small body fill the memory.
pub(super) const JSON_VALUES_MAX: usize = 1_000_000;

const NAME_BYTES_MAX: usize = 4 << 10;
const DESCRIPTION_BYTES_MAX: usize = 64 << 10;
const URL_BYTES_MAX: usize = 8 << 10;
const PATH_BYTES_MAX: usize = 4 << 10;
/// What Linux takes as one argument or one `NAME=value`, without the NUL at its end.
const ARGUMENT_BYTES_MAX: usize = (128 << 10) - 1;
/// Labels are read with every list, so they stay small.
const TAGS_BYTES_MAX: usize = 64 << 10;
const FILES_MAX: usize = 50_000;
const EXECUTORS_MAX: usize = 1_000;
const ELEMENTS_MAX: usize = 50_000;
const CPU_CORES_MAX: f64 = 1e6;
/// Sums of such sizes in bytes must not leave 64 bits.
const SIZE_GIB_MAX: f64 = 1e9;

/// Name of the short form's command. Other systems' documents show it, TES does not know it.
const SHORT_FORM: &str = "commandLine";

/// Trees that the kernel provides: nothing is ever put there.
const KERNEL_TREES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// What was submitted, checked.
#[derive(Debug)]
pub(super) struct Checked {
    /// A task that can be run.
    pub(super) spec: TaskSpec,
    /// What was left out of it, for its system log.
    pub(super) notes: Vec<String>,
}

/// The task in `body`.
pub(super) fn parse(body: &[u8], config: &Config) -> Result<Checked, ApiError> {
    if has_too_many_values(body) {
        return Err(ApiError::Invalid(format!("the body must not hold more than {JSON_VALUES_MAX} values")));
    }
    let value = json::parse(body)
        .map_err(|error| ApiError::Invalid(format!("the body is not valid JSON: {error}")))?;
    if !value.is_object() {
        return Err(ApiError::Invalid("the body must be a JSON object that describes a task".to_owned()));
    }
    check(value, config)
}

/// The task in `value`, however it came in.
pub(super) fn check(value: Value, config: &Config) -> Result<Checked, ApiError> {
    let (mut errors, mut notes) = (Errors::default(), Vec::new());
    let spec = Object::new(String::new(), value, &mut errors)
        .map(|mut object| task(&mut object, config, &mut notes));
    match (errors.into_text(), spec) {
        (None, Some(spec)) => Ok(Checked { spec, notes }),
        (text, _) => Err(ApiError::Invalid(text.unwrap_or_default())),
    }
}

/// Counts what separates values, outside of texts.
fn has_too_many_values(body: &[u8]) -> bool {
    let (mut count, mut in_text, mut escaped) = (0, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b',' | b'[' | b'{' if !in_text => count += 1,
            _ => {}
        }
    }
    count > JSON_VALUES_MAX
}

/// `tesTask`. `id`, `state`, `logs` and `creation_time` are the server's own: what is sent is ignored.
fn task(object: &mut Object<'_>, config: &Config, notes: &mut Vec<String>) -> TaskSpec {
    let storage = &config.storage;
    let spec = TaskSpec {
        name: object.text("name", NAME_BYTES_MAX),
        description: object.text("description", DESCRIPTION_BYTES_MAX),
        inputs: object.objects("inputs", FILES_MAX, |object| input(object, storage)),
        outputs: object.objects("outputs", FILES_MAX, |object| output(object, storage)),
        resources: object.object("resources", |object| resources(object, &config.task_policy(), notes)),
        volumes: object.texts("volumes", ELEMENTS_MAX, PATH_BYTES_MAX),
        tags: object.map("tags", TAGS_BYTES_MAX),
        executors: executors(object, config.default_image.as_deref()),
    };
    for (index, volume) in spec.volumes.iter().enumerate() {
        check_container_path(object, &format!("volumes[{index}]"), volume);
    }
    if spec.tags.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > TAGS_BYTES_MAX {
        object.refuse("tags", format_args!("must not be longer than {TAGS_BYTES_MAX} bytes in all"));
    }
    spec
}

/// `executors`, or the short form of a task: one command, for the image that the operator chose.
fn executors(object: &mut Object<'_>, default_image: Option<&str>) -> Vec<Executor> {
    if object.is_absent("executors") && !object.is_absent(SHORT_FORM) {
        let Some(image) = default_image else {
            let reason = "needs an image, and `default_image` is not set in the coordinator's configuration; \
                          give `executors` instead";
            object.refuse(SHORT_FORM, reason);
            return Vec::new();
        };
        let command = command(object, SHORT_FORM);
        return vec![Executor { image: image.to_owned(), command, ..Executor::default() }];
    }
    object.require_elements("executors");
    object.objects("executors", EXECUTORS_MAX, executor)
}

/// `tesExecutor`
fn executor(object: &mut Object<'_>) -> Option<Executor> {
    let image = object.required_text("image", NAME_BYTES_MAX);
    if image.as_deref().is_some_and(|image| image.contains(char::is_whitespace)) {
        object.refuse("image", "must not contain white space");
    }
    let command = command(object, "command");
    let workdir = object.filled_text("workdir", PATH_BYTES_MAX);
    if let Some(path) = &workdir {
        // Unlike every other path it may be the root: nothing is mounted there, and engines send it.
        check_path(object, "workdir", path);
    }
    let executor = Executor {
        image: image.unwrap_or_default(),
        command,
        workdir,
        stdin: stream_path(object, "stdin"),
        stdout: stream_path(object, "stdout"),
        stderr: stream_path(object, "stderr"),
        env: object.map("env", ARGUMENT_BYTES_MAX),
        ignore_error: object.boolean("ignore_error"),
    };
    check_environment(object, &executor);
    Some(executor)
}

/// An exact argument vector.
fn command(object: &mut Object<'_>, name: &str) -> Vec<String> {
    object.require_elements(name);
    let command = object.texts(name, ELEMENTS_MAX, ARGUMENT_BYTES_MAX);
    if command.first().is_some_and(String::is_empty) {
        object.refuse(&format!("{name}[0]"), "must not be empty");
    }
    command
}

fn stream_path(object: &mut Object<'_>, name: &str) -> Option<String> {
    let path = object.filled_text(name, PATH_BYTES_MAX)?;
    check_container_path(object, name, &path);
    Some(path)
}

fn check_environment(object: &mut Object<'_>, executor: &Executor) {
    for (key, value) in &executor.env {
        let name = format!("env[{key:?}]");
        if key.is_empty() || key.contains('=') {
            object.refuse(&name, "the name of a variable must not be empty or contain '='");
        }
        if key.len() + 1 + value.len() > ARGUMENT_BYTES_MAX {
            object.refuse(&name, format_args!("must not be longer than {ARGUMENT_BYTES_MAX} bytes"));
        }
    }
}

/// `tesInput`
fn input(object: &mut Object<'_>, storage: &[AbsolutePath]) -> Option<Input> {
    let path = object.required_text("path", PATH_BYTES_MAX);
    if let Some(path) = &path {
        check_container_path(object, "path", path);
    }
    let url = object.filled_text("url", URL_BYTES_MAX);
    let has_content = !object.is_absent("content");
    let content = object.text("content", BODY_BYTES_MAX);
    let file_type = file_type(object);
    // By the specification a URL is ignored beside content that is not empty.
    if content.as_deref().is_none_or(str::is_empty) {
        match &url {
            Some(url) => check_url(object, url, storage),
            None if has_content => {}
            None => object.refuse("url", "is required unless content is given"),
        }
    }
    if has_content && url.is_none() && file_type == Some(FileType::Directory) {
        object.refuse("type", "must be FILE where content is given");
    }
    Some(Input {
        name: object.text("name", NAME_BYTES_MAX),
        description: object.text("description", DESCRIPTION_BYTES_MAX),
        url,
        path: path?,
        file_type,
        content,
        streamable: object.boolean("streamable"),
    })
}

/// `tesOutput`
fn output(object: &mut Object<'_>, storage: &[AbsolutePath]) -> Option<Output> {
    let path = object.required_text("path", PATH_BYTES_MAX);
    let path_prefix = object.filled_text("path_prefix", PATH_BYTES_MAX);
    match &path {
        Some(path) if has_wildcards(path) => check_wildcards(object, path, path_prefix.as_deref()),
        Some(path) => check_container_path(object, "path", &without_escapes(path)),
        None => {}
    }
    let url = object.required_text("url", URL_BYTES_MAX);
    if let Some(url) = &url {
        check_url(object, url, storage);
    }
    Some(Output {
        name: object.text("name", NAME_BYTES_MAX),
        description: object.text("description", DESCRIPTION_BYTES_MAX),
        file_type: file_type(object),
        path_prefix,
        url: url?,
        path: path?,
    })
}

/// By the specification a path with wildcards needs the prefix that is taken off what matches.
fn check_wildcards(object: &mut Object<'_>, path: &str, prefix: Option<&str>) {
    let pattern = match PathPattern::parse(path) {
        Ok(pattern) => pattern,
        Err(error) => return object.refuse("path", error),
    };
    if pattern.directory().is_root() {
        return object.refuse("path", "must have a directory above its first wildcard");
    }
    check_container_path(object, "path", pattern.directory().as_str());
    let Some(prefix) = prefix else {
        let reason = "is required where path has wildcards (a backslash makes * ? [ a part of the name)";
        return object.refuse("path_prefix", reason);
    };
    match AbsolutePath::parse(prefix) {
        Err(error) => object.refuse("path_prefix", error),
        Ok(prefix) if pattern.below(&prefix).is_none() => {
            object.refuse("path_prefix", "must be a directory that path names before its first wildcard");
        }
        Ok(_) => {}
    }
}

fn file_type(object: &mut Object<'_>) -> Option<FileType> {
    let text = object.filled_text("type", NAME_BYTES_MAX)?;
    match text.to_ascii_uppercase().as_str() {
        "FILE" => return Some(FileType::File),
        "DIRECTORY" => return Some(FileType::Directory),
        _ => object.refuse("type", "must be FILE or DIRECTORY"),
    }
    None
}

/// `tesResources`
fn resources(object: &mut Object<'_>, policy: &TaskPolicy, notes: &mut Vec<String>) -> Resources {
    let sent = object.map("backend_parameters", BODY_BYTES_MAX);
    let backend_parameters_strict = object.boolean("backend_parameters_strict");
    let chosen = backend_parameters::choose(sent, &BACKEND_PARAMETERS);
    for (key, reason) in chosen.wrong {
        object.refuse(&format!("backend_parameters[{key:?}]"), reason);
    }
    for (key, reason) in parameters::wrong(&chosen.supported, policy) {
        object.refuse(&format!("backend_parameters[{key:?}]"), reason);
    }
    if backend_parameters_strict == Some(true) {
        for key in chosen.unsupported.iter().chain(&chosen.meaningless) {
            object.refuse(
                &format!("backend_parameters[{key:?}]"),
                "is not supported, and backend_parameters_strict is true",
            );
        }
    }
    notes.extend(backend_parameters::warning(&chosen.unsupported));
    Resources {
        cpu_cores: object.number("cpu_cores", CPU_CORES_MAX),
        preemptible: object.boolean("preemptible"),
        ram_gb: object.number("ram_gb", SIZE_GIB_MAX),
        disk_gb: object.number("disk_gb", SIZE_GIB_MAX),
        zones: object.texts("zones", ELEMENTS_MAX, NAME_BYTES_MAX),
        backend_parameters: chosen.supported,
        backend_parameters_strict,
    }
}

/// A place where something is mounted or written.
fn check_container_path(object: &mut Object<'_>, name: &str, path: &str) {
    if check_path(object, name, path).is_some_and(|path| path.is_root()) {
        object.refuse(name, "must not be the root directory");
    }
}

fn check_path(object: &mut Object<'_>, name: &str, text: &str) -> Option<AbsolutePath> {
    let path = match AbsolutePath::parse(text) {
        Ok(path) => path,
        Err(error) => {
            object.refuse(name, error);
            return None;
        }
    };
    let component = path.as_str().split('/').nth(1).unwrap_or_default();
    if KERNEL_TREES.iter().any(|tree| tree.strip_prefix('/') == Some(component)) {
        object.refuse(name, "must not lie in /proc, /sys or /dev");
    }
    Some(path)
}

fn check_url(object: &mut Object<'_>, url: &str, storage: &[AbsolutePath]) {
    let served = || storage.iter().map(|root| format!("file://{root}")).collect::<Vec<_>>().join(", ");
    match parse_storage_url(url) {
        Err(StorageUrlError::Scheme(scheme)) if !storage.is_empty() => {
            object.refuse("url", format_args!("the scheme '{scheme}' is not served; served is {}", served()));
        }
        Err(error) => object.refuse("url", error),
        Ok(path) if storage.iter().any(|root| path.starts_with(root)) => {}
        Ok(_) if storage.is_empty() => object.refuse("url", "this cluster has no shared storage"),
        Ok(path) => {
            object
                .refuse("url", format_args!("{path} does not lie on shared storage; served is {}", served()));
        }
    }
}
