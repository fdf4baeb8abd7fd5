//! Tasks that come and go by gRPC are those of REST, and what is wrong with them is said in the same words.

use axum::http::Request;
use serde_json::{Value, json};
use teamster_proto::tes::v1 as wire;
use tonic::Code;
use wire::State;

use super::{Stand, small_task};

/// One task in both forms, with a value in every field that a client may fill.
fn both_forms() -> (Value, wire::Task) {
    let json = json!({
        "name": "n", "description": "",
        "inputs": [{ "name": "a", "description": "d", "url": "file:///mnt/shared/a", "path": "/in/a", "type": "FILE",
                     "streamable": false },
                   { "path": "/in/b", "content": "text" }],
        "outputs": [{ "name": "o", "url": "/mnt/shared/out", "path": "/out", "type": "DIRECTORY" }],
        "resources": { "cpu_cores": 0.5, "ram_gb": 2.0, "disk_gb": 3.5, "preemptible": true, "zones": ["z"],
                       "backend_parameters_strict": false },
        "executors": [{ "image": "i", "command": ["c", ""], "workdir": "/w", "stdin": "/in/a", "stdout": "/o",
                        "stderr": "/e", "env": { "A": "" }, "ignore_error": true }],
        "volumes": ["/v"], "tags": { "k": "", "l": "w" }
    });
    let some = |text: &str| Some(text.to_owned());
    let first = wire::Input {
        name: some("a"),
        description: some("d"),
        url: some("file:///mnt/shared/a"),
        path: "/in/a".into(),
        r#type: wire::FileType::File.into(),
        streamable: Some(false),
        content: None,
    };
    let second = wire::Input { path: "/in/b".into(), content: some("text"), ..wire::Input::default() };
    let output = wire::Output {
        name: some("o"),
        url: "/mnt/shared/out".into(),
        path: "/out".into(),
        r#type: wire::FileType::Directory.into(),
        ..wire::Output::default()
    };
    let resources = wire::Resources {
        cpu_cores: Some(0.5),
        ram_gb: Some(2.0),
        disk_gb: Some(3.5),
        preemptible: Some(true),
        zones: vec!["z".into()],
        backend_parameters_strict: Some(false),
        ..wire::Resources::default()
    };
    let executor = wire::Executor {
        image: "i".into(),
        command: vec!["c".into(), String::new()],
        workdir: some("/w"),
        stdin: some("/in/a"),
        stdout: some("/o"),
        stderr: some("/e"),
        env: [("A".to_owned(), String::new())].into(),
        ignore_error: Some(true),
    };
    let message = wire::Task {
        name: some("n"),
        description: some(""),
        inputs: vec![first, second],
        outputs: vec![output],
        resources: Some(resources),
        executors: vec![executor],
        volumes: vec!["/v".into()],
        tags: [("k".to_owned(), String::new()), ("l".to_owned(), "w".to_owned())].into(),
        // The server's own; what is sent is ignored.
        id: "mine".into(),
        state: State::Complete.into(),
        logs: vec![wire::TaskLog::default()],
        creation_time: some("never"),
    };
    (json, message)
}

#[tokio::test]
async fn a_task_is_the_same_by_whichever_door_it_comes_and_goes() {
    let mut stand = Stand::new().await;
    let (json, message) = both_forms();
    let by_grpc = stand.create(message.clone()).await.unwrap();
    let by_rest = stand.rest_create(&json).await["id"].as_str().unwrap().to_owned();
    let mut seen = stand.rest_get(&format!("/v1/tasks/{by_grpc}?view=FULL")).await;
    let mut expected = stand.rest_get(&format!("/v1/tasks/{by_rest}?view=FULL")).await;
    for (task, id) in [(&mut seen, &by_grpc), (&mut expected, &by_rest)] {
        assert_eq!(task["id"], **id);
        task["id"] = Value::Null;
        task["creation_time"] = Value::Null;
    }
    assert_eq!(seen, expected);
    for (key, value) in json.as_object().unwrap() {
        assert_eq!(seen[key], *value, "{key}");
    }

    for id in [&by_grpc, &by_rest] {
        let task = stand.get(id).await;
        assert!(task.creation_time.as_ref().is_some_and(|time| time.ends_with('Z')));
        assert_eq!((task.id.as_str(), task.state()), (id.as_str(), State::Queued));
        // It says why it waits: there is no node.
        assert!(task.logs[0].system_logs[0].contains("waiting for a node"));
        let task = wire::Task {
            id: message.id.clone(),
            state: message.state,
            logs: message.logs.clone(),
            creation_time: message.creation_time.clone(),
            ..task
        };
        assert_eq!(task, message);
    }
    let minimal = wire::GetTaskRequest { id: by_grpc.clone(), ..Default::default() };
    let minimal = stand.client.get_task(minimal).await.unwrap().into_inner();
    let expected = wire::Task { id: by_grpc, state: State::Queued.into(), ..wire::Task::default() };
    assert_eq!(minimal, expected);
}

#[tokio::test]
async fn what_is_wrong_is_told_in_the_words_of_rest() {
    let mut stand = Stand::new().await;
    let executor = wire::Executor { image: "a b".into(), workdir: Some("x".into()), ..Default::default() };
    let resources = wire::Resources { cpu_cores: Some(f64::NAN), ram_gb: Some(-1.0), ..Default::default() };
    let input = wire::Input { r#type: 77, url: Some("s3://b/k".into()), ..Default::default() };
    let wrong = wire::Task {
        executors: vec![executor],
        resources: Some(resources),
        inputs: vec![input],
        ..Default::default()
    };
    let refused = stand.create(wrong).await.unwrap_err();
    let json = json!({
        "executors": [{ "image": "a b", "workdir": "x" }], "resources": { "cpu_cores": "x", "ram_gb": -1.0 },
        "inputs": [{ "type": "77", "url": "s3://b/k" }]
    });
    assert_eq!(refused.code(), Code::InvalidArgument);
    let expected = stand.rest_create(&json).await;
    assert_eq!(refused.message(), expected["msg"].as_str().unwrap());
    for place in ["executors[0].image", "executors[0].command", "resources.cpu_cores", "inputs[0].path"] {
        assert!(refused.message().contains(place), "{place} in {}", refused.message());
    }
    let refused = stand.create(wire::Task::default()).await.unwrap_err();
    assert!(refused.message().contains("executors: is required"), "{}", refused.message());

    let long = wire::Executor { image: format!("{}  ", "ä".repeat(4000)), ..Default::default() };
    let many = wire::Task { executors: vec![long; 500], ..Default::default() };
    assert_eq!(
        stand.create(many).await.unwrap_err().code(),
        Code::InvalidArgument,
        "not too long to be told"
    );

    let request = wire::GetTaskRequest { id: "none".into(), ..Default::default() };
    let refused = stand.client.get_task(request).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, "there is no task 'none'"));
    let request = wire::CancelTaskRequest { id: "none".into() };
    assert_eq!(stand.client.cancel_task(request).await.unwrap_err().code(), Code::NotFound);
    let request = wire::GetTaskRequest { id: "none".into(), view: 9 };
    assert_eq!(stand.client.get_task(request).await.unwrap_err().code(), Code::InvalidArgument);
    for (request, name) in [
        (wire::ListTasksRequest { page_size: Some(0), ..Default::default() }, "page_size"),
        (wire::ListTasksRequest { page_token: "forged".into(), ..Default::default() }, "page_token"),
        (wire::ListTasksRequest { state: 99, ..Default::default() }, "state"),
        (wire::ListTasksRequest { view: -1, ..Default::default() }, "view"),
    ] {
        let refused = stand.list(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(name), "{}", refused.message());
    }
}

#[tokio::test]
async fn messages_are_bounded_as_bodies_are() {
    let mut stand = Stand::new().await;
    let with_content = |bytes: usize| {
        let content = Some("x".repeat(bytes));
        let input = wire::Input { path: "/in".into(), content, ..wire::Input::default() };
        wire::Task { inputs: vec![input], ..small_task() }
    };
    let id = stand.create(with_content(20 << 20)).await.unwrap();
    let mut ample = stand.client.clone().max_decoding_message_size(64 << 20);
    let request = wire::GetTaskRequest { id, view: wire::View::Full.into() };
    let task = ample.get_task(request).await.unwrap().into_inner();
    assert_eq!(task.inputs[0].content().len(), 20 << 20);
    assert_eq!(stand.create(with_content(32 << 20)).await.unwrap_err().code(), Code::ResourceExhausted);
    let inputs = vec![wire::Input::default(); 1_000_001];
    let refused = stand.create(wire::Task { inputs, ..small_task() }).await.unwrap_err();
    assert!(refused.message().contains("1000000 values"), "{}", refused.message());
    let request = wire::GetTaskRequest { id: "x".repeat(200 << 10), ..Default::default() };
    let refused = stand.client.get_task(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn lists_are_those_of_rest() {
    let mut stand = Stand::new().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let tags = [("parity".to_owned(), (number % 2).to_string())].into();
        let task = wire::Task { name: Some(format!("t{number}")), tags, ..small_task() };
        ids.push(stand.create(task).await.unwrap());
    }
    let cancel = wire::CancelTaskRequest { id: ids[0].clone() };
    stand.client.cancel_task(cancel).await.unwrap();
    let names = |list: &wire::ListTasksResponse| -> Vec<String> {
        list.tasks.iter().map(|task| task.name.clone().unwrap_or_default()).collect()
    };
    let two = wire::ListTasksRequest {
        page_size: Some(2),
        view: wire::View::Basic.into(),
        ..wire::ListTasksRequest::default()
    };
    let first = stand.list(two.clone()).await.unwrap();
    assert_eq!(names(&first), ["t4", "t3"]);
    // A token of one door opens the other.
    let token = first.next_page_token.unwrap();
    let second = stand.rest_get(&format!("/v1/tasks?page_size=2&page_token={token}")).await;
    assert_eq!(second["tasks"][0]["id"], ids[2]);
    let token = second["next_page_token"].as_str().unwrap().to_owned();
    let third =
        stand.list(wire::ListTasksRequest { page_token: token.clone(), ..two.clone() }).await.unwrap();
    assert_eq!((names(&third), third.next_page_token), (vec!["t0".to_owned()], None));
    let elsewhere = wire::ListTasksRequest { page_token: token, state: State::Queued.into(), ..two.clone() };
    let status = stand.list(elsewhere).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("page_token: belongs to a list with other filters"), "{status}");

    let even = wire::ListTasksRequest {
        tags: [("parity".to_owned(), "0".to_owned())].into(),
        state: State::Queued.into(),
        page_size: None,
        ..two
    };
    assert_eq!(names(&stand.list(even).await.unwrap()), ["t4", "t2"]);
    let named = wire::ListTasksRequest { name_prefix: "t3".into(), ..Default::default() };
    let named = stand.list(named).await.unwrap().tasks;
    assert_eq!(named.len(), 1);
    assert_eq!((named[0].id.as_str(), &named[0].name), (ids[3].as_str(), &None), "MINIMAL is the default");
}

#[tokio::test]
async fn a_named_request_is_one_by_either_door() {
    let mut stand = Stand::new().await;
    let (json, message) = both_forms();
    for (key, grpc_first) in [("a", true), ("b", false)] {
        let mut by_grpc = tonic::Request::new(wire::CreateTaskRequest { task: Some(message.clone()) });
        by_grpc.metadata_mut().insert("idempotency-key", key.parse().unwrap());
        let by_rest = Request::post("/v1/tasks").header("Idempotency-Key", key);
        let by_rest = by_rest.body(json.to_string().into()).unwrap();
        let (grpc, rest) = if grpc_first {
            let grpc = stand.client.create_task(by_grpc).await.unwrap().into_inner().id;
            (grpc, stand.rest(by_rest).await)
        } else {
            let rest = stand.rest(by_rest).await;
            (stand.client.create_task(by_grpc).await.unwrap().into_inner().id, rest)
        };
        assert_eq!(rest, json!({ "id": grpc }));
    }
    assert_eq!(stand.list(wire::ListTasksRequest::default()).await.unwrap().tasks.len(), 2);
}

#[tokio::test]
async fn a_named_request_is_taken_once() {
    let mut stand = Stand::new().await;
    let create = async |stand: &mut Stand, name: &str| {
        let tags = (0..20).map(|number| (format!("t{number}"), "x".to_owned())).collect();
        let task = wire::Task { name: Some(name.into()), tags, ..small_task() };
        let mut request = tonic::Request::new(wire::CreateTaskRequest { task: Some(task) });
        request.metadata_mut().insert("idempotency-key", "k".parse().unwrap());
        stand.client.create_task(request).await.map(|answer| answer.into_inner().id)
    };
    let first = create(&mut stand, "a").await.unwrap();
    assert_eq!(create(&mut stand, "a").await.unwrap(), first);
    assert_eq!(create(&mut stand, "b").await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(stand.list(wire::ListTasksRequest::default()).await.unwrap().tasks.len(), 1);
}
