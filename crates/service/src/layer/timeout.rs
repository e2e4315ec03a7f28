//! A limit on how long a handler runs.

use std::task::{Context, Poll};
use std::time::Duration;

use postrider_core::Fut;
use postrider_core::code::Code;
use postrider_core::fault::HandlerError;
use tower::{Layer, Service};

use crate::delivery::{Delivery, Ending};
use crate::error::Error;

/// Cancels a handler that runs longer than this; the message is tried again (`PR-1302`).
#[derive(Clone, Copy, Debug)]
pub struct Timeout {
    limit: Duration,
}

impl Timeout {
    /// Handlers run at most this long.
    #[must_use]
    pub const fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl<S> Layer<S> for Timeout {
    type Service = TimeoutService<S>;

    fn layer(&self, inner: S) -> TimeoutService<S> {
        TimeoutService {
            inner,
            limit: self.limit,
        }
    }
}

/// A handler with a time limit. Made by [`Timeout`].
#[derive(Clone, Debug)]
pub struct TimeoutService<S> {
    inner: S,
    limit: Duration,
}

impl<S> Service<Delivery> for TimeoutService<S>
where
    S: Service<Delivery, Response = Ending>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Ending;
    type Error = S::Error;
    type Future = Fut<'static, Result<Ending, S::Error>>;

    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, delivery: Delivery) -> Self::Future {
        let run = self.inner.call(delivery);
        let limit = self.limit;
        Box::pin(async move {
            match tokio::time::timeout(limit, run).await {
                Ok(ended) => ended,
                Err(_) => {
                    let what = format!("the handler ran longer than {limit:?}");
                    let error = Error::new(Code::HANDLER_TIMED_OUT, what);
                    Ok(Ending::Failed(HandlerError::Transient(error.into())))
                }
            }
        })
    }
}
