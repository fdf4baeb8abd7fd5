//! The values of the backend parameters that this service supports. One reading of each, for whoever checks
//! what was submitted and for whoever tells an agent what to do. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use teamster_values::Period;

/// How long the executors of a task may run: a time such as `2h`, or a number of seconds.
pub(crate) const TIMEOUT: &str = "timeout";

/// Whether the images' entry points are run: `image` or `none`.
pub(crate) const ENTRYPOINT: &str = "entrypoint";

/// What the task may reach: `none`, `egress` or `host`. Which of them a node gives is its operator's to say.
pub(crate) const NETWORK: &str = "network";

/// The longest time that is taken: a hundred years, so that no sum of times overflows.
const TIMEOUT_SECONDS_MAX: u64 = 100 * 365 * 24 * 60 * 60;

/// What comes before the command of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entrypoint {
    /// Nothing: the command is all that runs, as TES has it.
    None,
    /// The entry point of the image, as Docker has it.
    Image,
}

/// What is decided about a task beside its specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskPolicy {
    /// Time limit of tasks that name none.
    pub default_timeout: Option<Duration>,
    /// The longest time limit; also of tasks that name none.
    pub max_timeout: Option<Duration>,
    /// Entry point of tasks that do not say.
    pub default_entrypoint: Entrypoint,
}

impl TaskPolicy {
    /// How long a task with these parameters may run; none for as long as it likes. A task that was taken
    /// under another configuration is held to the one that is in force now.
    pub fn time_limit(&self, parameters: &BTreeMap<String, String>) -> Option<Duration> {
        let own = parameters.get(TIMEOUT).and_then(|text| timeout(text).ok());
        let wanted = own.or(self.default_timeout);
        wanted.into_iter().chain(self.max_timeout).min()
    }

    /// Whether the images' entry points are run for a task with these parameters.
    pub fn image_entrypoint(&self, parameters: &BTreeMap<String, String>) -> bool {
        let own = parameters.get(ENTRYPOINT).and_then(|text| entrypoint(text).ok());
        own.unwrap_or(self.default_entrypoint) == Entrypoint::Image
    }
}

/// What is wrong with these parameters, by key.
pub(crate) fn wrong(
    parameters: &BTreeMap<String, String>,
    policy: &TaskPolicy,
) -> Vec<(&'static str, String)> {
    let mut wrong = Vec::new();
    if let Some(text) = parameters.get(TIMEOUT) {
        match timeout(text) {
            Err(reason) => wrong.push((TIMEOUT, reason)),
            Ok(time) => {
                if let Some(most) = policy.max_timeout.filter(|most| time > *most) {
                    wrong.push((TIMEOUT, format!("must not be longer than {}, the most here", Period(most))));
                }
            }
        }
    }
    if let Some(Err(reason)) = parameters.get(ENTRYPOINT).map(|text| entrypoint(text)) {
        wrong.push((ENTRYPOINT, reason));
    }
    if let Some(reason) = parameters.get(NETWORK).and_then(|text| wrong_network(text)) {
        wrong.push((NETWORK, reason.to_owned()));
    }
    wrong
}

fn wrong_network(text: &str) -> Option<&'static str> {
    match text {
        "none" | "egress" | "host" => None,
        _ => Some("must be \"none\", \"egress\" or \"host\""),
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    let reason = || "must be a time such as \"2h\" or \"90min\", or a number of seconds".to_owned();
    let text = text.trim();
    let time = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => text.parse::<Period>().map_err(|_| reason())?.0,
    };
    if time < Duration::from_secs(1) || time.as_secs() > TIMEOUT_SECONDS_MAX {
        return Err("must be at least a second and at most a hundred years".to_owned());
    }
    Ok(time)
}

fn entrypoint(text: &str) -> Result<Entrypoint, String> {
    match text {
        "image" => Ok(Entrypoint::Image),
        "none" => Ok(Entrypoint::None),
        _ => Err("must be \"image\" or \"none\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: TaskPolicy =
        TaskPolicy { default_timeout: None, max_timeout: None, default_entrypoint: Entrypoint::None };

    fn sent(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn times_are_read_with_and_without_a_unit() {
        let limit = |text: &str| OPEN.time_limit(&sent(TIMEOUT, text));
        assert_eq!(limit("2h"), Some(Duration::from_secs(7200)));
        assert_eq!(limit(" 90 "), Some(Duration::from_secs(90)));
        assert_eq!(limit("1.5s"), Some(Duration::from_millis(1500)));
        for bad in ["", "0", "soon", "-1", "2 months", "10ms", "99999999999999999999", "200000000h"] {
            let wrong = wrong(&sent(TIMEOUT, bad), &OPEN);
            assert!(wrong.len() == 1 && wrong[0].0 == TIMEOUT, "{bad}: {wrong:?}");
        }
    }

    #[test]
    fn the_operator_has_the_last_word() {
        let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));
        let none = BTreeMap::new();
        assert_eq!(OPEN.time_limit(&none), None);
        let policy = TaskPolicy { default_timeout: Some(hour), max_timeout: Some(day), ..OPEN };
        assert_eq!(policy.time_limit(&none), Some(hour));
        assert_eq!(policy.time_limit(&sent(TIMEOUT, "2h")), Some(2 * hour));
        assert_eq!(policy.time_limit(&sent(TIMEOUT, "48h")), Some(day), "taken before the limit was set");
        assert!(
            wrong(&sent(TIMEOUT, "48h"), &policy)[0].1.contains("24h"),
            "{:?}",
            wrong(&sent(TIMEOUT, "48h"), &policy)
        );
        assert!(wrong(&sent(TIMEOUT, "24h"), &policy).is_empty());
        assert_eq!(TaskPolicy { max_timeout: Some(day), ..OPEN }.time_limit(&none), Some(day));
    }

    #[test]
    fn a_network_is_one_that_can_be_had() {
        for value in ["none", "egress", "host"] {
            assert!(wrong(&sent(NETWORK, value), &OPEN).is_empty());
        }
        assert!(wrong(&sent(NETWORK, "Egress"), &OPEN)[0].1.starts_with("must be"));
    }

    #[test]
    fn an_entry_point_is_asked_for_or_refused() {
        let obeying = TaskPolicy { default_entrypoint: Entrypoint::Image, ..OPEN };
        for (policy, parameters, expected) in [
            (OPEN, BTreeMap::new(), false),
            (OPEN, sent(ENTRYPOINT, "image"), true),
            (obeying, BTreeMap::new(), true),
            (obeying, sent(ENTRYPOINT, "none"), false),
        ] {
            assert_eq!(policy.image_entrypoint(&parameters), expected);
            assert!(wrong(&parameters, &policy).is_empty());
        }
        assert_eq!(wrong(&sent(ENTRYPOINT, "Docker"), &OPEN)[0].0, ENTRYPOINT);
    }
}
