//! The admin API of a directory that no service runs on: asked in this process, without a socket.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use bytes::Bytes;
use tower::ServiceExt as _;

use super::{Api, routes};
use crate::bus::Bus;
use crate::error::{Error, Result};

/// The admin API of a bus, asked in its own process: the same paths, bodies and answers as on the socket, and none of the socket. For a
/// command that opens a directory which nobody runs.
#[derive(Clone)]
pub struct Local {
    router: axum::Router,
}

impl Local {
    /// The API of this bus.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        let api = Arc::new(Api::new(Arc::clone(bus.runtime())));
        Self {
            router: routes::router(api),
        }
    }

    /// Asks; gives the status and the body of the answer.
    ///
    /// # Errors
    /// The path cannot be read as one.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes)> {
        let outside = |error: &dyn std::error::Error| {
            Error::new(
                postrider_core::code::Code::ADMIN_BAD_REQUEST,
                error.to_string(),
            )
        };
        let request = Request::builder().method(method).uri(path);
        let request = request
            .body(Body::from(body))
            .map_err(|error| outside(&error))?;
        let answer = match self.router.clone().oneshot(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await;
        Ok((status, body.map_err(|error| outside(&error))?))
    }
}
