//! The examples of docs/api.md do what the page says: its `sh` blocks are run in one shell, from top to
//! bottom, and what they print is compared with the `text` block behind them. A `bash` block is not run: it needs what a
//! test does not have.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::path::Path;
use std::process::Command;

use teamster_agent::runtime::image;
use teamster_integration::cluster::Options;
use teamster_integration::image::TestImage;
use teamster_integration::pypi;
use teamster_integration::stand::Stand;

/// Printed behind each example; no example prints it.
const END: &str = "---- end of an example ----";

/// An example: what is run, and what it prints where the page says so.
#[derive(Debug, PartialEq, Eq)]
struct Example {
    shell: String,
    prints: Option<String>,
}

/// All examples of a page. A `text` block belongs to the `sh` block right before it.
fn examples(page: &str) -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    let mut open: Option<(&str, String)> = None;
    for line in page.lines() {
        open = match open {
            None => line.strip_prefix("```").map(|kind| (kind, String::new())),
            Some(("sh", shell)) if line == "```" => {
                found.push(Example { shell, prints: None });
                None
            }
            Some(("text", text)) if line == "```" => {
                found.last_mut().expect("something prints it").prints = Some(text);
                None
            }
            Some(_) if line == "```" => None,
            Some((kind, text)) => Some((kind, text + line + "\n")),
        };
    }
    found
}

/// Whether `text` is `pattern`, in which `…` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let parts: Vec<_> = pattern.trim().split('…').collect();
    let [first, between @ .., last] = parts.as_slice() else { return pattern.trim() == text.trim() };
    let Some(rest) = text.trim().strip_prefix(first) else { return false };
    let Some(mut rest) = rest.strip_suffix(last) else { return false };
    between.iter().all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

#[test]
fn what_matches() {
    assert!(matches("{\"id\":\"…\"}\n", "{\"id\":\"abc\"}"));
    assert!(matches("a…c…", "abcd") && matches("plain", "plain\n"));
    assert!(!matches("a…c", "abcd") && !matches("plain", "plain and more") && !matches("b…", "abc"));
    let page = "x\n```sh\none\n```\n```text\n1\n```\n\n```toml\nno\n```\n```sh\ntwo\n```\n";
    let example = |shell: &str, prints: Option<&str>| Example {
        shell: shell.to_owned(),
        prints: prints.map(str::to_owned),
    };
    assert_eq!(examples(page), [example("one\n", Some("1\n")), example("two\n", None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_by_example() {
    let stand = Stand::start().await;
    let busybox = TestImage::named("docker.io/library/busybox:latest").oci_archive();
    image::import(&stand.containerd.socket(), std::io::Cursor::new(busybox)).await.unwrap();
    let cluster = stand.cluster(&Options::default()).await;
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.md");
    let examples = examples(&std::fs::read_to_string(page).unwrap());
    assert!(examples.len() > 5, "the page has examples");
    let shell: String =
        examples.iter().map(|example| format!("{}\necho\necho '{END}'\n", example.shell)).collect();
    let here = stand.dir().join("examples");
    std::fs::create_dir(&here).unwrap();
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &shell])
        .current_dir(here)
        .env("TEAMSTER_SERVER", cluster.client.base())
        .env("TEAMSTER_SHARED", cluster.shared())
        .env("no_proxy", "127.0.0.1");
    let printed = pypi::run(bash).await;
    let printed: Vec<_> = printed.split(END).collect();
    assert_eq!(printed.len(), examples.len() + 1, "each came to its end");
    for (example, printed) in examples.iter().zip(printed) {
        let Some(prints) = &example.prints else { continue };
        assert!(matches(prints, printed), "{}prints\n{printed}not\n{prints}", example.shell);
    }
}
