//! Speaks gRPC to the coordinator: is told of the changes of tasks instead of asking for them. Only this file
//! of the program knows that wire; what to do when nobody answers is for others to decide.

use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt, TryStreamExt};
use teamster_proto::tes::v1 as wire;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use wire::task_service_client::TaskServiceClient;

use crate::args::{GrpcArgs, UsageError};
use crate::client::{Client, innermost};

/// The port of a coordinator's gRPC API unless somebody says otherwise.
const USUAL_PORT: u16 = 8001;
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// A task may not change for days; that the coordinator is there is asked meanwhile.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Where changes are told.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    endpoint: Endpoint,
}

/// Why nothing more is told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// Nobody answers there, or not any more.
    #[error("{0}")]
    Gone(String),
    /// Somebody answers, and it makes no sense to ask again.
    #[error("{0}")]
    Refused(String),
}

impl Watch {
    /// The gRPC API that the user means, beside the server of `client`.
    pub(crate) fn new(args: &GrpcArgs, client: &Client) -> Result<Self, UsageError> {
        let address = match args.grpc.as_deref().filter(|address| !address.is_empty()) {
            None => format!("http://{}:{USUAL_PORT}", client.host()),
            Some(address) if address.contains("://") => address.to_owned(),
            Some(address) => format!("http://{address}"),
        };
        let refuse = |reason: &str| {
            UsageError(format!("--grpc '{address}' is not an address such as 127.0.0.1:8001: {reason}"))
        };
        let endpoint = Endpoint::from_shared(address.clone()).map_err(|error| refuse(&error.to_string()))?;
        if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().authority().is_none() {
            return Err(refuse("only http is spoken"));
        }
        let endpoint = endpoint
            .connect_timeout(CONNECT_DEADLINE)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        Ok(Self { endpoint })
    }

    /// Where that is.
    pub(crate) fn address(&self) -> String {
        self.endpoint.uri().to_string()
    }

    /// Tells `on_state` of the state of each task at once and then of each change, until every task has
    /// ended.
    pub(crate) async fn follow(
        &self,
        ids: &[&str],
        mut on_state: impl FnMut(&str, &str),
    ) -> Result<(), WatchError> {
        let channel = self.endpoint.connect().await.map_err(|error| WatchError::Gone(innermost(&error)))?;
        let client = TaskServiceClient::new(channel);
        let streams = ids.iter().map(|id| one(client.clone(), id));
        let mut all = stream::select_all(streams);
        // A coordinator that falls silent is noticed by the keepalive.
        while let Some(told) = all.next().await {
            let task = told?.task.unwrap_or_default();
            let state = task.state().as_str_name();
            on_state(&task.id, state.strip_prefix("STATE_").unwrap_or(state));
        }
        Ok(())
    }
}

/// What is told of one task.
fn one(
    mut client: TaskServiceClient<Channel>,
    id: &str,
) -> impl Stream<Item = Result<wire::WatchTaskResponse, WatchError>> + use<> {
    let request = wire::WatchTaskRequest { id: id.to_owned(), view: wire::View::Minimal.into() };
    let opened = async move { client.watch_task(request).await.map(tonic::Response::into_inner) };
    Box::pin(stream::once(opened).try_flatten().map_err(WatchError::from))
}

impl From<Status> for WatchError {
    fn from(status: Status) -> Self {
        let reason = match std::error::Error::source(&status) {
            Some(source) => innermost(source),
            None => status.message().to_owned(),
        };
        match status.code() {
            Code::NotFound | Code::InvalidArgument | Code::Unimplemented | Code::PermissionDenied => {
                Self::Refused(reason)
            }
            _ => Self::Gone(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::ServerArgs;

    fn address(server: &str, grpc: Option<&str>) -> Result<String, UsageError> {
        let client = Client::new(&ServerArgs { server: server.into() }).unwrap();
        Watch::new(&GrpcArgs { grpc: grpc.map(str::to_owned) }, &client).map(|watch| watch.address())
    }

    #[test]
    fn is_looked_for_beside_the_server() {
        assert_eq!(address("http://127.0.0.1:8000", None).unwrap(), "http://127.0.0.1:8001/");
        assert_eq!(address("http://gate/tes/", None).unwrap(), "http://gate:8001/");
        assert_eq!(address("http://[::1]:9", Some("")).unwrap(), "http://[::1]:8001/");
        assert_eq!(address("http://x", Some("10.0.0.1:9")).unwrap(), "http://10.0.0.1:9/");
        assert_eq!(address("http://x", Some("http://y:9")).unwrap(), "http://y:9/");
        for wrong in ["https://y:9", "a b", "ftp://y"] {
            assert!(address("http://x", Some(wrong)).is_err(), "{wrong}");
        }
    }
}
