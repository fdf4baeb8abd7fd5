//! What tasks reach with `network = "egress"` and what they do not, on a node of the test's own: a network
//! namespace in which containerd, coordinator and agent run, with a world beyond it. And that nothing of it is
//! left, whatever dies when.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use teamster_agent::failpoint;
use teamster_integration::cluster::{Cluster, Marks, Options, eventually, shell_task};
use teamster_integration::skip;
use teamster_integration::stand::Stand;
use teamster_integration::world::{self, CLUSTER, METADATA, NODE, SERVER, SITE, World};

/// Tasks that run side by side.
const MANY: usize = 16;

/// The smallest pool there may be, and how many tasks have room in it.
const TINY_POOL: &str = "10.99.0.0/28";
const TINY_POOL_HOLDS: usize = 6;

/// Asks for a page; says what came, or "nothing". By `nc`, because a static busybox cannot look up even an
/// address for its `wget`.
fn ask(address: &str) -> String {
    let (host, port) = address.split_once(':').unwrap_or((address, "80"));
    format!(
        "page=$(printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {host} {port} 2>/dev/null | tail -1); \
         echo \"${{page:-nothing from {host}}}\""
    )
}

/// A task that asks for this network, or for none in particular.
fn task(name: &str, network: Option<&str>, scripts: &[String]) -> Value {
    let mut task = shell_task(name, scripts);
    if let Some(network) = network {
        task["resources"]["backend_parameters"] = json!({ "network": network });
    }
    task
}

fn stdout(task: &Value, executor: usize) -> &str {
    assert_eq!(task["state"], "COMPLETE", "{task:#}");
    task["logs"][0]["logs"][executor]["stdout"].as_str().unwrap()
}

/// A node whose operator allows egress, with more lines in its `[network]`.
async fn node(stand: &Stand, more: &str) -> Cluster {
    let agent_toml =
        format!("[network]\negress = true\ndns = ['{SERVER}']\ndeny = ['10.96.0.0/12']\n{more}\n");
    stand.cluster(&Options { agent_toml, ..Options::default() }).await
}

/// Enters a node of the test's own, unless the machine cannot do what egress needs.
fn enter() -> Option<World> {
    if nix::unistd::geteuid().is_root()
        && let Some(reason) = world::lacks()
    {
        assert!(!skip::must_run_everything(), "{reason}");
        skip::skipped("a test of network egress", &reason);
        return None;
    }
    if !teamster_integration::containerd::can_run_containers() {
        return None;
    }
    Some(World::enter())
}

/// Until the kernel has taken away every link of a task.
async fn wait_no_links() {
    eventually("all links of tasks to be gone", async || {
        (!world::links().iter().any(|name| name.starts_with("tmst"))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn out_to_the_world_and_nowhere_else() {
    let Some(world) = enter() else { return };
    world::forward();
    world::serve_http(8080);
    let stand = Stand::start().await;
    let cluster = node(&stand, "").await;
    let marks = Marks::new(&cluster.shared());

    let script = [
        ask(SERVER),
        ask(SITE),
        "nslookup anything.example.org 2>&1 | grep -o 'Address.*198.51.100.2$' | tail -1".to_owned(),
        ask(METADATA),
        ask(CLUSTER),
        ask(&format!("{NODE}:8080")),
        ask("$(ip route | grep default | cut -d' ' -f3):8080"),
        "ip -6 addr | grep inet6 | wc -l".to_owned(),
    ]
    .join("; ");
    let second = format!("{}; ls /sys/class/net", ask(SERVER));
    let id = cluster.client.submit(&task("out", Some("egress"), &[script, second])).await;
    let ended = cluster.client.wait(&id).await;
    let lines: Vec<_> = stdout(&ended, 0).lines().collect();
    assert_eq!(lines[0], format!("served {NODE} by {SERVER}"), "as the node: {ended:#}");
    assert_eq!(lines[1], format!("served {NODE} by {SITE}"), "the site's own storage");
    assert!(lines[2].ends_with(SERVER), "names are found: {lines:?}");
    assert_eq!(lines[3], format!("nothing from {METADATA}"));
    assert_eq!(lines[4], format!("nothing from {CLUSTER}"), "what the operator denies");
    assert_eq!(lines[5], format!("nothing from {NODE}"), "the node itself");
    assert!(lines[6].starts_with("nothing from 100.64."), "the node's end of the link: {lines:?}");
    assert_eq!(lines[7], "0", "no address of IPv6");
    assert_eq!(stdout(&ended, 1), format!("served {NODE} by {SERVER}\neth0\nlo\n"), "and the next executor");

    let inside = format!("{}; cat /etc/resolv.conf; ls /sys/class/net", ask(SERVER));
    for network in [None, Some("none")] {
        let id = cluster.client.submit(&task("in", network, std::slice::from_ref(&inside))).await;
        let ended = cluster.client.wait(&id).await;
        assert_eq!(stdout(&ended, 0), format!("nothing from {SERVER}\nlo\n"));
    }
    tasks_do_not_meet(&world, &cluster, &marks).await;
    wait_no_links().await;
    let tables: Vec<_> =
        world::rules().lines().filter(|line| line.starts_with("table")).map(str::to_owned).collect();
    assert_eq!(tables, ["table inet teamster {"], "and no table of anybody else");
}

/// One serves, another one and the world ask it.
async fn tasks_do_not_meet(world: &World, cluster: &Cluster, marks: &Marks) {
    let address = cluster.shared().join("address");
    let server = format!(
        "while true; do echo hello | nc -l -p 7000 >/dev/null; done & sleep 1; echo | nc -w 5 127.0.0.1 7000; \
         ip -o -4 addr show eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/' > {0}.new; mv {0}.new {0}; {1}",
        address.display(),
        marks.shell_gate("served")
    );
    let server = cluster.client.submit(&task("server", Some("egress"), &[server])).await;
    let address = eventually("the server's address", async || std::fs::read_to_string(&address).ok()).await;
    let address = address.trim();
    let served = format!("{address}:7000");
    let client = task("client", Some("egress"), &[ask(&served)]);
    let client = cluster.client.wait(&cluster.client.submit(&client).await).await;
    assert_eq!(stdout(&client, 0), format!("nothing from {address}\n"));
    assert!(!world.reaches(&served), "nobody outside can begin to talk to a task");
    marks.open_gate("served");
    assert_eq!(stdout(&cluster.client.wait(&server).await, 0), "hello\n", "it did serve");
}

#[tokio::test]
async fn an_allow_list_is_all_there_is() {
    let Some(_world) = enter() else { return };
    world::forward();
    let stand = Stand::start().await;
    // By default, so that engines need not ask for it.
    let cluster = node(&stand, &format!("default = 'egress'\nallow = ['{SITE}', '{CLUSTER}']")).await;
    let script = [ask(SITE), ask(SERVER), ask(CLUSTER)].join("; ");
    let ended = cluster.client.wait(&cluster.client.submit(&task("t", None, &[script])).await).await;
    let expected = format!("served {NODE} by {SITE}\nnothing from {SERVER}\nnothing from {CLUSTER}\n");
    assert_eq!(stdout(&ended, 0), expected, "what is denied stays denied");
}

#[tokio::test]
async fn an_allowed_name_is_the_addresses_that_it_has_at_the_start() {
    let Some(world) = enter() else { return };
    if !world.answers_for_the_nodes_name_server() {
        return skip::skipped("names in an allow-list", "this machine's name server is on loopback");
    }
    world::forward();
    let stand = Stand::start().await;
    let cluster = node(&stand, "allow = ['mirror.example.org']").await;
    let script = [ask(SERVER), ask(SITE), "grep mirror /etc/hosts".to_owned()].join("; ");
    let ended = cluster.client.submit(&task("t", Some("egress"), &[script])).await;
    let ended = cluster.client.wait(&ended).await;
    let expected = format!("served {NODE} by {SERVER}\nnothing from {SITE}\n{SERVER}\tmirror.example.org\n");
    assert_eq!(stdout(&ended, 0), expected);
}

#[tokio::test]
async fn nothing_is_left_whatever_dies() {
    let Some(_world) = enter() else { return };
    world::forward();
    let stand = Stand::start().await;
    let mut cluster = node(&stand, "").await;
    let marks = Marks::new(&cluster.shared());

    let script = format!("{}; {}; {}", marks.shell("begun"), marks.shell_gate("gate"), ask(SERVER));
    let id = cluster.client.submit(&task("through", Some("egress"), &[script])).await;
    eventually("the task to run", async || (marks.count("begun") == 1).then_some(())).await;
    assert_eq!(world::links().iter().filter(|name| name.starts_with("tmst")).count(), 1);
    cluster.kill_agent();
    cluster.start_agent(&[]);
    marks.open_gate("gate");
    let ended = cluster.client.wait(&id).await;
    assert_eq!(stdout(&ended, 0), format!("served {NODE} by {SERVER}\n"), "the link outlives the agent");
    wait_no_links().await;

    // Killed before the link, in the middle of it, and after.
    for name in ["task-made", "link-made", "container-created"] {
        cluster.kill_agent();
        cluster.start_agent(&[(failpoint::VARIABLE, name)]);
        cluster.wait_ready().await;
        let id = cluster.client.submit(&task(name, Some("egress"), &[ask(SERVER)])).await;
        cluster.wait_agent_dead().await;
        cluster.start_agent(&[]);
        let ended = cluster.client.wait(&id).await;
        assert_eq!(stdout(&ended, 0), format!("served {NODE} by {SERVER}\n"), "killed at {name}");
        wait_no_links().await;
    }
    cluster.kill_agent();
    assert!(world::rules().contains("table inet teamster"), "rules outlive the agent, as tasks do");
}

#[tokio::test]
async fn a_node_that_cannot_do_it_does_not_offer_it() {
    let Some(_world) = enter() else { return };
    let stand = Stand::start().await;
    let mut cluster = node(&stand, "").await;
    let nodes = cluster.client.get("/v1/nodes").await;
    assert_eq!(nodes["nodes"][0]["networks"], json!([]));
    let lacks = nodes["nodes"][0]["lacks"].to_string();
    assert!(lacks.contains("network egress") && lacks.contains("net.ipv4.ip_forward is 0"), "{nodes:#}");
    assert!(cluster.logs().contains("net.ipv4.ip_forward is 0"), "the agent says why");
    let id = cluster.client.submit(&task("t", Some("egress"), &[ask(SERVER)])).await;
    let other = cluster.client.submit(&task("other", None, &["true".to_owned()])).await;
    assert_eq!(cluster.client.wait(&other).await["state"], "COMPLETE");
    let waiting = cluster.client.get(&format!("/v1/tasks/{id}?view=FULL")).await;
    assert_eq!(waiting["state"], "QUEUED");
    assert!(waiting.to_string().contains("waiting for a node with network 'egress'"), "{waiting:#}");
    world::forward();
    cluster.kill_agent();
    cluster.start_agent(&[]);
    assert_eq!(stdout(&cluster.client.wait(&id).await, 0), format!("served {NODE} by {SERVER}\n"));

    let (status, answer) =
        cluster.client.post("/v1/tasks", task("h", Some("bridge"), &["true".to_owned()]).to_string()).await;
    assert_eq!(status, 400);
    assert!(answer["msg"].as_str().unwrap().contains("\"none\", \"egress\" or \"host\""), "{answer}");
}

#[tokio::test]
async fn the_nodes_own_network_is_the_operators_to_give() {
    let Some(_world) = enter() else { return };
    world::serve_http(8080);
    let stand = Stand::start().await;
    let mut cluster = stand.cluster(&Options::default()).await;
    let script = format!("{}; ls /sys/class/net; hostname", ask("127.0.0.1:8080"));
    let id = cluster.client.submit(&task("h", Some("host"), &[script])).await;
    let waiting = cluster.client.get(&format!("/v1/tasks/{id}?view=FULL")).await;
    assert_eq!(waiting["state"], "QUEUED");
    assert!(waiting.to_string().contains("waiting for a node with network 'host'"), "{waiting:#}");
    cluster.kill_agent();
    cluster.start_agent(&[("TEAMSTER_NETWORK_HOST", "true")]);
    let ended = cluster.client.wait(&id).await;
    let lines: Vec<_> = stdout(&ended, 0).lines().collect();
    assert_eq!(lines[..3], ["served 127.0.0.1 by 127.0.0.1", "lo", "up0"]);
    assert_ne!(lines[3], nix::unistd::gethostname().unwrap().to_string_lossy(), "no more than the network");
}

#[tokio::test]
async fn who_finds_no_address_waits_for_one() {
    let Some(_world) = enter() else { return };
    world::forward();
    let stand = Stand::start().await;
    let mut cluster = node(&stand, &format!("pool = '{TINY_POOL}'")).await;
    let marks = Marks::new(&cluster.shared());
    let hold = |name: &str| format!("{}; {}; {}", marks.shell(name), marks.shell_gate("go"), ask(SERVER));
    // Has its first executor behind it when there is no address for the second.
    let first = format!("{}; {}", marks.shell("first"), marks.shell_gate("full"));
    let second = task("two", Some("egress"), &[first, hold("second")]);
    let second = cluster.client.submit(&second).await;
    eventually("the first executor to run", async || (marks.count("first") == 1).then_some(())).await;
    let mut holders = Vec::new();
    for number in 0..TINY_POOL_HOLDS {
        let held = task(&format!("held{number}"), Some("egress"), &[hold("held")]);
        holders.push(cluster.client.submit(&held).await);
    }
    let running = || marks.count("held");
    eventually("the pool to be full", async || (running() == TINY_POOL_HOLDS - 1).then_some(())).await;
    marks.open_gate("full");

    // One of the two that want the last address gets it.
    let begun = || running() - (TINY_POOL_HOLDS - 1) + marks.count("second");
    eventually("the last address to be taken", async || (begun() == 1).then_some(())).await;
    let more = task("more", Some("egress"), &[hold("more")]);
    let [more, unwanted] = [cluster.client.submit(&more).await, cluster.client.submit(&more).await];
    let without = cluster.client.submit(&task("without", None, &["true".to_owned()])).await;
    let expected = format!("waiting to find a free address: other tasks have all 6 of the pool {TINY_POOL}");
    for id in [&more, &unwanted] {
        let waiting = eventually("the wait to be told", async || {
            let waiting = cluster.client.task(id).await;
            waiting["logs"][0]["system_logs"].to_string().contains(&expected).then_some(waiting)
        })
        .await;
        assert_eq!(waiting["state"], "INITIALIZING", "{waiting:#}");
    }
    assert_eq!(cluster.client.wait(&without).await["state"], "COMPLETE", "others have nothing to do with it");
    cluster.client.cancel(&unwanted).await;
    assert_eq!(cluster.client.wait(&unwanted).await["state"], "CANCELED");
    cluster.kill_agent();
    cluster.start_agent(&[]);
    cluster.wait_ready().await;
    assert_eq!((begun(), marks.count("more")), (1, 0), "nobody has what is not there");

    marks.open_gate("go");
    let page = format!("served {NODE} by {SERVER}\n");
    for id in holders.iter().chain([&more]) {
        let ended = cluster.client.wait(id).await;
        assert_eq!(stdout(&ended, 0), page);
        assert_eq!(ended["logs"].as_array().unwrap().len(), 1, "nothing was tried again: {ended:#}");
    }
    assert_eq!(stdout(&cluster.client.wait(&second).await, 1), page);
    assert_eq!((marks.count("first"), marks.count("second"), marks.count("more")), (1, 1, 1));
    wait_no_links().await;
}

#[tokio::test]
async fn many_at_once_each_have_an_address_of_their_own() {
    let Some(_world) = enter() else { return };
    world::forward();
    let stand = Stand::start().await;
    let cluster = node(&stand, "pool = '10.99.0.0/26'").await;
    let marks = Marks::new(&cluster.shared());
    let script = format!(
        "{}; {}; ip -o -4 addr show eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/'; {}",
        marks.shell("begun"),
        marks.shell_gate("go"),
        ask(SERVER)
    );
    let mut ids = Vec::new();
    for number in 0..MANY {
        ids.push(
            cluster
                .client
                .submit(&task(&format!("n{number}"), Some("egress"), std::slice::from_ref(&script)))
                .await,
        );
    }
    eventually("all to run", async || (marks.count("begun") == MANY).then_some(())).await;
    marks.open_gate("go");
    let mut addresses = BTreeSet::new();
    for id in ids {
        let ended = cluster.client.wait(&id).await;
        let (address, page) = stdout(&ended, 0).split_once('\n').unwrap();
        assert_eq!(page, format!("served {NODE} by {SERVER}\n"));
        assert!(address.starts_with("10.99.0.") && addresses.insert(address.to_owned()), "{address} twice");
    }
    wait_no_links().await;
}
