//! What is measured of an attempt, step by step, and the names under which clients see it. Figures only;
//! nothing is decided by them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::assignment::ExecutorLog;
use crate::runtime::{Image, Usage};

/// How many digests are told: a task may have any number of executors, its record must stay small.
const DIGESTS_MAX: usize = 64;

/// What has been measured so far.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Measured {
    /// Digest of each executor's image, in order.
    image_digests: Vec<String>,
    pull_millis: Option<u64>,
    stage_in_millis: Option<u64>,
    stage_out_millis: Option<u64>,
    peak_memory_bytes: Option<u64>,
    cpu_micros: Option<[u64; 3]>,
    io_bytes: Option<[u64; 2]>,
}

impl Measured {
    /// Images and inputs are there.
    pub fn prepared(&mut self, images: &[Image], pull_time: Duration, stage_in_time: Duration) {
        self.image_digests = images.iter().take(DIGESTS_MAX).map(|image| image.digest.clone()).collect();
        self.pull_millis = Some(pull_time.as_millis() as u64);
        self.stage_in_millis = Some(stage_in_time.as_millis() as u64);
    }

    /// An executor has ended.
    pub fn used(&mut self, usage: Option<Usage>) {
        let Some(usage) = usage else { return };
        self.peak_memory_bytes = self.peak_memory_bytes.max(usage.peak_memory_bytes);
        let sums = self.cpu_micros.get_or_insert_default();
        for (sum, more) in
            sums.iter_mut().zip([usage.cpu_micros, usage.user_cpu_micros, usage.system_cpu_micros])
        {
            *sum += more;
        }
        if let Some(bytes) = usage.io_bytes {
            let sums = self.io_bytes.get_or_insert_default();
            sums.iter_mut().zip(bytes).for_each(|(sum, more)| *sum += more);
        }
    }

    /// The outputs are in place.
    pub fn staged_out(&mut self, time: Duration) {
        self.stage_out_millis = Some(time.as_millis() as u64);
    }

    /// All of it as clients see it. What was not measured is absent.
    pub fn metadata(&self, executors: &[ExecutorLog]) -> BTreeMap<String, String> {
        let mut entries = BTreeMap::new();
        let mut add = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                entries.insert(key.to_owned(), value);
            }
        };
        let digests = Some(self.image_digests.join(",")).filter(|digests| !digests.is_empty());
        add("image_digest", digests);
        add("pull_seconds", self.pull_millis.map(seconds));
        add("stage_in_seconds", self.stage_in_millis.map(seconds));
        add("stage_out_seconds", self.stage_out_millis.map(seconds));
        add("peak_memory_bytes", self.peak_memory_bytes.map(|bytes| bytes.to_string()));
        let keys = ["cpu_time_ms", "user_cpu_time_ms", "system_cpu_time_ms"];
        for (key, micros) in keys.into_iter().zip(self.cpu_micros.into_iter().flatten()) {
            add(key, Some((micros / 1000).to_string()));
        }
        for (key, bytes) in
            ["io_read_bytes", "io_write_bytes"].into_iter().zip(self.io_bytes.into_iter().flatten())
        {
            add(key, Some(bytes.to_string()));
        }
        if !executors.is_empty() {
            let run_millis =
                executors.iter().map(|log| log.end_time.duration_since(log.start_time).as_millis());
            add("run_seconds", Some(seconds(run_millis.sum::<i128>().max(0) as u64)));
            add("oom", Some(executors.iter().any(|log| log.out_of_memory).to_string()));
        }
        entries
    }
}

fn seconds(millis: u64) -> String {
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn what_was_not_measured_is_absent() {
        assert!(Measured::default().metadata(&[]).is_empty());
    }

    #[test]
    fn peaks_are_compared_and_times_are_added() {
        let mut measured = Measured::default();
        measured.staged_out(Duration::from_millis(12_034));
        for (peak, cpu, io_bytes) in [(7, 1500, Some([8, 3])), (5, 2600, None), (6, 0, Some([1, 2]))] {
            let usage =
                Usage { peak_memory_bytes: Some(peak), cpu_micros: cpu, io_bytes, ..Usage::default() };
            measured.used(Some(usage));
        }
        measured.used(None);
        let log = ExecutorLog {
            exit_code: 0,
            start_time: Timestamp::from_millisecond(1000).unwrap(),
            end_time: Timestamp::from_millisecond(2250).unwrap(),
            stdout_tail: String::new(),
            stderr_tail: String::new(),
            out_of_memory: false,
            stdout_bytes: 0,
            stderr_bytes: 0,
        };
        let mut killed = log.clone();
        killed.out_of_memory = true;
        let metadata = measured.metadata(&[log, killed]);
        let expected = [
            ("cpu_time_ms", "4"),
            ("io_read_bytes", "9"),
            ("io_write_bytes", "5"),
            ("oom", "true"),
            ("peak_memory_bytes", "7"),
            ("run_seconds", "2.500"),
            ("stage_out_seconds", "12.034"),
            ("system_cpu_time_ms", "0"),
            ("user_cpu_time_ms", "0"),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(metadata, BTreeMap::from(expected));
    }
}
