//! CPU time of what a benchmark drives, process by process: daemons are asked, and of what they start the
//! kernel tells when it has ended.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use crate::accounting::{Accounting, Spent};

/// Daemons and programs of one measurement.
pub struct Meter {
    daemons: Vec<(u32, &'static str)>,
    before: BTreeMap<&'static str, u64>,
    accounting: Accounting,
}

impl Meter {
    /// Measures these daemons, whatever runs from these `files`, and what the latter start, under `children`.
    pub fn start(
        daemons: Vec<(u32, &'static str)>,
        files: &[(&Path, &'static str)],
        children: &'static str,
    ) -> Result<Self> {
        let processes: Vec<u32> = daemons.iter().map(|(process, _)| *process).collect();
        let accounting = Accounting::start(files, children, &processes)?;
        let mut meter = Self { daemons, before: BTreeMap::new(), accounting };
        meter.take()?;
        Ok(meter)
    }

    /// Nanoseconds under each name since the last call.
    pub fn take(&mut self) -> Result<Spent> {
        let mut spent = self.accounting.take()?;
        for (process, name) in &self.daemons {
            let stat = procfs::process::Process::new(i32::try_from(*process)?)?.stat().context(*name)?;
            let now = (stat.utime + stat.stime) * 1_000_000_000 / procfs::ticks_per_second();
            let before = self.before.insert(name, now).unwrap_or(now);
            *spent.entry(name).or_default() += now.saturating_sub(before);
        }
        Ok(spent)
    }
}
