//! `/openapi.json` against what is served: every route is in it, everything in it answers, and answers have
//! the form that it says.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use teamster_values::TaskId;

use super::stand::{Answer, Stand};
use super::tests::{rows, task_id};

/// What `value` has that `schema` does not allow. Knows the part of JSON Schema that the document uses, and
/// refuses the rest, so that nothing in it is ignored.
fn faults(document: &Value, schema: &Value, value: &Value, place: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return faults(document, resolve(document, reference), value, place);
    }
    if value.is_null() && schema["nullable"] == true {
        return Vec::new();
    }
    let fits = match schema["type"].as_str().unwrap_or_else(|| panic!("{place}: a schema without type")) {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("{place}: a schema of type {other}"),
    };
    let mut found = Vec::new();
    if !fits {
        return vec![format!("{place}: {value} is no {}", schema["type"])];
    }
    for (key, rule) in schema.as_object().unwrap() {
        match key.as_str() {
            "type" | "nullable" | "description" | "default" | "properties" => {}
            "format" => found.extend(is_no_time(value).then(|| format!("{place}: {value} is no time"))),
            "enum" => {
                let is_known = rule.as_array().unwrap().contains(value);
                found.extend((!is_known).then(|| format!("{place}: {value} is none of {rule}")));
            }
            "minItems" => {
                let is_short = (value.as_array().unwrap().len() as u64) < rule.as_u64().unwrap();
                found.extend(is_short.then(|| format!("{place}: too short")));
            }
            "items" => {
                for (index, item) in value.as_array().unwrap().iter().enumerate() {
                    found.extend(faults(document, rule, item, &format!("{place}[{index}]")));
                }
            }
            "required" => {
                for name in rule.as_array().unwrap() {
                    let is_missing = value.get(name.as_str().unwrap()).is_none();
                    found.extend(is_missing.then(|| format!("{place}: {name} is missing")));
                }
            }
            "additionalProperties" => {
                let known = schema.get("properties");
                for (name, more) in value.as_object().unwrap() {
                    if known.is_some_and(|known| known.get(name).is_some()) {
                        continue;
                    }
                    match rule {
                        Value::Bool(false) => found.push(format!("{place}: {name} is not documented")),
                        rule => found.extend(faults(document, rule, more, &format!("{place}.{name}"))),
                    }
                }
            }
            other => panic!("{place}: the test does not know the rule '{other}'"),
        }
    }
    for (name, rule) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(member) = value.get(name) {
            found.extend(faults(document, rule, member, &format!("{place}.{name}")));
        }
    }
    found
}

fn is_no_time(value: &Value) -> bool {
    value.as_str().is_none_or(|text| text.parse::<jiff::Timestamp>().is_err())
}

fn resolve<'d>(document: &'d Value, reference: &str) -> &'d Value {
    let found = document.pointer(reference.strip_prefix('#').unwrap());
    found.unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

async fn document(stand: &Stand) -> Value {
    stand.get("/openapi.json").await.json()
}

/// Every documented path under every one of its servers, with what the document says of it.
fn documented(document: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let servers = item.get("servers").unwrap_or(&document["servers"]).as_array().unwrap();
        for server in servers {
            let base = server["url"].as_str().unwrap().trim_end_matches('/');
            found.push((format!("{base}{path}"), item));
        }
    }
    found
}

/// Holds an answer to what the document says of `method` and `path`.
fn check(document: &Value, method: &str, path: &str, answer: &Answer) {
    let all = documented(document);
    let (_, item) = all.iter().find(|(known, _)| known == path).unwrap_or_else(|| panic!("no {path}"));
    let status = answer.status.as_str();
    let mut response = &item[method]["responses"][status];
    assert!(response.is_object(), "{method} {path}: {status} is not documented");
    if let Some(reference) = response["$ref"].as_str() {
        response = resolve(document, reference);
    }
    let form = answer.headers["content-type"].to_str().unwrap().split(';').next().unwrap();
    let schema = &response["content"][form]["schema"];
    assert!(schema.is_object(), "{method} {path}: {form} is not documented");
    let value = if form == "application/json" { answer.json() } else { Value::String(answer.text()) };
    assert_eq!(faults(document, schema, &value, path), Vec::<String>::new(), "{value:#}");
}

#[tokio::test]
async fn answers_have_the_documented_form() {
    let stand = Stand::with(&rows());
    let document = document(&stand).await;
    let whole = json!({
        "name": "n", "description": "d", "tags": { "k": "v" }, "volumes": ["/v"],
        "resources": { "cpu_cores": 1, "ram_gb": 0.5, "disk_gb": 1, "preemptible": true },
        "inputs": [{ "path": "/i", "url": "/mnt/shared/i", "name": "i", "type": "DIRECTORY" }],
        "outputs": [{ "path": "/o", "url": "file:///mnt/shared/o", "description": "o", "type": "FILE" }],
        "executors": [{ "image": "i", "command": ["c"], "workdir": "/w", "stdin": "/s", "stdout": "/out",
                        "stderr": "/err", "env": { "A": "b" }, "ignore_error": true }],
    });
    let schema = json!({ "$ref": "#/components/schemas/NewTask" });
    assert_eq!(faults(&document, &schema, &whole, "NewTask"), Vec::<String>::new());
    for prefix in ["/v1", "/ga4gh/tes/v1"] {
        let tasks = format!("{prefix}/tasks");
        check(&document, "post", &tasks, &stand.post(&tasks, whole.to_string()).await);
        check(&document, "post", &tasks, &stand.post(&tasks, "{}").await);
        let foreign = Request::post(tasks.as_str()).header("host", "localhost:8000");
        let foreign = foreign.header("origin", "http://evil.example").body(Body::from("{}")).unwrap();
        check(&document, "post", &tasks, &stand.send(foreign).await);
        for query in ["", "?view=BASIC&page_size=2", "?view=FULL", "?state=COMPLETE", "?page_size=0"] {
            check(&document, "get", &tasks, &stand.get(&format!("{tasks}{query}")).await);
        }
        for path in [format!("{prefix}/service-info"), format!("{tasks}/service-info")] {
            check(&document, "get", &path, &stand.get(&path).await);
        }
        let (ended, unknown) = (task_id(1), TaskId::from_bytes([99; 16]));
        for id in [ended, task_id(2), task_id(3), unknown] {
            for query in ["", "?view=BASIC", "?view=FULL", "?view=ALL"] {
                let answer = stand.get(&format!("{tasks}/{id}{query}")).await;
                check(&document, "get", &format!("{tasks}/{{id}}"), &answer);
            }
            for query in ["", "?stream=stderr", "?stream=x"] {
                let answer = stand.get(&format!("{tasks}/{id}/logs{query}")).await;
                check(&document, "get", &format!("{tasks}/{{id}}/logs"), &answer);
            }
        }
        for id in [ended, unknown] {
            let answer = stand.post(&format!("{tasks}/{id}:cancel"), "").await;
            check(&document, "post", &format!("{tasks}/{{id}}:cancel"), &answer);
        }
    }
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/nodes"] {
        check(&document, "get", path, &stand.get(path).await);
    }
}

#[tokio::test]
async fn everything_documented_is_served() {
    let stand = Stand::with(&rows());
    let document = document(&stand).await;
    for (path, item) in documented(&document) {
        let path = path.replace("{id}", &task_id(1).to_string());
        for method in ["get", "post"].iter().filter(|method| item.get(**method).is_some()) {
            let method = method.to_uppercase();
            let request = Request::builder().method(method.as_str()).uri(&path);
            let answer = stand.send(request.body(Body::empty()).unwrap()).await;
            assert_ne!(answer.status, 404, "{method} {path}");
        }
    }
}

/// The router cannot be asked for its routes, so its source is.
#[tokio::test]
async fn every_route_is_documented() {
    let stand = Stand::new();
    let document = document(&stand).await;
    let paths = document["paths"].as_object().unwrap();
    let code = include_str!("mod.rs");
    let routes: Vec<&str> = code.split(".route(").skip(1).filter_map(|rest| rest.split('"').nth(1)).collect();
    assert!(routes.len() > 8, "{routes:?}");
    for route in routes {
        let handlers = code.split(&format!("\"{route}\"")).nth(1).unwrap();
        let handlers = &handlers[..handlers.find([';', '"']).unwrap()];
        assert!(paths.contains_key(route), "{route} is not in openapi.json");
        for method in ["get", "post"] {
            // `POST /tasks/{id}` is there for the verbs behind a colon.
            let documented = if route == "/tasks/{id}" && method == "post" {
                &paths["/tasks/{id}:cancel"]
            } else {
                &paths[route]
            };
            let is_served = handlers.contains(&format!("{method}("));
            assert_eq!(documented.get(method).is_some(), is_served, "{method} {route}");
        }
    }
}

#[test]
fn the_check_finds_faults() {
    let schema = json!({ "type": "object", "required": ["a"], "additionalProperties": false,
                         "properties": { "a": { "type": "array", "items": { "type": "integer" } } } });
    let found = |value: Value| faults(&json!({}), &schema, &value, "x").len();
    assert_eq!(found(json!({ "a": [1] })), 0);
    for wrong in
        [json!({}), json!({ "a": ["1"] }), json!({ "a": [], "b": 1 }), json!({ "a": null }), json!([])]
    {
        assert_eq!(found(wrong.clone()), 1, "{wrong}");
    }
}
