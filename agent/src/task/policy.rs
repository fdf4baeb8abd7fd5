//! This node's own look at an assignment: a bad coordinator must not get root here, nor more than there is.
//! Pure. Paths, storages and mounts are looked at by `plan.rs`.

use teamster_values::ByteCount;

use crate::assignment::{Assignment, Network, Resources};
use crate::config::{NetworkPolicy, Sandbox};

/// Why an assignment is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// It is wrong everywhere; every field is named.
    #[error("the task cannot run: {0}")]
    Wrong(String),
    /// It is too large for this node, but perhaps not for another.
    #[error("the task does not fit this node: {0}")]
    TooLarge(String),
    /// This node's operator does not allow it, but perhaps another node's does.
    #[error("the task may not run on this node: {0}")]
    NotAllowed(String),
}

/// Refuses what must not run under `sandbox` and `network` or cannot run within `capacity`.
pub(super) fn check(
    assignment: &Assignment,
    sandbox: &Sandbox,
    network: &NetworkPolicy,
    capacity: &Resources,
) -> Result<(), Refusal> {
    let mut wrong = Vec::new();
    if assignment.executors.is_empty() {
        wrong.push("executors: there must be at least one".to_owned());
    }
    for (index, executor) in assignment.executors.iter().enumerate() {
        if executor.image.trim().is_empty() {
            wrong.push(format!("executors[{index}].image: must not be empty"));
        }
        if executor.command.first().is_none_or(String::is_empty) {
            wrong.push(format!("executors[{index}].command: must name a program"));
        }
        if executor.command.iter().any(|argument| argument.contains('\0')) {
            wrong.push(format!("executors[{index}].command: must not contain a NUL byte"));
        }
        for (name, value) in &executor.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                wrong.push(format!("executors[{index}].env[{name:?}]: is no environment variable"));
            }
        }
    }
    if sandbox.uid == 0 || sandbox.gid == 0 {
        wrong.push("sandbox.uid, sandbox.gid of this node: must not be 0".to_owned());
    }
    if !wrong.is_empty() {
        return Err(Refusal::Wrong(wrong.join("; ")));
    }
    if assignment.network == Some(Network::Egress) && !network.egress {
        let reason = "network: 'egress' is not allowed here (network.egress in the agent's configuration)";
        return Err(Refusal::NotAllowed(reason.to_owned()));
    }
    if assignment.network == Some(Network::Host) && !network.host {
        let reason = "network: 'host' is not allowed here (network.host in the agent's configuration)";
        return Err(Refusal::NotAllowed(reason.to_owned()));
    }
    if assignment.image_entrypoint && !sandbox.image_entrypoint {
        let reason =
            "entrypoint: 'image' is not allowed here (sandbox.image_entrypoint in the agent's configuration)";
        return Err(Refusal::NotAllowed(reason.to_owned()));
    }
    let large = too_large(&assignment.limits, capacity);
    if large.is_empty() { Ok(()) } else { Err(Refusal::TooLarge(large.join("; "))) }
}

fn too_large(limits: &Resources, capacity: &Resources) -> Vec<String> {
    let mut large = Vec::new();
    let mut compare = |name: &str, asked: u64, there: u64, show: &dyn Fn(u64) -> String| {
        if asked == 0 {
            large.push(format!("no limit is set for {name}"));
        } else if asked > there {
            large.push(format!("it may use {} of {name}, the node has {}", show(asked), show(there)));
        }
    };
    let bytes = |count: u64| ByteCount(count).to_string();
    let cpus = |milli: u64| format!("{}.{:03}", milli / 1000, milli % 1000);
    compare("CPUs", limits.cpu_milli, capacity.cpu_milli, &cpus);
    compare("memory", limits.memory_bytes, capacity.memory_bytes, &bytes);
    compare("disk", limits.disk_bytes, capacity.disk_bytes, &bytes);
    large
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::tests::assignment;

    const CAPACITY: Resources = Resources { cpu_milli: 4000, memory_bytes: 8 << 30, disk_bytes: 100 << 30 };

    fn refusal(change: impl FnOnce(&mut Assignment)) -> Option<Refusal> {
        let mut assignment = assignment(1, &["true"]);
        change(&mut assignment);
        check(&assignment, &Sandbox::default(), &NetworkPolicy::default(), &CAPACITY).err()
    }

    #[test]
    fn takes_what_fits() {
        assert_eq!(refusal(|_| ()), None);
        assert_eq!(refusal(|a| a.limits = CAPACITY), None);
    }

    #[test]
    fn names_every_wrong_field() {
        let Some(Refusal::Wrong(text)) = refusal(|a| {
            a.executors[0].image = " ".into();
            a.executors[0].command.clear();
            a.executors[0].env.insert("A=B".into(), "c".into());
        }) else {
            panic!("taken");
        };
        for field in ["executors[0].image", "executors[0].command", "env[\"A=B\"]"] {
            assert!(text.contains(field), "{text}");
        }
        assert!(matches!(refusal(|a| a.executors.clear()), Some(Refusal::Wrong(_))));
        assert!(matches!(refusal(|a| a.executors[0].command[0] = "a\0".into()), Some(Refusal::Wrong(_))));
        let mut obeying = assignment(1, &["true"]);
        obeying.image_entrypoint = true;
        assert_eq!(check(&obeying, &Sandbox::default(), &NetworkPolicy::default(), &CAPACITY), Ok(()));
        let strict = Sandbox { image_entrypoint: false, ..Sandbox::default() };
        assert!(matches!(
            check(&obeying, &strict, &NetworkPolicy::default(), &CAPACITY),
            Err(Refusal::NotAllowed(_))
        ));
        let root = Sandbox { uid: 0, ..Sandbox::default() };
        assert!(check(&assignment(1, &["true"]), &root, &NetworkPolicy::default(), &CAPACITY).is_err());
    }

    #[test]
    fn a_way_out_is_the_operators_to_give() {
        assert_eq!(refusal(|a| a.network = Some(Network::None)), None);
        let egress = NetworkPolicy { egress: true, ..NetworkPolicy::default() };
        let host = NetworkPolicy { host: true, ..NetworkPolicy::default() };
        for (network, key, open, closed) in [
            (Network::Egress, "network.egress", &egress, &host),
            (Network::Host, "network.host", &host, &egress),
        ] {
            let mut assignment = assignment(1, &["true"]);
            assignment.network = Some(network);
            assert_eq!(check(&assignment, &Sandbox::default(), open, &CAPACITY), Ok(()));
            let Err(Refusal::NotAllowed(text)) = check(&assignment, &Sandbox::default(), closed, &CAPACITY)
            else {
                panic!("{network:?} is taken");
            };
            assert!(text.contains(key), "{text}");
        }
    }

    #[test]
    fn a_limit_always_applies_and_is_never_above_the_node() {
        for change in [
            (|a| a.limits.cpu_milli = 4001) as fn(&mut Assignment),
            |a| a.limits.memory_bytes = 0,
            |a| a.limits.disk_bytes = u64::MAX,
        ] {
            assert!(matches!(refusal(change), Some(Refusal::TooLarge(_))));
        }
    }
}
