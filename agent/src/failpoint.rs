//! Named places at which a test lets the agent die. They do nothing unless `TEAMSTER_FAILPOINT=name` (or
//! `name@N` for the N-th time it is passed) was set when the program started; then the process kills itself
//! there as SIGKILL would at the worst moment: nothing is flushed and nobody is told.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The environment variable that names one.
pub const VARIABLE: &str = "TEAMSTER_FAILPOINT";

/// Every failpoint: one before and one after each phase is entered, and one after the
/// steps whose effect lies outside of it.
pub const NAMES: &[&str] = &[
    "intended.before",
    "intended.after",
    "created.before",
    "created.after",
    "task-made",
    "link-made",
    "container-created",
    "started.before",
    "started.after",
    "container-started",
    "executor-ended",
    "ended.before",
    "ended.after",
    "container-removed",
    "outputs-staged",
    "staged.before",
    "staged.after",
    "reported.before",
    "reported.after",
];

struct Armed {
    name: String,
    passes_left: AtomicU32,
}

static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
    let text = std::env::var(VARIABLE).ok()?;
    let armed = parse(&text);
    if !NAMES.contains(&armed.name.as_str()) {
        tracing::error!(variable = VARIABLE, value = text, "there is no such failpoint");
    }
    Some(armed)
});

fn parse(text: &str) -> Armed {
    let (name, pass) = match text.split_once('@') {
        Some((name, number)) => (name, number.parse().unwrap_or(1)),
        None => (text, 1),
    };
    Armed { name: name.to_owned(), passes_left: AtomicU32::new(pass) }
}

impl Armed {
    fn is_hit_by(&self, name: &str) -> bool {
        self.name == name && self.passes_left.fetch_sub(1, Ordering::SeqCst) == 1
    }
}

/// Passes the failpoint `name`; does not return where it is armed.
pub fn pass(name: &str) {
    debug_assert!(NAMES.contains(&name), "{name} is missing in NAMES");
    if ARMED.as_ref().is_some_and(|armed| armed.is_hit_by(name)) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal may take a moment to arrive on this thread; nothing may be done in it.
        loop {
            std::thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_the_named_pass_only() {
        let armed = parse("ended.after@2");
        let hits: Vec<bool> = ["ended.after", "ended.before", "ended.after", "ended.after"]
            .map(|name| armed.is_hit_by(name))
            .into();
        assert_eq!(hits, [false, false, true, false]);
        assert!(parse("staged.before").is_hit_by("staged.before"));
    }

    #[test]
    fn is_inert_when_nothing_is_set() {
        for name in NAMES {
            pass(name);
        }
    }
}
