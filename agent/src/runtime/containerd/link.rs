//! The connection to containerd and what every call has in common: the namespace, a deadline, perhaps a
//! lease, and the translation of what comes back when a call fails. It knows nothing of containers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_client::Client;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Endpoint, Uri};
use tonic::{Code, Request, Status};

use crate::runtime::RuntimeError;

/// The containerd namespace that holds everything of ours.
pub(crate) const NAMESPACE: &str = "teamster";

/// The snapshotter that images are unpacked with.
pub(crate) const SNAPSHOTTER: &str = "overlayfs";

/// For calls that only touch containerd's database.
pub(crate) const QUICK: Duration = Duration::from_secs(20);

/// For calls that run programs or remove trees: shim, runc, garbage collection.
pub(crate) const SLOW: Duration = Duration::from_secs(120);

/// How long a connect to the local socket may take.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection that is made when it is first used and made again whenever it broke.
#[derive(Clone)]
pub(crate) struct Link {
    channel: tonic::transport::Channel,
}

impl Link {
    /// Must be called inside a tokio runtime; does no I/O.
    pub(crate) fn new(socket: &Path) -> Self {
        let socket: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The URI only fills the `:authority` header; the connector decides where the bytes go.
        let channel = Endpoint::from_static("http://containerd.local")
            .connect_timeout(CONNECT)
            .connect_with_connector_lazy(connector);
        Self { channel }
    }

    /// Clients of all services.
    pub(crate) fn client(&self) -> Client {
        Client::from(self.channel.clone())
    }
}

/// A request in our namespace that is given up after `deadline`, on both sides.
pub(crate) fn call<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("containerd-namespace", tonic::metadata::MetadataValue::from_static(NAMESPACE));
    request.set_timeout(deadline);
    request
}

/// The same, and what it makes is held by `lease` against garbage collection.
pub(crate) fn leased<T>(message: T, deadline: Duration, lease: &str) -> Request<T> {
    let mut request = call(message, deadline);
    let lease = lease.parse().expect("lease ids are ASCII letters, digits and '-'");
    request.metadata_mut().insert("containerd-lease", lease);
    request
}

/// Whether containerd did not answer, as opposed to: answered that it cannot. A status with a cause was made
/// on this side, whatever its code: the connection broke.
pub(crate) fn is_outage(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
        || std::error::Error::source(status).is_some()
}

/// What a failed call means when it means nothing special. `action` fits after "failed to".
pub(crate) fn failure(action: &str, status: &Status) -> RuntimeError {
    if is_outage(status) {
        return RuntimeError::Unavailable(format!("{action}: {}", status.message()));
    }
    RuntimeError::Failed { action: action.to_owned(), reason: status.message().to_owned() }
}

/// Takes "it is not there" for success.
pub(crate) fn or_missing<T>(result: Result<T, Status>) -> Result<Option<T>, Status> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// Takes "it is there already" for success; tells whether it was made now.
pub(crate) fn or_exists<T>(result: Result<T, Status>) -> Result<Option<T>, Status> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(status) if status.code() == Code::AlreadyExists => Ok(None),
        Err(status) => Err(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_socket_is_an_outage_and_not_a_failure() {
        let link = Link::new(Path::new("/nonexistent/containerd.sock"));
        let status = link.client().version().version(call((), QUICK)).await.unwrap_err();
        assert!(is_outage(&status), "{status:?}");
        assert!(matches!(failure("ask", &status), RuntimeError::Unavailable(_)));
    }
}
