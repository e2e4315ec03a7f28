//! What goes back: JSON, or an error with its code.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use postrider_core::code::Code;
use postrider_core::fault::{Advice, Fault, FaultKind};
use serde::Serialize;

/// What a route gives.
pub(super) type Answer<T> = Result<Json<T>, ApiError>;

/// An error as the API writes it: `{"code":"PR-1603","what":…,"why":…,"remedy":…}`.
#[derive(Debug, Serialize)]
pub(super) struct ApiError {
    #[serde(skip)]
    status: StatusCode,
    code: Code,
    what: String,
    why: &'static str,
    remedy: &'static str,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: Code, what: impl Into<String>) -> Self {
        let page = code.explain();
        Self {
            status,
            code,
            what: what.into(),
            why: page.map_or("", |p| p.why),
            remedy: page.map_or("", |p| p.remedy),
        }
    }

    pub(super) fn bad_request(what: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::ADMIN_BAD_REQUEST, what)
    }

    pub(super) fn not_found(what: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::ADMIN_NOT_FOUND, what)
    }
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        let (status, code) = match (&fault.kind, fault.advice) {
            (FaultKind::NotFound, _) => (StatusCode::NOT_FOUND, Code::ADMIN_NOT_FOUND),
            (FaultKind::Conflict, _) => (StatusCode::CONFLICT, Code::CLI_CONFLICT),
            (FaultKind::DataLoss, _) => (StatusCode::CONFLICT, Code::LOG_TRIMMED),
            (FaultKind::TooLarge, _) => (StatusCode::PAYLOAD_TOO_LARGE, Code::PUBLISH_TOO_LARGE),
            (FaultKind::Config | FaultKind::Denied, Advice::FixConfig) => {
                (StatusCode::CONFLICT, Code::CLI_CONFLICT)
            }
            (_, Advice::FixMessage) => (StatusCode::BAD_REQUEST, Code::ADMIN_BAD_REQUEST),
            (FaultKind::Unsupported(_), _) => (StatusCode::NOT_IMPLEMENTED, Code::ADMIN_NOT_FOUND),
            _ => (StatusCode::SERVICE_UNAVAILABLE, Code::ENGINE_FAILED),
        };
        Self::new(status, fault.code.unwrap_or(code), fault.message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}
