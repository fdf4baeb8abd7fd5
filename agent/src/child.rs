//! Disposable child processes: this program started again for work that may hang, crash, or must not be done
//! as root. A request goes in as one line of JSON, an answer comes out as one line of JSON; an empty line is
//! a sign of life. A child that falls silent is killed. Never a shell, never the agent's environment.
//!
//! The child's standard input stays open until it has answered: when the agent dies it reads an end of file
//! there, and must end too.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The longest answer that is taken: a hundred thousand output files with long names.
const ANSWER_MAX_BYTES: usize = 64 << 20;

/// How much of a child's last words goes into messages.
const LAST_WORDS_MAX_BYTES: usize = 2 << 10;

/// How long a killed child may take to be gone. One that the kernel holds, on a dead mount for example, is
/// left to the runtime's own reaping.
const REAP_DEADLINE: Duration = Duration::from_secs(5);

/// Why a child gave no answer. The texts fit after "failed to …:".
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be started.
    #[error("cannot start a child process: {0}")]
    Spawn(std::io::Error),
    /// It was silent for too long and was killed.
    #[error("a child process was silent for {} s and was killed", waited.as_secs())]
    Deadline {
        /// How long it was silent.
        waited: Duration,
    },
    /// It ended without success.
    #[error("a child process failed: {0}")]
    Crashed(String),
    /// It ended well, but what it said is no answer.
    #[error("a child process gave no proper answer: {0}")]
    Garbled(String),
}

/// Starts `program` with `arguments`, hands it `request`, and waits for its answer as long as it shows signs
/// of life at least every `silence_max`. Dropping the future kills the child.
pub async fn call<Q: Serialize, A: DeserializeOwned>(
    program: &Path,
    arguments: &[&str],
    request: &Q,
    silence_max: Duration,
) -> Result<A, ChildError> {
    let mut line = serde_json::to_vec(request).map_err(|error| ChildError::Garbled(error.to_string()))?;
    line.push(b'\n');
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(ChildError::Spawn)?;
    let result = converse(&mut child, &line, silence_max).await;
    if result.is_err() {
        let _ = child.start_kill();
    }
    let status = timeout(REAP_DEADLINE, child.wait()).await;
    let (answer, last_words) = result?;
    match status {
        Ok(Ok(status)) if status.success() => read_answer(&answer),
        Ok(Ok(status)) => Err(ChildError::Crashed(format!("{status}{}", last_words_text(&last_words)))),
        Ok(Err(error)) => Err(ChildError::Crashed(error.to_string())),
        Err(_) => Err(ChildError::Deadline { waited: REAP_DEADLINE }),
    }
}

/// Writes the request and reads both streams to their ends.
async fn converse(
    child: &mut Child,
    request: &[u8],
    silence_max: Duration,
) -> Result<(Vec<u8>, Vec<u8>), ChildError> {
    let taken = || ChildError::Crashed("its pipes are gone".to_owned());
    // Held until the end: see the top of this file.
    let mut stdin = child.stdin.take().ok_or_else(taken)?;
    let stdout = child.stdout.take().ok_or_else(taken)?;
    let stderr = child.stderr.take().ok_or_else(taken)?;
    let write = async {
        match timeout(silence_max, stdin.write_all(request)).await {
            // A child that ends before it has read all is told apart by its exit status.
            Ok(_) => Ok(()),
            Err(_) => Err(ChildError::Deadline { waited: silence_max }),
        }
    };
    let (_, answer, last_words) = tokio::try_join!(
        write,
        read_to_end(stdout, ANSWER_MAX_BYTES, Some(silence_max)),
        read_to_end(stderr, LAST_WORDS_MAX_BYTES, None),
    )?;
    drop(stdin);
    Ok((answer, last_words))
}

/// Reads a stream to its end and keeps its first `keep_max_bytes`. The stream with a deadline governs: the
/// other one ends with the same process.
async fn read_to_end(
    mut stream: impl AsyncRead + Unpin,
    keep_max_bytes: usize,
    silence_max: Option<Duration>,
) -> Result<Vec<u8>, ChildError> {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = stream.read(&mut buffer);
        let count = match silence_max {
            None => read.await,
            Some(waited) => timeout(waited, read).await.map_err(|_| ChildError::Deadline { waited })?,
        };
        match count {
            Ok(0) => return Ok(kept),
            Ok(count) => {
                let room = keep_max_bytes - kept.len();
                kept.extend_from_slice(&buffer[..count.min(room)]);
            }
            Err(error) => return Err(ChildError::Garbled(error.to_string())),
        }
    }
}

/// The last line that is not a mere sign of life.
fn read_answer<A: DeserializeOwned>(output: &[u8]) -> Result<A, ChildError> {
    let line = output.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
    let line = line.ok_or_else(|| ChildError::Garbled("it said nothing".to_owned()))?;
    serde_json::from_slice(line).map_err(|error| ChildError::Garbled(error.to_string()))
}

fn last_words_text(words: &[u8]) -> String {
    let words = String::from_utf8_lossy(words);
    if words.trim().is_empty() { String::new() } else { format!(": {}", words.trim()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any program serves as a child; these tests take what every machine has.
    async fn shell(script: &str, silence_max: Duration) -> Result<Vec<u32>, ChildError> {
        call(Path::new("/bin/sh"), &["-c", script], &[1, 2], silence_max).await
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn hands_over_and_answers() {
        let answer = shell("read line; echo; echo; echo \"$line\"; echo", LONG).await.unwrap();
        assert_eq!(answer, [1, 2]);
    }

    #[tokio::test]
    async fn silence_ends_in_a_kill() {
        let error = shell("exec sleep 3600", Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, ChildError::Deadline { .. }), "{error}");
    }

    #[tokio::test]
    async fn failure_carries_the_last_words() {
        let error = shell("echo '[3]'; echo too bad >&2; exit 3", LONG).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("too bad"), "{error}");
        let error = shell("kill -9 $$", LONG).await.unwrap_err().to_string();
        assert!(error.contains("signal: 9"), "{error}");
    }

    #[tokio::test]
    async fn what_is_no_answer_is_garbled() {
        for script in ["read line", "echo hello", "echo '{}'"] {
            let error = shell(script, LONG).await.unwrap_err();
            assert!(matches!(error, ChildError::Garbled(_)), "{script}: {error}");
        }
    }

    #[tokio::test]
    async fn no_program_and_no_environment() {
        let missing: Result<(), _> = call(Path::new("/nonexistent"), &[], &(), LONG).await;
        assert!(matches!(missing, Err(ChildError::Spawn(_))));
        let answer = shell("test -z \"$HOME$CARGO\" && echo '[7]'", LONG).await.unwrap();
        assert_eq!(answer, [7]);
    }

    #[tokio::test]
    async fn a_request_larger_than_a_pipe_goes_through() {
        let request = vec![7_u32; 200_000];
        let arguments = ["-c", "head -n 1"];
        let answer: Vec<u32> = call(Path::new("/bin/sh"), &arguments, &request, LONG).await.unwrap();
        assert_eq!(answer, request);
    }
}
