//! What the agent tells a keeper: the query of the `binary://` address that containerd is given, which the
//! shim turns into arguments, name and value by turns, in any order.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// All that a keeper knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Orders {
    /// Directory of the socket: root's own, shown read-only in the container.
    pub talk: PathBuf,
    /// File that gets standard output.
    pub stdout: PathBuf,
    /// File that gets standard error.
    pub stderr: PathBuf,
    /// The record; it exists.
    pub record: PathBuf,
    /// The lease's file.
    pub lease: PathBuf,
    /// How long a lease is.
    pub lease_length: Duration,
    /// The most that is kept of standard output, in bytes; none keeps all.
    pub stdout_max_bytes: Option<u64>,
    /// The most that is kept of standard error, in bytes; none keeps all.
    pub stderr_max_bytes: Option<u64>,
}

impl Orders {
    /// The address of a container's streams, for the keeper at `program`.
    pub fn address(&self, program: &Path) -> String {
        let mut address = String::from("binary://");
        encode(program.as_os_str(), &mut address);
        let number =
            |value: Option<u64>| OsString::from(value.map_or(String::new(), |value| value.to_string()));
        let length = u64::try_from(self.lease_length.as_nanos()).unwrap_or(u64::MAX);
        let pairs = [
            ("talk", self.talk.clone().into_os_string()),
            ("stdout", self.stdout.clone().into_os_string()),
            ("stderr", self.stderr.clone().into_os_string()),
            ("record", self.record.clone().into_os_string()),
            ("lease", self.lease.clone().into_os_string()),
            ("lease-nanos", number(Some(length))),
            ("stdout-max", number(self.stdout_max_bytes)),
            ("stderr-max", number(self.stderr_max_bytes)),
        ];
        for (index, (name, value)) in pairs.iter().enumerate() {
            address.push(if index == 0 { '?' } else { '&' });
            address.push_str(name);
            address.push('=');
            encode(value, &mut address);
        }
        address
    }

    /// Reads the arguments that the shim made of it.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut orders = Self::default();
        let mut arguments = arguments;
        while let Some(name) = arguments.next() {
            let value = arguments.next().unwrap_or_default();
            let number = |value: &OsStr| match value.to_str() {
                Some("") => Ok(None),
                text => {
                    text.and_then(|text| text.parse().ok()).map(Some).ok_or(format!("{name:?}: no number"))
                }
            };
            match name.to_str() {
                Some("talk") => orders.talk = value.into(),
                Some("stdout") => orders.stdout = value.into(),
                Some("stderr") => orders.stderr = value.into(),
                Some("record") => orders.record = value.into(),
                Some("lease") => orders.lease = value.into(),
                Some("lease-nanos") => {
                    orders.lease_length = Duration::from_nanos(number(&value)?.unwrap_or(u64::MAX));
                }
                Some("stdout-max") => orders.stdout_max_bytes = number(&value)?,
                Some("stderr-max") => orders.stderr_max_bytes = number(&value)?,
                _ => return Err(format!("{name:?}: unknown")),
            }
        }
        let paths = [&orders.talk, &orders.stdout, &orders.stderr, &orders.record, &orders.lease];
        if paths.iter().any(|path| !path.is_absolute()) {
            return Err("a path is missing".to_owned());
        }
        Ok(orders)
    }
}

/// Percent-encoding of all that could mean something in an address.
fn encode(value: &OsStr, into: &mut String) {
    for byte in value.as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' => {
                into.push(char::from(*byte))
            }
            other => drop(write!(into, "%{other:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrive_as_they_were_meant() {
        let orders = Orders {
            talk: "/d/a b/run".into(),
            stdout: "/d/ü&x=1;2+3%41".into(),
            stderr: "/d/err".into(),
            record: "/d/record".into(),
            lease: "/d/lease".into(),
            lease_length: Duration::from_secs(120),
            stdout_max_bytes: None,
            stderr_max_bytes: Some(1 << 20),
        };
        let address = orders.address(Path::new("/p/keeper"));
        let query = address.strip_prefix("binary:///p/keeper?").unwrap();
        let decoded = query.split('&').rev().flat_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap();
            [name.into(), decode(value)]
        });
        assert_eq!(Orders::parse(decoded), Ok(orders));
        assert!(Orders::parse(["talk", "/x"].map(OsString::from).into_iter()).is_err());
        assert!(Orders::parse(["color", "red"].map(OsString::from).into_iter()).is_err());
    }

    fn decode(text: &str) -> OsString {
        let mut parts = text.split('%');
        let mut bytes = parts.next().unwrap().as_bytes().to_vec();
        for part in parts {
            bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
            bytes.extend(&part.as_bytes()[2..]);
        }
        OsStr::from_bytes(&bytes).to_owned()
    }
}
