//! What becomes of this node's images while no task asks for them: the operator's list is fetched beforehand,
//! and what is no longer needed goes. How images are pulled and which may go is the runtime's business.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::runtime::Runtime;

/// Between two looks at what may be removed. A disk fills in minutes, not seconds.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2 * 60);

/// How long to wait before an image that could not be fetched beforehand is asked for again.
const PREPULL_PAUSE: Duration = Duration::from_secs(5 * 60);

/// The references that the attempts on this node name, for as long as those are here.
#[derive(Debug, Default)]
pub struct WantedImages(Mutex<BTreeMap<String, usize>>);

/// One attempt's wish; it ends with this value.
#[derive(Debug)]
pub struct Wish {
    all: Arc<WantedImages>,
    references: BTreeSet<String>,
}

impl WantedImages {
    /// Keeps these on the node.
    pub fn wish<'a>(self: &Arc<Self>, references: impl IntoIterator<Item = &'a str>) -> Wish {
        let references: BTreeSet<String> = references.into_iter().map(str::to_owned).collect();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for reference in &references {
            *counts.entry(reference.clone()).or_default() += 1;
        }
        drop(counts);
        Wish { all: Arc::clone(self), references }
    }

    /// All that is wanted now.
    pub fn now(&self) -> BTreeSet<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

impl Drop for Wish {
    fn drop(&mut self) {
        let mut counts = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        for reference in &self.references {
            let Some(count) = counts.get_mut(reference) else { continue };
            *count -= 1;
            if *count == 0 {
                counts.remove(reference);
            }
        }
    }
}

/// Removes what may go, from time to time, until it is dropped.
pub async fn sweep(runtime: Arc<dyn Runtime>, wanted: Arc<WantedImages>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        if let Err(error) = runtime.sweep_images(&wanted.now()).await {
            tracing::warn!(%error, "images are not looked through; trying again later");
        }
    }
}

/// Fetches the operator's list, one after the other, until all of it is here.
pub async fn prepull(runtime: Arc<dyn Runtime>, mut references: Vec<String>) {
    loop {
        let mut missing = Vec::new();
        for reference in references {
            match runtime.image(&reference).await {
                Ok(_) => tracing::info!(image = reference, "is here before any task asks for it"),
                Err(error) => {
                    tracing::warn!(image = reference, %error, "cannot be had beforehand; trying again later");
                    missing.push(reference);
                }
            }
        }
        if missing.is_empty() {
            return;
        }
        references = missing;
        tokio::time::sleep(PREPULL_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::FakeRuntime;

    #[test]
    fn an_image_is_wanted_until_the_last_wish_ends() {
        let wanted = Arc::new(WantedImages::default());
        let first = wanted.wish(["a", "b", "a"]);
        let second = wanted.wish(["b"]);
        assert_eq!(wanted.now(), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        drop(first);
        assert_eq!(wanted.now(), BTreeSet::from(["b".to_owned()]));
        drop(second);
        assert!(wanted.now().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_list_is_asked_for_until_all_of_it_is_here() {
        let runtime: Arc<dyn Runtime> = Arc::new(FakeRuntime::default());
        prepull(runtime.clone(), vec!["a".into(), "b".into()]).await;
        let for_ever = prepull(runtime, vec!["a".into(), "missing".into()]);
        assert!(tokio::time::timeout(PREPULL_PAUSE * 3, for_ever).await.is_err());
    }
}
