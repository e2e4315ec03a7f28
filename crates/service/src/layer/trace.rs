//! One `tracing` event per handled delivery.

use std::task::{Context, Poll};

use postrider_core::Fut;
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::delivery::{Delivery, Ending};

/// Says of each delivery how its handler ended and how long it took: at `DEBUG` where it worked, at `WARN` where it failed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trace;

impl<S> Layer<S> for Trace {
    type Service = TraceService<S>;

    fn layer(&self, inner: S) -> TraceService<S> {
        TraceService { inner }
    }
}

/// A handler that is traced. Made by [`Trace`].
#[derive(Clone, Debug)]
pub struct TraceService<S> {
    inner: S,
}

impl<S> Service<Delivery> for TraceService<S>
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
        let run = self.inner.call(delivery.clone());
        Box::pin(async move {
            let began = Instant::now();
            let ended = run.await;
            if let Ok(ending) = &ended {
                say(&delivery, ending, began);
            }
            ended
        })
    }
}

fn say(delivery: &Delivery, ending: &Ending, began: Instant) {
    let envelope = delivery.envelope();
    let (id, subscription) = (envelope.id, delivery.subscription());
    let (message_type, attempt) = (&envelope.message_type, delivery.attempt());
    let took_ms = began.elapsed().as_millis();
    match ending {
        Ending::Effects(messages) => {
            let sent = messages.len();
            tracing::debug!(%id, %subscription, %message_type, attempt, took_ms, sent, "handled");
        }
        Ending::Committed => {
            tracing::debug!(%id, %subscription, %message_type, attempt, took_ms, "handled and committed");
        }
        Ending::Duplicate => {
            tracing::debug!(%id, %subscription, %message_type, attempt, "handled before")
        }
        other => {
            tracing::warn!(%id, %subscription, %message_type, attempt, took_ms, ending = ?other, "failed");
        }
    }
}
