//! Tests that cannot run here say so where it is seen and counted, never silently.

use std::fs::File;
use std::io::Write;

/// Says that a test, or a part of one, did not run, and why. `scripts/test` names a file to count these in.
pub fn skipped(what: &str, reason: &str) {
    let line = format!("SKIPPED: {what}: {reason}\n");
    // Past the test harness's capture, so that it is seen also when the test passes.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("TEAMSTER_SKIPPED_FILE") {
        let file = File::options().create(true).append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("count a test that did not run");
    }
}

/// Whether this is continuous integration, where nothing may be left out.
pub fn must_run_everything() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}
