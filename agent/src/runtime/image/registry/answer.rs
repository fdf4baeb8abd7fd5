//! What a registry says when it does not give what was asked for: in words for the user, and whether asking
//! again could help.

use std::error::Error;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Response, StatusCode};
use serde::Deserialize;

/// The most of an answer's body that is read for words.
const WORDS_BYTES_MAX: usize = 16 << 10;

/// The most that is repeated of what a registry says.
const WORDS_CHARS_MAX: usize = 400;

/// Why something was not fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::runtime::image) enum FetchError {
    /// It is not there.
    #[error("{0}")]
    Missing(String),
    /// Not for us.
    #[error("{0}")]
    Unauthorized(String),
    /// Something else that asking again would not mend.
    #[error("{0}")]
    Refused(String),
    /// Overload, a broken connection, silence: later it may work.
    #[error("{text}")]
    Passing {
        /// What happened.
        text: String,
        /// When the registry wants to be asked again.
        retry_after: Option<Duration>,
    },
}

/// The body of a refusal, as the distribution specification has it; token servers say `details` or `error`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Envelope {
    errors: Vec<Complaint>,
    details: Option<String>,
    message: Option<String>,
    error_description: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Complaint {
    code: Option<String>,
    message: Option<String>,
}

/// What an answer that is no success means.
pub(in crate::runtime::image) async fn refused(host: &str, answer: Response) -> FetchError {
    let status = answer.status();
    let retry_after = answer.headers().get(reqwest::header::RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let retry_after = retry_after.map(Duration::from_secs);
    let mut body = Vec::new();
    let mut parts = answer.bytes_stream();
    while let Some(Ok(part)) = parts.next().await {
        body.extend_from_slice(&part);
        if body.len() > WORDS_BYTES_MAX {
            break;
        }
    }
    let words = words(&body);
    let colon = if words.is_empty() { "" } else { ": " };
    let text = format!("{host} says {status}{colon}{words}");
    classify(status, text, retry_after)
}

fn classify(status: StatusCode, text: String, retry_after: Option<Duration>) -> FetchError {
    match status {
        StatusCode::NOT_FOUND => FetchError::Missing(text),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FetchError::Unauthorized(text),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => {
            FetchError::Passing { text, retry_after }
        }
        status if status.is_server_error() => FetchError::Passing { text, retry_after },
        _ => FetchError::Refused(text),
    }
}

/// Nobody answered, or the answer broke off.
pub(in crate::runtime::image) fn unreachable(host: &str, error: &reqwest::Error) -> FetchError {
    let text = format!("{host} cannot be reached: {}", story(error));
    // A redirect that we do not follow and a certificate that we do not trust stay as they are.
    if error.is_redirect() || error.is_builder() || text.contains("invalid peer certificate") {
        return FetchError::Refused(text);
    }
    FetchError::Passing { text, retry_after: None }
}

/// An error with its causes, without the address: it may carry a signature.
pub(super) fn story(error: &reqwest::Error) -> String {
    let mut parts = Vec::new();
    let mut cause: Option<&dyn Error> = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !parts.contains(&text) {
            parts.push(text);
        }
        cause = error.source();
    }
    if error.is_timeout() {
        parts.insert(0, "it was silent for too long".to_owned());
    }
    if parts.is_empty() { "the connection broke".to_owned() } else { parts.join(": ") }
}

/// The registry's own words, as one line of text that cannot pretend to be anything else.
fn words(body: &[u8]) -> String {
    let body = &body[..body.len().min(WORDS_BYTES_MAX)];
    let envelope: Option<Envelope> = serde_json::from_slice(body).ok();
    let said = envelope.map(|envelope| {
        let mut said: Vec<String> = envelope
            .errors
            .into_iter()
            .map(|complaint| match (complaint.message.filter(|text| !text.is_empty()), complaint.code) {
                (Some(message), Some(code)) => format!("{message} ({code})"),
                (message, code) => message.or(code).unwrap_or_default(),
            })
            .collect();
        let others = [envelope.details, envelope.message, envelope.error_description, envelope.error];
        said.extend(others.into_iter().flatten());
        said.join("; ")
    });
    let text = said.filter(|said| !said.is_empty()).unwrap_or_else(|| {
        // A page for browsers says nothing that helps.
        let text = String::from_utf8_lossy(body).into_owned();
        if text.trim_start().starts_with('<') { String::new() } else { text }
    });
    let clean = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    clean.take(WORDS_CHARS_MAX).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_own_words_are_kept_and_tamed() {
        let body =
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"a":1}}]}"#;
        assert_eq!(words(body), "manifest unknown (MANIFEST_UNKNOWN)");
        assert_eq!(words(br#"{"errors":[{"code":"DENIED"}]}"#), "DENIED");
        assert_eq!(
            words(br#"{"details":"incorrect username or password"}"#),
            "incorrect username or password"
        );
        assert_eq!(words(b"<html><h1>502</h1>"), "");
        assert_eq!(words(b"plain\ntext\x1b[31m"), "plain text [31m");
        assert_eq!(words(&[b'x'; 5000]).len(), WORDS_CHARS_MAX);
    }

    #[test]
    fn only_what_may_pass_is_passing() {
        let kind = |code: u16| classify(StatusCode::from_u16(code).unwrap(), String::new(), None);
        assert!(matches!(kind(404), FetchError::Missing(_)));
        assert!(matches!(kind(401), FetchError::Unauthorized(_)));
        assert!(matches!(kind(403), FetchError::Unauthorized(_)));
        for code in [408, 429, 500, 502, 503, 504] {
            assert!(matches!(kind(code), FetchError::Passing { .. }), "{code}");
        }
        for code in [400, 405, 410, 418] {
            assert!(matches!(kind(code), FetchError::Refused(_)), "{code}");
        }
    }
}
