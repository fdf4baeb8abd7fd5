//! The order of start and stop. Ports are bound first, so that a taken one is told before anything is
//! touched and callers wait in the queue of the socket while the database opens.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use teamster_values::AbsolutePath;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{self, ApiState};
use crate::board::Board;
use crate::cluster::Policy;
use crate::config::{Config, ConfigError, RetryStarted};
use crate::controller::{self, Event, Handle, Parts};
use crate::disk::{self, Guard};
use crate::log_hub::LogHub;
use crate::metrics::Metrics;
use crate::session::{self, Sessions};
use crate::store::{self, StoreError};

/// How often the controller looks at what time alone changes: leases, back-offs, reservations.
const TICK: Duration = Duration::from_millis(500);

/// Why the coordinator did not start or did not go on. The texts fit after "failed to …:".
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is not acceptable.
    #[error("check the configuration: {0}")]
    Config(#[from] ConfigError),
    /// A port cannot be had.
    #[error("listen on {address} (`{field}`): {source}")]
    Listen {
        /// The configuration key.
        field: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The REST API stopped serving.
    #[error("serve the API: {0}")]
    Api(io::Error),
    /// The gRPC API stopped serving.
    #[error("serve the gRPC API: {0}")]
    Grpc(io::Error),
    /// A part of the program panicked.
    #[error("a part of the coordinator panicked: {0}")]
    Panicked(String),
}

/// Runs a coordinator until `shutdown`, or until it cannot go on.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    config.check()?;
    if config.insecure_open {
        tracing::warn!("insecure_open: whoever reaches the listeners may run tasks and read their results");
    }
    let (http, http_address) = listen("http", config.http).await?;
    let (grpc, grpc_address) = listen("grpc", config.grpc).await?;
    let (agents, agents_address) = listen("agents", config.agents).await?;
    let board = Arc::new(Board::default());
    let metrics = Metrics::new(board.clone());
    let data_dir = config.data_dir.clone();
    let (mut guard, room) = Guard::new(&data_dir, config.disk_floor.0, disk::HOLD, metrics.clone());
    let opened = tokio::task::spawn_blocking(move || {
        // First of all: opening takes room, too.
        guard.check();
        store::open(&data_dir).map(|opened| (opened, guard))
    });
    let (opened, guard) = opened.await.map_err(|error| RunError::Panicked(error.to_string()))??;
    let parts = Parts {
        writer: opened.writer,
        reader: opened.reader.clone(),
        board: board.clone(),
        policy: policy(&config),
        storages: config.storage.iter().map(AbsolutePath::to_string).collect(),
        task_retention: config.task_retention.0,
        stranger_retention: config.stranger_retention.0,
        room,
        metrics: metrics.clone(),
    };
    let (controller, thread) = controller::start(parts)?;
    // Where they really are: port 0 in the configuration is any that was free.
    for (listener, address) in [("http", http_address), ("grpc", grpc_address), ("agents", agents_address)] {
        tracing::info!(listener, %address, "listening");
    }
    tracing::info!(cluster = opened.cluster_id, term = opened.term, "coordinator is up");
    let stop = shutdown.child_token();
    let log_hub = Arc::new(LogHub::new(stop.clone()));
    let sessions = Sessions {
        controller: controller.clone(),
        cluster_id: opened.cluster_id.clone(),
        term: opened.term,
        log_hub: log_hub.clone(),
        heartbeat: config.heartbeat.0,
        policy: config.task_policy(),
    };
    let state = ApiState {
        controller: controller.clone(),
        reader: opened.reader,
        board,
        metrics,
        log_hub,
        config: Arc::new(config),
        cluster_id: opened.cluster_id,
        secret: opened.secret,
        admission: Arc::default(),
    };
    let mut parts = JoinSet::new();
    parts.spawn(tick(controller, stop.clone()));
    parts.spawn(watch_disk(guard, stop.clone()));
    parts.spawn({
        let stop = stop.clone();
        async move {
            session::serve(agents, sessions, stop).await;
            Ok(())
        }
    });
    parts.spawn({
        let (state, stop) = (state.clone(), stop.clone());
        async move { api::serve_grpc(grpc, state, stop).await.map_err(RunError::Grpc) }
    });
    parts.spawn({
        let stop = stop.clone();
        async move { api::serve(http, state, stop).await.map_err(RunError::Api) }
    });
    // The controller ends by itself only when a commit has failed; then everything else must go too.
    let writer = tokio::task::spawn_blocking(move || thread.join());
    parts.spawn(async move {
        match writer.await {
            Ok(Ok(result)) => result.map_err(RunError::Store),
            Ok(Err(_)) => Err(RunError::Panicked("controller".to_owned())),
            Err(error) => Err(RunError::Panicked(error.to_string())),
        }
    });
    let mut outcome = Ok(());
    while let Some(ended) = parts.join_next().await {
        let result = ended.unwrap_or_else(|error| Err(RunError::Panicked(error.to_string())));
        if let Err(error) = result {
            tracing::error!(%error, "the coordinator cannot go on");
            outcome = outcome.and(Err(error));
        }
        stop.cancel();
    }
    outcome
}

/// A listener, and the address that it got.
async fn listen(field: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), RunError> {
    let failed = |source| RunError::Listen { field, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn policy(config: &Config) -> Policy {
    Policy {
        retry_started_always: config.retry_started == RetryStarted::Always,
        attempts_max: config.max_attempts,
        lease_millis: config.lease.0.as_millis() as u64,
        preemptible_lease_millis: config.preemptible_lease.0.as_millis() as u64,
        lease_margin_millis: config.lease_margin.0.as_millis() as u64,
    }
}

async fn tick(controller: Handle, stop: CancellationToken) -> Result<(), RunError> {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Losing a tick loses nothing: the next one sees the same time and more.
            () = stop.cancelled() => return Ok(()),
            _ = interval.tick() => {
                if controller.post(Event::Tick).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

async fn watch_disk(mut guard: Guard, stop: CancellationToken) -> Result<(), RunError> {
    // Cancel safe: the guard is only away while it is waited for, and nothing else ends that wait.
    while stop.run_until_cancelled(tokio::time::sleep(TICK)).await.is_some() {
        let checked = tokio::task::spawn_blocking(move || {
            guard.check();
            guard
        });
        guard = checked.await.map_err(|error| RunError::Panicked(error.to_string()))?;
    }
    Ok(())
}
