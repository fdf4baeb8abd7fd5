//! A mounter for tests: says what it is told to say, and touches nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::{Health, Mounter, StorageError};
use crate::config::StorageConfig;

/// Storages are [`Health::Ok`] unless a test says otherwise.
#[derive(Debug, Default)]
pub struct FakeMounter {
    health: Mutex<BTreeMap<String, Health>>,
}

impl FakeMounter {
    /// From now on the storage of this name is like this.
    pub fn set(&self, name: &str, health: Health) {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), health);
    }
}

#[async_trait]
impl Mounter for FakeMounter {
    async fn ensure(&self, storage: &StorageConfig) -> Result<(), StorageError> {
        match self.health(storage).await {
            Health::Ok => Ok(()),
            other => Err(StorageError::Failed {
                name: storage.name.clone(),
                reason: format!("a test made it {other:?}"),
            }),
        }
    }

    async fn health(&self, storage: &StorageConfig) -> Health {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.get(&storage.name).copied().unwrap_or(Health::Ok)
    }
}
