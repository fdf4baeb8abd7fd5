//! The one table from what went wrong to an HTTP status and a gRPC code.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tonic::{Code, Status};

use crate::controller::{KeyReused, Stopped, SubmitError};
use crate::store::StoreError;

/// A gRPC message travels in a header, where every odd byte takes three, and clients refuse headers of more
/// than 8 or 16 KiB.
const STATUS_BYTES_MAX: usize = 2 << 10;

/// Why a request is not answered as it was meant.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// What was sent makes no sense; the text names every error.
    #[error("{0}")]
    Invalid(String),
    /// More was sent than is taken.
    #[error("the request body is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The body stopped coming.
    #[error("the request body did not arrive in time")]
    BodyTimeout,
    /// A web page of another site sent it through its visitor's browser.
    #[error("requests from web pages of other sites are refused")]
    OtherSite,
    /// The request bears the name of another one.
    #[error(transparent)]
    KeyReused(KeyReused),
    /// No such task, or not the caller's.
    #[error("there is no task '{0}'")]
    NoSuchTask(String),
    /// No such path, or not with this method.
    #[error("there is nothing here; the API is at /v1 and /ga4gh/tes/v1")]
    NoSuchRoute,
    /// A row on disk cannot be understood, and never will be.
    #[error("the stored task cannot be read")]
    Damaged(#[source] StoreError),
    /// A passing cause: no answer is the right answer, see [`Abandoned`].
    #[error("the coordinator is stopping")]
    Passing,
}

/// Marks a response that must not be sent: the connection is closed instead, and the client, which cannot
/// know what happened, tries again.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the request is dropped without an answer")]
pub(super) struct Abandoned;

impl ApiError {
    /// The table: what HTTP calls it, and what gRPC does.
    fn codes(&self) -> (StatusCode, Code) {
        match self {
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, Code::InvalidArgument),
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded),
            Self::OtherSite => (StatusCode::FORBIDDEN, Code::PermissionDenied),
            Self::KeyReused(_) => (StatusCode::CONFLICT, Code::AlreadyExists),
            Self::NoSuchTask(_) => (StatusCode::NOT_FOUND, Code::NotFound),
            Self::NoSuchRoute => (StatusCode::NOT_FOUND, Code::Unimplemented),
            Self::Damaged(_) => (StatusCode::INTERNAL_SERVER_ERROR, Code::DataLoss),
            Self::Passing => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, _) = self.codes();
        let body = json!({ "status_code": status.as_u16(), "msg": self.to_string() });
        let mut response = (status, Json(body)).into_response();
        if matches!(self, Self::Passing) {
            response.extensions_mut().insert(Abandoned);
        }
        response
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let (_, code) = error.codes();
        let mut message = error.to_string();
        if message.len() > STATUS_BYTES_MAX {
            message.truncate(message.floor_char_boundary(STATUS_BYTES_MAX));
            message.push('…');
        }
        Self::new(code, message)
    }
}

impl From<Stopped> for ApiError {
    fn from(_: Stopped) -> Self {
        Self::Passing
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Stopped(_) => Self::Passing,
            SubmitError::KeyReused(reused) => Self::KeyReused(reused),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "failed to answer a request");
        match error {
            StoreError::Record { .. } => Self::Damaged(error),
            _ => Self::Passing,
        }
    }
}
