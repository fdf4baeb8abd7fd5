//! The same API over gRPC. Messages become what REST's own checks read and are made from what REST's own
//! views show, so that no rule stands here: only names, and who is told when.

mod answer;
mod ask;
mod intake;
mod serve;
mod watch;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use prost::Message;
use teamster_proto::tes::v1 as wire;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use wire::task_service_server::{TaskService, TaskServiceServer};

pub use serve::serve;

use super::caller::{Caller, Peer, Surface};
use super::request::{self, BODY_BYTES_MAX};
use super::{Api, admission, list, once, tasks};

/// What serves the calls.
struct Service {
    api: Arc<Api>,
    shutdown: CancellationToken,
}

/// All services of the port: tasks, and by their standards health and reflection.
fn routes(api: Arc<Api>, shutdown: CancellationToken) -> (Routes, tonic_health::server::HealthReporter) {
    let service = TaskServiceServer::new(Service { api, shutdown }).max_decoding_message_size(BODY_BYTES_MAX);
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(wire::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::new(service)
        .add_service(health_service)
        .add_service(reflection().build_v1().expect("the descriptors were made by protoc"))
        // What was called so for years is all that older clients know.
        .add_service(reflection().build_v1alpha().expect("the descriptors were made by protoc"));
    (routes, health)
}

#[tonic::async_trait]
impl TaskService for Service {
    async fn create_task(
        &self,
        request: Request<wire::CreateTaskRequest>,
    ) -> Result<Response<wire::CreateTaskResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let key = once::key(&metadata.into_headers())?;
        let task = message.task.unwrap_or_default();
        let config = self.api.state.config.clone();
        let (request, once) = admission::read(task.encoded_len(), move || {
            let request = request::check(ask::task(task), &config)?;
            let once = once::once(key, &request.spec, &config);
            Ok((request, once))
        })
        .await?;
        let id = tasks::submit(&self.api, request, once).await?;
        Ok(Response::new(wire::CreateTaskResponse { id: id.to_string() }))
    }

    async fn get_task(&self, request: Request<wire::GetTaskRequest>) -> Result<Response<wire::Task>, Status> {
        let wire::GetTaskRequest { id, view } = request.into_inner();
        let view = tasks::view(&ask::view(view))?;
        let task = tasks::read(&self.api, &id, view, false)?;
        Ok(Response::new(answer::task(task)))
    }

    async fn list_tasks(
        &self,
        request: Request<wire::ListTasksRequest>,
    ) -> Result<Response<wire::ListTasksResponse>, Status> {
        let parameters = ask::list(request.into_inner());
        let page = list::page(&self.api, &parameters, false, answer::list).await?;
        Ok(Response::new(page))
    }

    async fn cancel_task(
        &self,
        request: Request<wire::CancelTaskRequest>,
    ) -> Result<Response<wire::CancelTaskResponse>, Status> {
        let by = Caller::described(request.extensions().get::<Peer>().copied(), Surface::Grpc);
        tasks::cancel(&self.api, &request.into_inner().id, by).await?;
        Ok(Response::new(wire::CancelTaskResponse {}))
    }

    type WatchTaskStream = watch::Watching;

    async fn watch_task(
        &self,
        request: Request<wire::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        let wire::WatchTaskRequest { id, view } = request.into_inner();
        let view = tasks::view(&ask::view(view))?;
        let watching = watch::begin(self.api.clone(), id, view, self.shutdown.clone())?;
        Ok(Response::new(watching))
    }
}
