//! How the shared storages are, looked at beside the session, so that one that hangs never delays a
//! heartbeat.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;

use crate::config::StorageConfig;
use crate::storage::{Health, Mounter};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(10);

/// One storage as the coordinator hears of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// Where tasks and URLs see it.
    pub path: String,
    /// Whether tasks can use it now.
    pub ok: bool,
}

/// Looks at the storages for ever, makes usable what is not, and publishes how they are.
pub async fn keep_offers(
    storages: Vec<StorageConfig>,
    mounter: Arc<dyn Mounter>,
    offers: watch::Sender<Vec<Offer>>,
) {
    loop {
        let looked = join_all(storages.iter().map(|storage| look(storage, mounter.as_ref()))).await;
        offers.send_if_modified(|offers| {
            let changed = *offers != looked;
            *offers = looked;
            changed
        });
        tokio::time::sleep(PAUSE).await;
    }
}

async fn look(storage: &StorageConfig, mounter: &dyn Mounter) -> Offer {
    let mut health = mounter.health(storage).await;
    if health != Health::Ok {
        if let Err(error) = mounter.ensure(storage).await {
            tracing::warn!(storage = storage.name, ?health, %error, "a storage cannot be used");
        } else {
            health = mounter.health(storage).await;
        }
    }
    Offer { name: storage.name.clone(), path: storage.path.to_string(), ok: health == Health::Ok }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StorageKind;
    use crate::storage::fake::FakeMounter;
    use teamster_values::AbsolutePath;

    #[tokio::test(start_paused = true)]
    async fn follows_the_health_of_each_storage() {
        let mounter = Arc::new(FakeMounter::default());
        let storage = |name: &str, path: &str| StorageConfig {
            name: name.into(),
            kind: StorageKind::Directory,
            path: AbsolutePath::parse(path).unwrap(),
        };
        let storages = vec![storage("a", "/mnt/a"), storage("b", "/mnt/b")];
        let (sender, mut offers) = watch::channel(Vec::new());
        let ok = |offers: &[Offer]| offers.iter().map(|offer| offer.ok).collect::<Vec<_>>();
        let look = async {
            offers.changed().await.unwrap();
            assert_eq!(ok(&offers.borrow_and_update()), [true, true]);
            mounter.set("b", Health::Hung);
            offers.changed().await.unwrap();
            assert_eq!(ok(&offers.borrow_and_update()), [true, false]);
            mounter.set("b", Health::Ok);
            offers.changed().await.unwrap();
            assert_eq!(ok(&offers.borrow_and_update()), [true, true]);
        };
        tokio::select! {
            () = look => {}
            () = keep_offers(storages, mounter.clone(), sender) => unreachable!(),
        }
    }
}
