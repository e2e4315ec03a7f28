//! A connection that is opened again when it is gone. Publishing and consuming have one each: a server that lacks room blocks those who publish.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties};
use postrider_core::clock::backoff_up_to;
use postrider_core::fault::Fault;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::error::{closed, fault, too_late};

/// How long a connection or a channel may take to open.
pub(crate) const OPEN_MAX: Duration = Duration::from_secs(10);

const BACKOFF_MAX: Duration = Duration::from_secs(10);

pub(crate) struct Link {
    uri: AMQPUri,
    /// What the server shows of it.
    name: String,
    current: Mutex<Option<Arc<Connection>>>,
    closed: AtomicBool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Link {
    pub(crate) fn new(uri: AMQPUri, name: String) -> Self {
        Self {
            uri,
            name,
            current: Mutex::new(None),
            closed: AtomicBool::new(false),
        }
    }

    /// A new channel, on the connection that is there or on a new one.
    ///
    /// CANCEL: a connection that was being opened is dropped, and so closed.
    ///
    /// # Errors
    /// Unreachable, refused, or closed.
    pub(crate) async fn channel(&self) -> Result<Channel, Fault> {
        let connection = self.connection().await?;
        let what = "opening a channel";
        match timeout(OPEN_MAX, connection.create_channel()).await {
            Ok(opened) => opened.map_err(|error| fault(what, &error)),
            Err(_) => Err(too_late(what, OPEN_MAX)),
        }
    }

    async fn connection(&self) -> Result<Arc<Connection>, Fault> {
        let mut current = self.current.lock().await;
        if self.closed.load(Ordering::SeqCst) {
            return Err(closed());
        }
        if let Some(connection) = current.as_ref().filter(|c| c.status().connected()) {
            return Ok(Arc::clone(connection));
        }
        *current = None;
        let what = "connecting to RabbitMQ";
        let properties = ConnectionProperties::default()
            .with_connection_name(self.name.as_str().into())
            .with_client_property("product".into(), "Postrider".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let connecting = Connection::connect_uri(self.uri.clone(), properties);
        let connection = match timeout(OPEN_MAX, connecting).await {
            Ok(opened) => Arc::new(opened.map_err(|error| fault(what, &error))?),
            Err(_) => return Err(too_late(what, OPEN_MAX)),
        };
        *current = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Closes the connection; nothing is opened any more. Idempotent.
    pub(crate) async fn close(&self, within: Duration) {
        self.closed.store(true, Ordering::SeqCst);
        let closing = async {
            if let Some(connection) = self.current.lock().await.take() {
                // One that is gone already is closed.
                let _ = connection.close(200, "bye".into()).await;
            }
        };
        let _ = timeout(within, closing).await;
    }
}

/// How long to wait before try number `tries`, which counts from 1: exponential, between half and all of it by chance.
pub(crate) fn backoff(tries: u32) -> Duration {
    use std::hash::{BuildHasher as _, Hasher as _};
    // For jitter alone: each `RandomState` has keys of its own.
    let random = std::hash::RandomState::new().build_hasher().finish();
    backoff_up_to(BACKOFF_MAX, tries, random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_limit_and_two_do_not_wait_alike() {
        for tries in 1..40 {
            let full = (Duration::from_millis(100) * (1 << (tries - 1).min(10))).min(BACKOFF_MAX);
            let wait = backoff(tries);
            assert!(wait >= full / 2 && wait <= full, "{tries}: {wait:?}");
        }
        let waits: Vec<Duration> = (0..8).map(|_| backoff(9)).collect();
        assert!(waits.iter().any(|w| *w != waits[0]));
    }
}
