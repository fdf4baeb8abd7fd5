//! The model after a restart of the coordinator.

use std::collections::BTreeMap;

use super::scheduler::Waiting;
use super::{Class, Cluster, Millis, Seq, Task, TaskState};

impl Cluster {
    /// Puts back the live tasks after a restart of the coordinator, in the order of their numbers, each with the place
    /// of what there is to say of it among `kinds`. Each of the trees is made at once from all that belongs into it:
    /// that takes a fraction of the time, and packs it densely.
    pub fn restore(
        &mut self,
        now: Millis,
        kinds: &[Task],
        tasks: impl Iterator<Item = (Seq, usize)> + Clone,
    ) {
        // Which class each kind is of is looked up once for all of its tasks.
        let mut ready: Vec<(Class, Vec<(Seq, Waiting)>)> = Vec::new();
        let mut places = BTreeMap::new();
        let place_of = |kind: &Task| {
            let class = kind.request.class;
            *places.entry(class).or_insert_with(|| {
                ready.push((class, Vec::new()));
                ready.len() - 1
            })
        };
        let places: Vec<usize> = kinds.iter().map(place_of).collect();
        let mut counts = vec![0; ready.len()];
        tasks.clone().for_each(|(_, kind)| counts[places[kind]] += 1);
        for ((_, waiting), count) in ready.iter_mut().zip(counts) {
            waiting.reserve_exact(count);
        }
        let restored = tasks.map(|(seq, kind)| {
            let task = kinds[kind];
            match task.state {
                TaskState::Queued { not_before, avoid, .. } if not_before <= now => {
                    ready[places[kind]].1.push((seq, Waiting { since: now, avoid }));
                }
                _ => self.enter(now, seq, &task),
            }
            self.counts.add(&task.state);
            (seq, task)
        });
        self.tasks = restored.collect();
        for (class, waiting) in ready.into_iter().filter(|(_, waiting)| !waiting.is_empty()) {
            self.unsettled = true;
            self.queue.restore(class, waiting);
        }
    }
}
