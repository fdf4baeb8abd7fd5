//! Puts the rules in place through the program `nft`, which takes a whole table in one transaction and whose
//! words an operator can read back. It never names a table but ours, and never runs while a task starts
//! unless the rules have changed.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Where distributions put it; an agent's PATH need not have `/usr/sbin`.
const PLACES: [&str; 4] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];

/// Some thousand rules take it less than a second.
const DEADLINE: Duration = Duration::from_secs(20);

/// Why the rules are not in place. The texts fit after "failed to".
#[derive(Debug, thiserror::Error)]
pub(super) enum FirewallError {
    /// It is not installed.
    #[error("find the program nft; install nftables on this node")]
    Missing,
    /// It could not be run.
    #[error("run nft: {0}")]
    Run(#[from] std::io::Error),
    /// It did not end.
    #[error("run nft: it did not end within {DEADLINE:?}")]
    Hangs,
    /// The kernel lacks something, or does not let us.
    #[error("set nftables rules: {0}")]
    Refused(String),
}

/// Replaces our table by what `ruleset` says.
pub(super) async fn load(ruleset: &str) -> Result<(), FirewallError> {
    let program = PLACES.iter().find(|place| std::path::Path::new(place).is_file());
    let mut command = Command::new(program.ok_or(FirewallError::Missing)?);
    command.args(["-f", "-"]).env_clear().kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().expect("it was asked for");
    let run = async {
        // One that ends early says why on standard error, and that matters more than the broken pipe.
        let _ = stdin.write_all(ruleset.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(DEADLINE, run).await.map_err(|_| FirewallError::Hangs)??;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let line = words.lines().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
    Err(FirewallError::Refused(line.trim().to_owned()))
}
