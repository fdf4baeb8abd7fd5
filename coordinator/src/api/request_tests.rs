//! Requests that are refused, each with what it is told, and hostile ones.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};

use super::stand::Stand;

/// A sound task with `fields` put over it.
fn task(fields: Value) -> Value {
    let mut task = json!({ "executors": [{ "image": "i", "command": ["c"] }] });
    task.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    task
}

fn executor(fields: Value) -> Value {
    let mut executor = json!({ "image": "i", "command": ["c"] });
    executor.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({ "executors": [executor] })
}

fn input(fields: Value) -> Value {
    let mut input = json!({ "url": "/mnt/shared/x", "path": "/x" });
    input.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    task(json!({ "inputs": [input] }))
}

fn output(fields: Value) -> Value {
    let mut output = json!({ "url": "/mnt/shared/x", "path": "/x" });
    output.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    task(json!({ "outputs": [output] }))
}

async fn check(cases: Vec<(Value, &str)>) {
    let stand = Stand::new();
    for (sent, message) in cases {
        assert_eq!(stand.refused(sent.to_string()).await, message, "{sent}");
    }
    let listed = stand.get("/v1/tasks").await.json();
    assert_eq!(listed, json!({ "tasks": [] }), "nothing refused was kept");
}

#[tokio::test]
async fn names_every_error_at_once() {
    let sent = json!({
        "name": 7,
        "inputs": [{}, { "url": "s3://b/x", "path": "x" }],
        "resources": { "cpu_cores": -1, "ram_gb": "2" },
        "executors": [{ "image": "", "command": [] }, 5]
    });
    let message = "name: must be a string, not a number; \
        inputs[0].path: is required; \
        inputs[0].url: is required unless content is given; \
        inputs[1].path: must be an absolute path; \
        inputs[1].url: the scheme 's3' is not served; served is file:///mnt/shared, file:///tmp/clients; \
        resources.cpu_cores: must not be negative; \
        resources.ram_gb: must be a number, not a string; \
        executors[0].image: must not be empty; \
        executors[0].command: must have at least one element; \
        executors[1]: must be an object, not a number";
    check(vec![(sent, message)]).await;
}

#[tokio::test]
async fn executors() {
    check(vec![
        (json!({}), "executors: is required"),
        (json!({ "executors": null }), "executors: is required"),
        (json!({ "executors": [] }), "executors: must have at least one element"),
        (json!({ "executors": {} }), "executors: must be a list, not an object"),
        (json!({ "executors": [{}] }), "executors[0].image: is required; executors[0].command: is required"),
        (executor(json!({ "image": "a b" })), "executors[0].image: must not contain white space"),
        (executor(json!({ "command": "c" })), "executors[0].command: must be a list, not a string"),
        (executor(json!({ "command": [""] })), "executors[0].command[0]: must not be empty"),
        (executor(json!({ "command": ["c", 1] })), "executors[0].command[1]: must be a string, not a number"),
        (executor(json!({ "command": ["c", null] })), "executors[0].command[1]: must be a string, not null"),
        (executor(json!({ "command": ["c\u{0}"] })), "executors[0].command[0]: must not contain a NUL byte"),
        (
            executor(json!({ "command": ["c", "x".repeat(131_072)] })),
            "executors[0].command[1]: must not be longer than 131071 bytes",
        ),
        (executor(json!({ "workdir": "w" })), "executors[0].workdir: must be an absolute path"),
        (
            executor(json!({ "workdir": "/proc" })),
            "executors[0].workdir: must not lie in /proc, /sys or /dev",
        ),
        (executor(json!({ "stdin": "x" })), "executors[0].stdin: must be an absolute path"),
        (executor(json!({ "stdout": "/" })), "executors[0].stdout: must not be the root directory"),
        (
            executor(json!({ "stderr": "/dev/stdout" })),
            "executors[0].stderr: must not lie in /proc, /sys or /dev",
        ),
        (
            executor(json!({ "ignore_error": "yes" })),
            "executors[0].ignore_error: must be true or false, not a string",
        ),
        (
            executor(json!({ "env": { "A=B": "1" } })),
            "executors[0].env[\"A=B\"]: the name of a variable must not be empty or contain '='",
        ),
        (
            executor(json!({ "env": { "": "1" } })),
            "executors[0].env[\"\"]: the name of a variable must not be empty or contain '='",
        ),
        (
            executor(json!({ "env": { "A": "\u{0}" } })),
            "executors[0].env[\"A\"]: must not contain a NUL byte",
        ),
        (executor(json!({ "env": { "A": 1 } })), "executors[0].env[\"A\"]: must be a string, not a number"),
        (executor(json!({ "env": [] })), "executors[0].env: must be an object, not a list"),
    ])
    .await;
}

#[tokio::test]
async fn files() {
    check(vec![
        (input(json!({ "path": null })), "inputs[0].path: is required"),
        (input(json!({ "path": "/a/../b" })), "inputs[0].path: must not contain '..'"),
        (input(json!({ "path": "/./" })), "inputs[0].path: must not be the root directory"),
        (input(json!({ "path": "//sys/x" })), "inputs[0].path: must not lie in /proc, /sys or /dev"),
        (input(json!({ "url": "" })), "inputs[0].url: is required unless content is given"),
        (input(json!({ "url": "x/y" })), "inputs[0].url: must be an absolute path"),
        (input(json!({ "url": "file://host/x" })), "inputs[0].url: a file URL must not name a host: write file:///path"),
        (
            input(json!({ "url": "/mnt/shared-evil/x" })),
            "inputs[0].url: /mnt/shared-evil/x does not lie on shared storage; served is file:///mnt/shared, file:///tmp/clients",
        ),
        (input(json!({ "url": "/mnt/shared/%2e%2e/../etc/shadow" })), "inputs[0].url: must not contain '..'"),
        (input(json!({ "url": "file:///mnt/shared/%2e%2e/etc/shadow" })), "inputs[0].url: must not contain '..'"),
        (
            input(json!({ "url": "/proc/self/root/etc/passwd" })),
            "inputs[0].url: /proc/self/root/etc/passwd does not lie on shared storage; served is file:///mnt/shared, file:///tmp/clients",
        ),
        (input(json!({ "type": "FIFO" })), "inputs[0].type: must be FILE or DIRECTORY"),
        (input(json!({ "content": "a\u{0}" })), "inputs[0].content: must not contain a NUL byte"),
        (
            input(json!({ "url": null, "content": "x", "type": "DIRECTORY" })),
            "inputs[0].type: must be FILE where content is given",
        ),
        (input(json!({ "streamable": 1 })), "inputs[0].streamable: must be true or false, not a number"),
        (output(json!({ "url": null })), "outputs[0].url: is required"),
        (output(json!({ "path": "" })), "outputs[0].path: must not be empty"),
        (output(json!({ "path": "/dev" })), "outputs[0].path: must not lie in /proc, /sys or /dev"),
        (
            output(json!({ "path": "/w/?" })),
            "outputs[0].path_prefix: is required where path has wildcards (a backslash makes * ? [ a part of the name)",
        ),
        (
            output(json!({ "path": "/w/a/*", "path_prefix": "/w/b" })),
            "outputs[0].path_prefix: must be a directory that path names before its first wildcard",
        ),
        (
            output(json!({ "path": "/w/a*/b", "path_prefix": "/w/a*" })),
            "outputs[0].path_prefix: must be a directory that path names before its first wildcard",
        ),
        (output(json!({ "path": "/w/*", "path_prefix": "w" })), "outputs[0].path_prefix: must be an absolute path"),
        (output(json!({ "path": "/*", "path_prefix": "/" })), "outputs[0].path: must have a directory above its first wildcard"),
        (output(json!({ "path": "/proc/*", "path_prefix": "/" })), "outputs[0].path: must not lie in /proc, /sys or /dev"),
        (output(json!({ "path": "/w/../*", "path_prefix": "/w" })), "outputs[0].path: must not contain '..'"),
        (output(json!({ "path": "w/*", "path_prefix": "/w" })), "outputs[0].path: must be an absolute path"),
        (
            output(json!({ "path": "/w/[[:x:]]", "path_prefix": "/w" })),
            "outputs[0].path: has the unknown character class '[:x:]'",
        ),
        (task(json!({ "outputs": "x" })), "outputs: must be a list, not a string"),
        (task(json!({ "volumes": ["/", "v"] })), "volumes[0]: must not be the root directory; volumes[1]: must be an absolute path"),
    ])
    .await;
}

#[tokio::test]
async fn names_that_look_like_wildcards_are_taken() {
    let stand = Stand::new();
    for path in ["/w/a\\[1\\].txt", "/w/a[1", "/w/\\*", "/w/a b(1)]"] {
        let sent = output(json!({ "path": path, "path_prefix": "/ignored" }));
        let id = stand.create(&sent).await;
        let shown = stand.get(&format!("/v1/tasks/{id}?view=BASIC")).await.json();
        assert_eq!(shown["outputs"], sent["outputs"]);
    }
}

#[tokio::test]
async fn resources_and_labels() {
    let resources = |fields: Value| task(json!({ "resources": fields }));
    check(vec![
        (task(json!({ "resources": [] })), "resources: must be an object, not a list"),
        (resources(json!({ "cpu_cores": -0.5 })), "resources.cpu_cores: must not be negative"),
        (resources(json!({ "cpu_cores": 9_223_372_036_854_775_808u64 })), "resources.cpu_cores: must not be larger than 1000000"),
        (resources(json!({ "ramGb": 1e300 })), "resources.ram_gb: must not be larger than 1000000000"),
        (resources(json!({ "disk_gb": true })), "resources.disk_gb: must be a number, not a boolean"),
        (resources(json!({ "preemptible": "no" })), "resources.preemptible: must be true or false, not a string"),
        (resources(json!({ "zones": "z" })), "resources.zones: must be a list, not a string"),
        (
            resources(json!({ "backend_parameters": { "VmSize": "x" }, "backend_parameters_strict": true })),
            "resources.backend_parameters[\"VmSize\"]: is not supported, and backend_parameters_strict is true",
        ),
        (
            resources(json!({ "backend_parameters": { "Timeout": "soon", "entrypoint": "docker" } })),
            "resources.backend_parameters[\"timeout\"]: must be a time such as \"2h\" or \"90min\", or a number of \
             seconds; resources.backend_parameters[\"entrypoint\"]: must be \"image\" or \"none\"",
        ),
        (task(json!({ "tags": { "a": 1 } })), "tags[\"a\"]: must be a string, not a number"),
        (task(json!({ "tags": { "a\u{0}": "" } })), "tags[\"a\\0\"]: must not contain a NUL byte"),
        (
            task(json!({ "tags": { "a": "x".repeat(40_000), "b": "x".repeat(40_000) } })),
            "tags: must not be longer than 65536 bytes in all",
        ),
        (task(json!({ "name": "x".repeat(1 << 20) })), "name: must not be longer than 4096 bytes"),
    ])
    .await;
}

#[tokio::test]
async fn json_that_is_none() {
    let stand = Stand::new();
    let deep = "[".repeat(10_000);
    let deep_but_closed = format!("{{\"x\":{}{}}}", "[".repeat(200), "]".repeat(200));
    for (sent, part) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{\n \"name\": }", "expected value at line 2 column 10"),
        ("{} x", "trailing characters"),
        (deep.as_str(), "recursion limit exceeded"),
        (deep_but_closed.as_str(), "recursion limit exceeded"),
        (r#"{"resources":{"ram_gb":1e400}}"#, "number out of range"),
        (r#"{"resources":{"ram_gb":NaN}}"#, "expected value"),
        (r#"{"name":"a","executors":[],"name":"b"}"#, "the key \"name\" stands twice in one object"),
        (r#"{"name":"\ud800"}"#, "unexpected end of hex escape"),
    ] {
        let message = stand.refused(sent.to_owned()).await;
        let shown = &sent[..sent.len().min(40)];
        assert!(
            message.starts_with("the body is not valid JSON: ") && message.contains(part),
            "{shown}: {message}"
        );
    }
    assert!(stand.refused(vec![b'{', b'"', 0xff, b'"', b'}']).await.contains("invalid unicode"));
    for sent in ["[]", "null", "7", "\"x\""] {
        assert_eq!(stand.refused(sent).await, "the body must be a JSON object that describes a task");
    }
}

#[tokio::test]
async fn floods() {
    let stand = Stand::new();
    let zeros = format!("{{\"x\":[0{}]}}", ",0".repeat(2_000_000));
    assert_eq!(stand.refused(zeros).await, "the body must not hold more than 1000000 values");
    let inputs = vec![json!({ "url": "/mnt/shared/x", "path": "/x" }); 100_000];
    let message = stand.refused(task(json!({ "inputs": inputs })).to_string()).await;
    assert_eq!(message, "inputs: must not have more than 50000 elements, it has 100000");
    let bad = vec![json!({}); 1_000];
    let message = stand.refused(task(json!({ "outputs": bad })).to_string()).await;
    assert!(message.ends_with("; and 1960 more") && message.len() < 4_000, "{message}");
    let large = task(json!({ "inputs": [{ "path": "/x", "content": "x".repeat(33 << 20) }] })).to_string();
    for chunked in [false, true] {
        let body = if chunked {
            Body::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(large.clone())]))
        } else {
            Body::from(large.clone())
        };
        let answer = stand.send(Request::post("/v1/tasks").body(body).unwrap()).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(answer.json()["msg"], "the request body is larger than 33554432 bytes");
    }
    let fits = task(json!({ "inputs": [{ "path": "/x", "content": "x".repeat(8 << 20) }] }));
    stand.create(&fits).await;
}

#[tokio::test]
async fn odd_texts_come_back_as_they_are() {
    let stand = Stand::new();
    let odd = "../../x;rm -rf /$(id)%n\n\u{1b}[31m\u{202e}<script>é\u{7f}";
    let sent = task(json!({ "name": odd, "tags": { odd: odd }, "description": odd }));
    let id = stand.create(&sent).await;
    let shown = stand.get(&format!("/v1/tasks/{id}?view=FULL")).await.json();
    for field in ["name", "tags", "description"] {
        assert_eq!(shown[field], sent[field]);
    }
}

#[tokio::test]
async fn content_beats_the_url() {
    let stand = Stand::new();
    let id = stand.create(&input(json!({ "url": "s3://ignored/x", "content": "x", "type": "file" }))).await;
    let shown = stand.get(&format!("/v1/tasks/{id}?view=FULL")).await.json();
    let expected = json!({ "url": "s3://ignored/x", "path": "/x", "content": "x", "type": "FILE" });
    assert_eq!(shown["inputs"][0], expected);
}
