//! RabbitMQ. Exchanges and queues of a prefix of their own, deleted at the end.

use std::sync::Arc;

use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{Connection, ConnectionProperties};
use postrider::contract::Fut;
use postrider::contract::failure::FailureStore;
use postrider::contract::fault::{Advice, Fault, FaultKind};
use postrider::{Bus, Result};

use super::Namespace;
use crate::subject::Subject;

/// Shards of the topic of the cases.
const SHARDS: u16 = 8;
/// The services that the cases have.
const SERVICES: [&str; 3] = ["reader", "left", "right"];
/// The topic of the cases.
const TOPIC: &str = "conformance.ledger";

/// RabbitMQ: every member has connections of its own.
pub struct RabbitMq {
    server: String,
    namespace: Namespace,
}

impl RabbitMq {
    /// A namespace on the server of this URL (`amqp://user:password@host:port/vhost`). Heartbeats go every two seconds, so that a member that stands
    /// still is missed soon.
    ///
    /// # Errors
    /// The failure store beside it cannot be made.
    pub fn new(url: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let server = url.split('?').next().unwrap_or(url).to_owned();
        let url = format!("{server}?shards={SHARDS}&heartbeat_s=2");
        let namespace = Namespace::new(&url)?;
        Ok(Self { server, namespace })
    }
}

impl Subject for RabbitMq {
    fn name(&self) -> &str {
        "rabbitmq"
    }

    fn connect(&self) -> Fut<'static, Result<Bus>> {
        self.namespace.connect()
    }

    fn failures(&self) -> Option<Arc<dyn FailureStore>> {
        Some(self.namespace.failures())
    }

    fn clear(&self) -> Fut<'_, Result<()>> {
        Box::pin(async move {
            clear(&self.server, self.namespace.prefix())
                .await
                .map_err(|error| {
                    let text = error.to_string();
                    Fault::new(FaultKind::Unreachable, Advice::Reconnect, text).into()
                })
        })
    }
}

/// What is not there is deleted as well.
async fn clear(server: &str, prefix: &str) -> Result<(), lapin::Error> {
    let connection = Connection::connect(server, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let mut queues = vec![format!("{prefix}:dead"), format!("{prefix}:unrouted")];
    for service in SERVICES {
        let shards = (0..SHARDS).map(|n| format!("{prefix}:{service}@topic:{TOPIC}#{n}"));
        queues.extend(shards);
    }
    for queue in queues {
        channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await?;
    }
    let exchanges = [
        format!("{prefix}:topic:{TOPIC}"),
        format!("{prefix}:dead"),
        format!("{prefix}:unrouted-of-{SHARDS}"),
    ];
    for exchange in exchanges {
        channel
            .exchange_delete(exchange.into(), ExchangeDeleteOptions::default())
            .await?;
    }
    connection.close(200, "bye".into()).await
}
