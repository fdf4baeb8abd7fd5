//! Sizes and times as people write them in configuration: `"4GiB"`, `"30s"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::SpanRelativeTo;
use serde::{Deserialize, Serialize};

/// A text that is not a size or a time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UnitError {
    /// Not a size.
    #[error("'{0}' is not a size; write a number with B, KiB, MiB, GiB or TiB, such as \"4GiB\"")]
    Size(String),
    /// Not a time.
    #[error(
        "'{0}' is not a time; write a number with a unit, such as \"30s\", \"10min\", \"12h\" or \"30 days\""
    )]
    Time(String),
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteCount(pub u64);

const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for ByteCount {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = || UnitError::Size(text.to_owned());
        let (number, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
            .ok_or_else(refuse)?;
        let number: f64 = number.trim().parse().map_err(|_| refuse())?;
        if !(number >= 0.0 && number * unit as f64 <= u64::MAX as f64) {
            return Err(refuse());
        }
        Ok(Self((number * unit as f64) as u64))
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = UNITS.iter().find(|(_, unit)| self.0 >= *unit).unwrap_or(&("B", 1));
        if self.0.is_multiple_of(*unit) {
            f.pad(&format!("{}{name}", self.0 / unit))
        } else {
            f.pad(&format!("{:.1}{name}", self.0 as f64 / *unit as f64))
        }
    }
}

impl TryFrom<String> for ByteCount {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<ByteCount> for String {
    fn from(count: ByteCount) -> Self {
        count.to_string()
    }
}

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Period(pub Duration);

impl FromStr for Period {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = || UnitError::Time(text.to_owned());
        let span: jiff::Span = text.parse().map_err(|_| refuse())?;
        // No month and no year: nobody knows how long those are.
        let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| refuse())?;
        Duration::try_from(duration).map(Self).map_err(|_| refuse())
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signed = jiff::SignedDuration::try_from(self.0).unwrap_or(jiff::SignedDuration::MAX);
        f.pad(&format!("{signed:#}"))
    }
}

impl TryFrom<String> for Period {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<Period> for String {
    fn from(period: Period) -> Self {
        period.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!("4GiB".parse(), Ok(ByteCount(4 << 30)));
        assert_eq!("1.5 MiB".parse(), Ok(ByteCount(3 << 19)));
        assert_eq!(ByteCount(4 << 30).to_string(), "4GiB");
        assert_eq!(ByteCount(1536 << 10).to_string(), "1.5MiB");
        for bad in ["", "4", "4GB", "-1GiB", "GiB", "1e30TiB"] {
            assert!(bad.parse::<ByteCount>().is_err(), "{bad}");
        }
    }

    #[test]
    fn times() {
        assert_eq!("30s".parse(), Ok(Period(Duration::from_secs(30))));
        assert_eq!("10min".parse(), Ok(Period(Duration::from_secs(600))));
        assert_eq!("30 days".parse(), Ok(Period(Duration::from_secs(30 * 24 * 3600))));
        assert_eq!("1.5s".parse(), Ok(Period(Duration::from_millis(1500))));
        let shown = Period(Duration::from_secs(30 * 24 * 3600 + 1)).to_string();
        assert_eq!(shown.parse(), Ok(Period(Duration::from_secs(30 * 24 * 3600 + 1))));
        assert_eq!(Period(Duration::from_secs(90)).to_string(), "1m 30s");
        for bad in ["", "30", "-5s", "soon", "2 months"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
    }
}
