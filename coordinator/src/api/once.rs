//! Requests that may come twice but must be taken once: what makes two of them the same. Whether one came
//! before is the controller's to say.

use std::time::Duration;

use axum::http::HeaderMap;
use data_encoding::HEXLOWER;
use sha2::Digest as _;
use sha2::Sha256;

use super::error::ApiError;
use crate::config::Config;
use crate::controller::{Digest, Once};
use crate::spec::TaskSpec;

/// The header that names a request.
const HEADER: &str = "idempotency-key";

/// The longest name of a request: a UUID takes 36 bytes, and each is kept for a day.
const KEY_BYTES_MAX: usize = 255;

/// How long a named request is remembered: longer than any client goes on trying.
const KEY_PERIOD: Duration = Duration::from_secs(24 * 60 * 60);

/// How long Cromwell's requests are remembered: it sends one again after a minute without an answer, and at
/// most ten times.
const CROMWELL_PERIOD: Duration = Duration::from_secs(10 * 60);

/// The name that the client gave its request.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut given = headers.get_all(HEADER).iter();
    let Some(key) = given.next() else { return Ok(None) };
    let is_visible = key.as_bytes().iter().all(u8::is_ascii_graphic);
    if given.next().is_some() || key.is_empty() || key.len() > KEY_BYTES_MAX || !is_visible {
        let reason = format!("Idempotency-Key: must be one word of 1 to {KEY_BYTES_MAX} visible characters");
        return Err(ApiError::Invalid(reason));
    }
    Ok(key.to_str().ok().map(|key| format!("key:{key}")))
}

/// By what a request is known when it comes again; nothing where each counts for itself. What was understood is what
/// is compared: one task may be written in many ways, over REST and over gRPC.
pub(super) fn once(key: Option<String>, spec: &TaskSpec, config: &Config) -> Option<Once> {
    let is_call = config.deduplicate_cromwell && is_call_of_cromwell(spec);
    if key.is_none() && !is_call {
        return None;
    }
    let written = serde_json::to_vec(spec).expect("a spec has text keys only");
    let sha256 = HEXLOWER.encode(&Sha256::digest(written));
    let (key, period) = match key {
        Some(key) => (key, KEY_PERIOD),
        // Equal tasks have equal tags and descriptions.
        None => (format!("cromwell:{sha256}"), CROMWELL_PERIOD),
    };
    Some(Once { key, digest: Digest::new(&sha256), period })
}

/// Each attempt at each call of a workflow has a description of its own, so two equal requests are one.
fn is_call_of_cromwell(spec: &TaskSpec) -> bool {
    let filled = |text: Option<&String>| text.is_some_and(|text| !text.is_empty());
    filled(spec.tags.get("workflow_id")) && filled(spec.description.as_ref())
}
