//! The leases under which images are pulled and unpacked, and what becomes of those that nobody closed: the last
//! who waited for a pull went, containerd was away, or the agent was killed. They hold what has arrived, for
//! whoever wants the same next, and are given up when nothing is being pulled.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containerd_client::services::v1::ListRequest;
use jiff::Timestamp;

use crate::runtime::RuntimeError;
use crate::runtime::containerd::{AGENT_LABEL, Link, QUICK, call, close_lease, failure, open_lease};

/// The leases of one agent, or of a program that pulls something and ends.
pub(super) struct Leases {
    link: Link,
    /// By what this agent's are told from those of the agent before it; a program's have no mark.
    mark: Option<String>,
    left: Mutex<Vec<String>>,
    has_looked: AtomicBool,
    /// One at a time gives them up.
    giving_up: tokio::sync::Mutex<()>,
}

/// An open lease. Dropped, it is left behind and not forgotten.
pub(super) struct Held {
    lease: String,
    leases: Arc<Leases>,
    is_closed: bool,
}

impl Leases {
    /// Those of the one agent that uses this containerd.
    pub(super) fn of_the_agent(link: Link) -> Arc<Self> {
        let mark = format!("{}-{}", std::process::id(), Timestamp::now().as_nanosecond());
        Self::new(link, Some(mark))
    }

    /// Those of a program beside it.
    pub(super) fn of_a_program(link: Link) -> Arc<Self> {
        Self::new(link, None)
    }

    fn new(link: Link, mark: Option<String>) -> Arc<Self> {
        let (left, giving_up) = (Mutex::default(), tokio::sync::Mutex::default());
        Arc::new(Self { link, mark, left, has_looked: AtomicBool::new(false), giving_up })
    }

    /// Makes one.
    pub(super) async fn open(self: &Arc<Self>, purpose: &str) -> Result<Held, RuntimeError> {
        let lease = open_lease(&self.link, purpose, self.mark.as_deref()).await?;
        Ok(Held { lease, leases: Arc::clone(self), is_closed: false })
    }

    /// Gives up what was left behind, also by the agent before this one. Only for when nothing is being pulled:
    /// what has arrived goes with it. May be dropped anywhere.
    pub(super) async fn give_up(&self) -> Result<(), RuntimeError> {
        let Ok(_alone) = self.giving_up.try_lock() else { return Ok(()) };
        if !self.has_looked.load(Ordering::Relaxed) {
            let found = self.former().await?;
            self.left().extend(found);
            self.has_looked.store(true, Ordering::Relaxed);
        }
        loop {
            let Some(lease) = self.left().last().cloned() else { return Ok(()) };
            close_lease(&self.link, lease.clone(), false).await?;
            self.left().retain(|other| *other != lease);
            tracing::debug!(lease, "given up, with what nothing else holds");
        }
    }

    async fn former(&self) -> Result<Vec<String>, RuntimeError> {
        if self.mark.is_none() {
            return Ok(Vec::new());
        }
        let request = call(ListRequest { filters: vec![format!("labels.\"{AGENT_LABEL}\"")] }, QUICK);
        let answer = self.link.client().leases().list(request).await;
        let leases = answer.map_err(|status| failure("list leases", &status))?.into_inner().leases;
        let former = leases.into_iter().filter(|lease| lease.labels.get(AGENT_LABEL) != self.mark.as_ref());
        Ok(former.map(|lease| lease.id).collect())
    }

    fn left(&self) -> MutexGuard<'_, Vec<String>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    pub(super) fn name(&self) -> &str {
        &self.lease
    }

    /// Gives it up; what nothing else holds is gone when this returns.
    pub(super) async fn close(self) -> Result<(), RuntimeError> {
        self.close_with(false).await
    }

    /// Gives it up where something else holds all that it did.
    pub(super) async fn close_unneeded(self) -> Result<(), RuntimeError> {
        self.close_with(true).await
    }

    async fn close_with(mut self, later: bool) -> Result<(), RuntimeError> {
        close_lease(&self.leases.link, self.lease.clone(), later).await?;
        self.is_closed = true;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_closed {
            self.leases.left().push(std::mem::take(&mut self.lease));
        }
    }
}
