//! Which images leave this node, and when: what nothing has used for long, and when the disk fills up whatever
//! was used least recently. Never one that a task here needs, that a container was made from, that somebody
//! imported, or that the operator wants to have here.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use containerd_client::services::v1::{
    DeleteImageRequest, Image as Record, ListContainersRequest, ListImagesRequest,
};
use jiff::Timestamp;
use oci_spec::distribution::Reference;

use super::pull::PULLED_LABEL;
use super::store::set_label;
use super::{Images, disk, normalise};
use crate::config::PullPolicy;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::{SLOW, call, failure, or_missing};

/// The label of an image record with the time of its last use: seconds since 1970.
const USED_LABEL: &str = "teamster.io/used";

/// How exactly that is kept, so that a busy image does not cost a write for each task.
const USED_STEP: Duration = Duration::from_secs(60 * 60);

/// An image that may go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// First, because it is the order in which they go.
    used: Timestamp,
    name: String,
    digest: String,
}

/// Every name under which an image may be found that this reference means.
pub(super) fn names(name: &Reference) -> Vec<String> {
    let mut names = vec![name.whole()];
    if let (Some(_), Some(tag)) = (name.digest(), name.tag()) {
        names.push(format!("{}/{}:{tag}", name.registry(), name.repository()));
    }
    names
}

impl Images {
    /// Says that a task needs this image now. From here on no sweep that has begun takes it.
    pub(super) async fn touch(&self, name: &Reference) {
        let mut used = self.used.lock().await;
        let now = Timestamp::now();
        used.extend(names(name).into_iter().map(|name| (name, now)));
    }

    /// Writes the use down where the next agent finds it.
    pub(super) async fn write_use(&self, record: &Record) {
        let now = Timestamp::now();
        if written_use(record).is_some_and(|used| age(now, used) < USED_STEP) {
            return;
        }
        let seconds = now.as_second().to_string();
        if let Err(error) = set_label(&self.link, record, USED_LABEL, seconds).await {
            tracing::debug!(image = record.name, %error, "its use is not written down");
        }
    }

    /// Gives up what pulls left behind that nobody waited for, and removes what may go. `wanted` are the
    /// references of all tasks on this node.
    pub(in crate::runtime) async fn sweep(&self, wanted: &BTreeSet<String>) -> Result<(), RuntimeError> {
        self.give_up_leases().await?;
        if self.settings.pull == PullPolicy::Never {
            return Ok(());
        }
        let begun = Timestamp::now();
        let candidates = self.candidates(wanted, begun).await?;
        let root = disk::snapshot_root(&self.link).await?;
        let mut is_full = disk::look(&root).await?.fill_percent > self.settings.disk_high_percent;
        let unused_max = self.settings.unused_max.0;
        for candidate in candidates {
            let idle = age(begun, candidate.used);
            let is_old = !unused_max.is_zero() && idle >= unused_max;
            if !is_old && !is_full {
                break;
            }
            if self.remove(&candidate, begun).await? {
                let (image, idle_seconds) = (&candidate.name, idle.as_secs());
                tracing::info!(image, idle_seconds, is_old, disk_is_full = is_full, "image removed");
                is_full = is_full && disk::look(&root).await?.fill_percent > self.settings.disk_low_percent;
            }
        }
        if is_full {
            let percent = self.settings.disk_low_percent;
            tracing::warn!(
                path = %root.display(), percent,
                "the disk of images is fuller than it should be, and no other image may be removed"
            );
        }
        Ok(())
    }

    /// What may go, the least recently used first.
    async fn candidates(
        &self,
        wanted: &BTreeSet<String>,
        now: Timestamp,
    ) -> Result<Vec<Candidate>, RuntimeError> {
        let client = self.link.client();
        let request = call(ListContainersRequest { filters: Vec::new() }, SLOW);
        let containers = client.containers().list(request).await;
        let containers = containers.map_err(|status| failure("list containers", &status))?.into_inner();
        let request = call(ListImagesRequest { filters: Vec::new() }, SLOW);
        let records = client.images().list(request).await;
        let records = records.map_err(|status| failure("list images", &status))?.into_inner().images;
        let mut kept: BTreeSet<String> = containers.containers.into_iter().map(|one| one.image).collect();
        let named = wanted.iter().chain(&self.settings.prepull).filter_map(|text| normalise(text).ok());
        kept.extend(named.flat_map(|name| names(&name)));
        let mut used = self.used.lock().await;
        // What was asked for long ago and is not here is nothing to remember.
        used.retain(|name, at| age(now, *at) < USED_STEP || records.iter().any(|one| one.name == *name));
        Ok(candidates(records, &kept, &used, self.settings.idle_min.0, now))
    }

    /// Removes one, unless it was used meanwhile.
    async fn remove(&self, candidate: &Candidate, begun: Timestamp) -> Result<bool, RuntimeError> {
        let mut used = self.used.lock().await;
        if used.get(&candidate.name).is_some_and(|at| *at >= begun) {
            return Ok(false);
        }
        // Whoever needs it now waits in `touch` until it is gone, and pulls it again.
        let request = DeleteImageRequest {
            name: candidate.name.clone(),
            // Otherwise what it took is not free when the disk is looked at next.
            sync: true,
            ..DeleteImageRequest::default()
        };
        or_missing(self.link.client().images().delete(call(request, SLOW)).await)
            .map_err(|status| failure("remove an image", &status))?;
        used.remove(&candidate.name);
        self.forget(&candidate.digest);
        Ok(true)
    }
}

fn candidates(
    records: Vec<Record>,
    kept: &BTreeSet<String>,
    used: &HashMap<String, Timestamp>,
    idle_min: Duration,
    now: Timestamp,
) -> Vec<Candidate> {
    let mut found: Vec<_> = records
        .into_iter()
        // What somebody imported cannot be had back.
        .filter(|record| record.labels.contains_key(PULLED_LABEL) && !kept.contains(&record.name))
        .filter_map(|record| {
            let last = [made(&record), written_use(&record), used.get(&record.name).copied()];
            let digest = record.target?.digest;
            let used = last.into_iter().flatten().max()?;
            Some(Candidate { used, name: record.name, digest })
        })
        .filter(|candidate| age(now, candidate.used) >= idle_min)
        .collect();
    found.sort_unstable();
    found
}

fn made(record: &Record) -> Option<Timestamp> {
    let made = record.updated_at.or(record.created_at)?;
    Timestamp::new(made.seconds, made.nanos).ok()
}

fn written_use(record: &Record) -> Option<Timestamp> {
    Timestamp::from_second(record.labels.get(USED_LABEL)?.parse().ok()?).ok()
}

/// How long ago; a clock that was set back makes nothing older.
fn age(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use containerd_client::types::Descriptor;

    use super::*;

    fn record(name: &str, created: i64, labels: &[(&str, &str)]) -> Record {
        let time = prost_types::Timestamp { seconds: created, nanos: 0 };
        Record {
            name: name.to_owned(),
            labels: labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
            target: Some(Descriptor { digest: "sha256:aa".into(), ..Descriptor::default() }),
            created_at: Some(time),
            ..Record::default()
        }
    }

    #[test]
    fn the_least_recently_used_goes_first_and_what_is_needed_stays() {
        let pulled = (PULLED_LABEL, "");
        let records = vec![
            record("new", 900, &[pulled]),
            record("used", 100, &[pulled, (USED_LABEL, "500")]),
            record("used-now", 100, &[pulled]),
            record("wanted", 50, &[pulled]),
            record("imported", 10, &[]),
            record("old", 200, &[pulled, (USED_LABEL, "no number")]),
        ];
        let at = |second| Timestamp::from_second(second).unwrap();
        let kept = BTreeSet::from(["wanted".to_owned()]);
        let used = HashMap::from([("used-now".to_owned(), at(990))]);
        let found = candidates(records, &kept, &used, Duration::from_secs(100), at(1000));
        let names: Vec<_> = found.iter().map(|candidate| candidate.name.as_str()).collect();
        assert_eq!(names, ["old", "used", "new"]);
        assert_eq!(found[1].used, at(500));
    }

    #[test]
    fn a_reference_with_tag_and_digest_means_two_names() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let both = names(&normalise(&format!("busybox:1@{digest}")).unwrap());
        assert_eq!(both.len(), 2);
        assert!(both.contains(&"docker.io/library/busybox:1".to_owned()));
        assert_eq!(names(&normalise("busybox").unwrap()), ["docker.io/library/busybox:latest"]);
    }
}
