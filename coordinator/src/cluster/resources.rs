//! Amounts of what nodes have and tasks need.

use std::ops::{AddAssign, SubAssign};

/// An amount of CPU, memory and disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of scratch space.
    pub disk_bytes: u64,
}

impl Resources {
    /// Whether this is at least as much of everything.
    pub fn covers(&self, need: &Self) -> bool {
        self.cpu_milli >= need.cpu_milli
            && self.memory_bytes >= need.memory_bytes
            && self.disk_bytes >= need.disk_bytes
    }

    /// What is left when `used` is taken away; never below zero.
    pub fn less(&self, used: &Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.saturating_sub(used.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_sub(used.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_sub(used.disk_bytes),
        }
    }

    /// How much of `whole` this is, in millionths, summed over the kinds: the measure that best fit makes
    /// small. A kind that the whole has none of counts nothing.
    pub fn share_of(&self, whole: &Self) -> u64 {
        let share = |part: u64, of: u64| match of {
            0 => 0,
            of => (u128::from(part) * 1_000_000 / u128::from(of)).min(1_000_000) as u64,
        };
        share(self.cpu_milli, whole.cpu_milli)
            + share(self.memory_bytes, whole.memory_bytes)
            + share(self.disk_bytes, whole.disk_bytes)
    }
}

impl AddAssign for Resources {
    fn add_assign(&mut self, other: Self) {
        self.cpu_milli = self.cpu_milli.saturating_add(other.cpu_milli);
        self.memory_bytes = self.memory_bytes.saturating_add(other.memory_bytes);
        self.disk_bytes = self.disk_bytes.saturating_add(other.disk_bytes);
    }
}

impl SubAssign for Resources {
    fn sub_assign(&mut self, other: Self) {
        *self = self.less(&other);
    }
}

/// What a node must offer beside amounts: storages, as a set of at most [`Self::MAX`] known ones, and networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StorageSet(u64);

impl StorageSet {
    /// How many storages can be told apart.
    pub const MAX: usize = 62;

    /// Stands for a way out to the network, which is there or not like a storage.
    pub const EGRESS: usize = 62;

    /// Stands for the network of the node itself.
    pub const HOST: usize = 63;

    /// Adds the storage with this index; indices from [`Self::MAX`] on are refused by configuration.
    pub fn insert(&mut self, index: usize) {
        debug_assert!(index <= Self::HOST);
        self.0 |= 1 << index;
    }

    /// Whether everything in `needed` is in here.
    pub fn contains(&self, needed: &Self) -> bool {
        self.0 & needed.0 == needed.0
    }
}
