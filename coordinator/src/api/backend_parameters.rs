//! `backend_parameters` by the rules of TES 1.1: keys are taken in any case, unsupported ones are neither
//! stored nor returned, and the task's system log says so.

use std::collections::BTreeMap;

use crate::parameters::{ENTRYPOINT, NETWORK, TIMEOUT};

/// The keys that this service supports, in lower case.
pub(super) const BACKEND_PARAMETERS: [&str; 3] = [ENTRYPOINT, NETWORK, TIMEOUT];

/// What engines send with every task for the sake of another service. It means nothing here, and a warning in
/// every log would only hide others.
const MEANINGLESS: [&str; 2] = ["internal_path_prefix", "workflow_execution_identity"];

/// How many keys a warning names.
const NAMED_KEYS_MAX: usize = 10;

/// The longest part of a key that a warning shows.
const SHOWN_CHARACTERS_MAX: usize = 60;

/// What was sent, sorted out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// By key in lower case.
    pub(super) supported: BTreeMap<String, String>,
    /// Keys as they were sent.
    pub(super) unsupported: Vec<String>,
    /// Keys as they were sent, of what is left out without a word.
    pub(super) meaningless: Vec<String>,
    /// Keys as they were sent, and what is wrong with them.
    pub(super) wrong: Vec<(String, &'static str)>,
}

/// Sorts out what was sent.
pub(super) fn choose(sent: BTreeMap<String, String>, supported: &[&str]) -> Chosen {
    let mut chosen = Chosen::default();
    for (key, value) in sent {
        let lower = key.to_ascii_lowercase();
        if MEANINGLESS.contains(&lower.as_str()) {
            chosen.meaningless.push(key);
        } else if !supported.contains(&lower.as_str()) {
            chosen.unsupported.push(key);
        } else if chosen.supported.insert(lower, value).is_some() {
            chosen.wrong.push((key, "is given twice: upper and lower case are the same"));
        }
    }
    chosen
}

/// What the system log says of keys that were left out.
pub(super) fn warning(unsupported: &[String]) -> Option<String> {
    let shown = |key: &String| key.chars().take(SHOWN_CHARACTERS_MAX).collect::<String>();
    let names: Vec<_> =
        unsupported.iter().take(NAMED_KEYS_MAX).map(|key| format!("{:?}", shown(key))).collect();
    let more = match unsupported.len().saturating_sub(NAMED_KEYS_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!names.is_empty())
        .then(|| format!("warning: unsupported backend_parameters were ignored: {}{more}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(keys: &[&str]) -> BTreeMap<String, String> {
        keys.iter().map(|key| (key.to_string(), format!("of {key}"))).collect()
    }

    #[test]
    fn keys_have_no_case() {
        let chosen = choose(sent(&["QUEUE", "Internal_Path_Prefix", "vm"]), &["queue"]);
        assert_eq!(chosen.supported, BTreeMap::from([("queue".to_owned(), "of QUEUE".to_owned())]));
        assert_eq!((chosen.unsupported, chosen.meaningless.len()), (vec!["vm".to_owned()], 1));
        let twice = choose(sent(&["QUEUE", "queue"]), &["queue"]);
        assert_eq!(twice.wrong[0].0, "queue");
    }

    #[test]
    fn warnings_are_short() {
        assert_eq!(warning(&[]), None);
        let many: Vec<_> = (0..1000).map(|number| format!("{number}\n{}", "x".repeat(1000))).collect();
        let text = warning(&many).unwrap();
        assert!(text.len() < 1000 && text.ends_with(" and 990 more") && !text.contains('\n'), "{text}");
    }
}
