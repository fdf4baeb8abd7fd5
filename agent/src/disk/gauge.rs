//! Whether the node's disk has room for new tasks, with hysteresis: a node that closed opens again only when
//! there has been room for a while, or every task that ends would let the next one in. Pure.

use std::time::Duration;

use teamster_values::ByteCount;

use super::measure::Free;
use crate::boot::BootInstant;

/// How long there must have been room.
const REST: Duration = Duration::from_secs(5 * 60);

/// What is remembered of the disk.
#[derive(Debug)]
pub(super) struct Gauge {
    floor: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// There is too little room.
    Low,
    /// There is room again, since then.
    Resting(BootInstant),
}

impl Gauge {
    /// A node that takes no tasks below `floor` bytes.
    pub(super) fn new(floor: ByteCount) -> Self {
        Self { floor: floor.0, state: State::Open }
    }

    /// Takes note of what is free.
    pub(super) fn look(&mut self, free: Free, now: BootInstant) {
        let is_low = self.floor > 0 && (free.bytes < self.floor || free.is_out_of_files);
        self.state = match self.state {
            _ if is_low => State::Low,
            State::Open => State::Open,
            State::Low => State::Resting(now),
            State::Resting(since) if since.until(now) >= REST => State::Open,
            State::Resting(since) => State::Resting(since),
        };
    }

    /// Whether there is too little room now.
    pub(super) fn is_low(&self) -> bool {
        self.state == State::Low
    }

    /// Why no new tasks are taken; none when they are.
    pub(super) fn closed(&self) -> Option<String> {
        let floor = ByteCount(self.floor);
        match self.state {
            State::Open => None,
            State::Low => Some(format!("less than {floor} of disk, or hardly a file, is free")),
            State::Resting(_) => Some(format!("less than {floor} of disk was free a moment ago")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes_at_once_and_opens_after_a_rest() {
        let at = |seconds| BootInstant::after_boot(Duration::from_secs(seconds));
        let free = |bytes| Free { bytes, is_out_of_files: false };
        let mut gauge = Gauge::new(ByteCount(100));
        gauge.look(free(100), at(0));
        assert_eq!(gauge.closed(), None);
        gauge.look(free(99), at(1));
        assert!(gauge.is_low() && gauge.closed().is_some());
        gauge.look(free(500), at(2));
        assert!(!gauge.is_low() && gauge.closed().is_some());
        gauge.look(free(99), at(100));
        gauge.look(free(500), at(101));
        gauge.look(free(500), at(101 + 299));
        assert!(gauge.closed().is_some(), "each fall begins the rest anew");
        gauge.look(free(500), at(101 + 300));
        assert_eq!(gauge.closed(), None);
        gauge.look(Free { bytes: 500, is_out_of_files: true }, at(1000));
        assert!(gauge.closed().is_some());
        let mut never = Gauge::new(ByteCount(0));
        never.look(free(0), at(0));
        assert_eq!(never.closed(), None, "zero is never");
    }
}
