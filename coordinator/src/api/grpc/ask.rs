//! What is asked over gRPC, as REST would have been asked: a task as the JSON of a body, the rest as the
//! parameters of a query. Checks nothing. A text that is empty where the contract has no `optional` is absent.

use std::collections::HashMap;

use serde_json::{Map, Value};
use teamster_proto::tes::v1 as wire;

use super::super::tasks::Parameters;

/// The JSON of a submitted task.
pub(super) fn task(task: wire::Task) -> Value {
    // Whatever else there is are the server's own fields.
    let wire::Task { name, description, inputs, outputs, resources, executors, volumes, tags, .. } = task;
    let mut object = Map::new();
    put(&mut object, "name", name);
    put(&mut object, "description", description);
    put_list(&mut object, "inputs", inputs.into_iter().map(input));
    put_list(&mut object, "outputs", outputs.into_iter().map(output));
    put(&mut object, "resources", resources.map(self::resources));
    put_list(&mut object, "executors", executors.into_iter().map(executor));
    put_list(&mut object, "volumes", volumes);
    put_map(&mut object, "tags", tags);
    Value::Object(object)
}

/// The parameters of a view.
pub(super) fn view(view: i32) -> Parameters {
    let mut parameters = Parameters::new();
    parameters.extend(view_name(view).map(|name| ("view".to_owned(), name)));
    parameters
}

/// The parameters of a list.
pub(super) fn list(request: wire::ListTasksRequest) -> Parameters {
    let wire::ListTasksRequest { view, name_prefix, state, tags, page_size, page_token } = request;
    let mut parameters = self::view(view);
    let mut add = |name: &str, value: String| parameters.push((name.to_owned(), value));
    add("name_prefix", name_prefix);
    add("page_token", page_token);
    add("state", name_of(wire::State::try_from(state).map(|s| s.as_str_name()), "STATE_", state));
    add("page_size", page_size.map(|size| size.to_string()).unwrap_or_default());
    for (key, value) in tags {
        add("tag_key", key);
        add("tag_value", value);
    }
    parameters
}

fn view_name(view: i32) -> Option<String> {
    let name = name_of(wire::View::try_from(view).map(|v| v.as_str_name()), "VIEW_", view);
    Some(name).filter(|name| !name.is_empty())
}

/// The name of an enum's value in REST's words: nothing when it is unspecified, the bare number when it is
/// none that we know, which is refused like any wrong name.
fn name_of<E>(name: Result<&'static str, E>, prefix: &str, number: i32) -> String {
    match name {
        Ok(_) if number == 0 => String::new(),
        Ok(name) => name.strip_prefix(prefix).unwrap_or(name).to_owned(),
        Err(_) => number.to_string(),
    }
}

fn input(input: wire::Input) -> Value {
    let wire::Input { name, description, url, path, r#type, content, streamable } = input;
    let mut object = Map::new();
    put(&mut object, "name", name);
    put(&mut object, "description", description);
    put(&mut object, "url", url);
    put(&mut object, "path", filled(path));
    put(&mut object, "type", file_type(r#type));
    put(&mut object, "content", content);
    put(&mut object, "streamable", streamable);
    Value::Object(object)
}

fn output(output: wire::Output) -> Value {
    let wire::Output { name, description, url, path, path_prefix, r#type } = output;
    let mut object = Map::new();
    put(&mut object, "name", name);
    put(&mut object, "description", description);
    put(&mut object, "url", filled(url));
    put(&mut object, "path", filled(path));
    put(&mut object, "path_prefix", path_prefix);
    put(&mut object, "type", file_type(r#type));
    Value::Object(object)
}

fn resources(resources: wire::Resources) -> Value {
    let mut object = Map::new();
    put(&mut object, "cpu_cores", resources.cpu_cores.map(number));
    put(&mut object, "preemptible", resources.preemptible);
    put(&mut object, "ram_gb", resources.ram_gb.map(number));
    put(&mut object, "disk_gb", resources.disk_gb.map(number));
    put_list(&mut object, "zones", resources.zones);
    put_map(&mut object, "backend_parameters", resources.backend_parameters);
    put(&mut object, "backend_parameters_strict", resources.backend_parameters_strict);
    Value::Object(object)
}

fn executor(executor: wire::Executor) -> Value {
    let wire::Executor { image, command, workdir, stdin, stdout, stderr, env, ignore_error } = executor;
    let mut object = Map::new();
    put(&mut object, "image", filled(image));
    put_list(&mut object, "command", command);
    put(&mut object, "workdir", workdir);
    put(&mut object, "stdin", stdin);
    put(&mut object, "stdout", stdout);
    put(&mut object, "stderr", stderr);
    put_map(&mut object, "env", env);
    put(&mut object, "ignore_error", ignore_error);
    Value::Object(object)
}

fn file_type(number: i32) -> Option<String> {
    filled(name_of(wire::FileType::try_from(number).map(|t| t.as_str_name()), "FILE_TYPE_", number))
}

/// JSON has no infinite number and none that is not one; as texts they are refused by their place.
fn number(number: f64) -> Value {
    serde_json::Number::from_f64(number).map_or_else(|| Value::String(number.to_string()), Value::Number)
}

fn filled(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn put(object: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object.insert(name.to_owned(), value.into());
    }
}

fn put_list<T: Into<Value>>(
    object: &mut Map<String, Value>,
    name: &str,
    values: impl IntoIterator<Item = T>,
) {
    let values: Vec<Value> = values.into_iter().map(Into::into).collect();
    put(object, name, Some(values).filter(|values| !values.is_empty()));
}

fn put_map(object: &mut Map<String, Value>, name: &str, values: HashMap<String, String>) {
    let values: Map<String, Value> = values.into_iter().map(|(key, value)| (key, value.into())).collect();
    put(object, name, Some(values).filter(|values| !values.is_empty()));
}
