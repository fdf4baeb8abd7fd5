//! How containerd calls its shim program and a shim calls runc, as far as the programs that stand in for them
//! understand it. Whatever is not exactly like this is not understood, and goes to the program that was meant.

use std::ffi::OsString;
use std::path::PathBuf;

/// What containerd asks of its shim program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShimCall {
    /// containerd's namespace.
    pub namespace: String,
    /// The container.
    pub id: String,
    /// containerd's socket.
    pub address: String,
    /// The container's directory; given where it is to be cleared.
    pub bundle: PathBuf,
    /// Whether the shim shall log everything.
    pub is_debug: bool,
    /// What is to be done.
    pub action: ShimAction,
}

/// What a shim program does beside being a shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShimAction {
    /// Start a shim.
    Start,
    /// Clear away behind one.
    Delete,
}

impl ShimCall {
    /// Reads the arguments behind the program's name.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let (mut namespace, mut id, mut address, mut bundle) = Default::default();
        let (mut is_debug, mut action) = (false, None);
        let mut words = arguments.map(OsString::into_string);
        while let Some(word) = words.next() {
            let word = word.ok()?;
            if action.is_some() {
                return None;
            }
            let value = match word.as_str() {
                "-namespace" => &mut namespace,
                "-id" => &mut id,
                "-address" => &mut address,
                "-bundle" => &mut bundle,
                // Which containerd it is; the shim itself is not told either.
                "-publish-binary" => {
                    words.next()?.ok()?;
                    continue;
                }
                "-debug" => {
                    is_debug = true;
                    continue;
                }
                "start" => {
                    action = Some(ShimAction::Start);
                    continue;
                }
                "delete" => {
                    action = Some(ShimAction::Delete);
                    continue;
                }
                _ => return None,
            };
            *value = words.next()?.ok()?;
        }
        let call = Self { namespace, id, address, bundle: bundle.into(), is_debug, action: action? };
        let is_complete = is_name(&call.namespace) && is_name(&call.id) && call.address.starts_with('/');
        is_complete.then_some(call)
    }
}

/// What a shim asks of runc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuncCall {
    /// What runc remembers of the container.
    pub state: PathBuf,
    /// What is to be done.
    pub action: RuncAction,
}

/// What can be done without runc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuncAction {
    /// Let a container that was made begin.
    Start,
    /// Forget a container that has ended.
    Delete,
}

impl RuncCall {
    /// Reads the arguments behind the program's name.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let words = arguments.map(|word| word.into_string().ok()).collect::<Option<Vec<String>>>()?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ["--root", root, "--log", _, "--log-format", "json", action, id] = words[..] else { return None };
        let action = match action {
            "start" => RuncAction::Start,
            "delete" => RuncAction::Delete,
            _ => return None,
        };
        (root.starts_with('/') && is_name(id)).then(|| Self { state: PathBuf::from(root).join(id), action })
    }
}

/// Names are ours; as a part of a path such a one leads nowhere else.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shim(line: &str) -> Option<ShimCall> {
        ShimCall::parse(line.split_whitespace().map(OsString::from))
    }

    fn runc(line: &str) -> Option<RuncCall> {
        RuncCall::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn understands_what_containerd_says() {
        let common = "-namespace n -address /c.sock -publish-binary /usr/bin/containerd -id a-1-0";
        let start = shim(&format!("{common} start")).unwrap();
        assert_eq!((start.id.as_str(), start.address.as_str()), ("a-1-0", "/c.sock"));
        assert_eq!((start.action, start.is_debug), (ShimAction::Start, false));
        let delete = shim(&format!("{common} -bundle /b/a-1-0 -debug delete")).unwrap();
        assert_eq!((delete.action, delete.is_debug), (ShimAction::Delete, true));
        assert_eq!(delete.bundle, PathBuf::from("/b/a-1-0"));
    }

    #[test]
    fn understands_nothing_else_of_it() {
        for line in [
            "",
            "-v",
            "-info",
            "-namespace n -id a -address /c",
            "-namespace n -id a -address /c -socket /s start",
            "-namespace n -id a -address /c start now",
            "-namespace n -id a/../b -address /c start",
            "-namespace n -id .. -address /c delete",
            "-namespace n -id a -address c start",
            "-namespace n -address /c start",
        ] {
            assert_eq!(shim(line), None, "{line}");
        }
    }

    #[test]
    fn understands_what_a_shim_says_to_runc_and_nothing_else() {
        let common = "--root /run/r/n --log /b/log.json --log-format json";
        let state = PathBuf::from("/run/r/n/a-1-0");
        for (word, action) in [("start", RuncAction::Start), ("delete", RuncAction::Delete)] {
            let expected = RuncCall { state: state.clone(), action };
            assert_eq!(runc(&format!("{common} {word} a-1-0")), Some(expected));
        }
        for line in [
            "",
            "--version",
            "--root /run/r/n delete a",
            &format!("{common} delete --force a-1-0"),
            &format!("{common} create --bundle /b a-1-0"),
            &format!("{common} kill a-1-0 9"),
            &format!("{common} start ../a"),
            &format!("--debug {common} start a"),
        ] {
            assert_eq!(runc(line), None, "{line}");
        }
    }
}
