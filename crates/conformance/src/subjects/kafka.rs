//! Apache Kafka. Topics of a prefix of their own, deleted at the end.

use std::sync::Arc;
use std::time::Duration;

use postrider::contract::Fut;
use postrider::contract::failure::FailureStore;
use postrider::contract::fault::{Advice, Fault, FaultKind};
use postrider::{Bus, Result};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::Namespace;
use crate::subject::Subject;

/// Kafka: every member has a connection of its own.
pub struct Kafka {
    servers: String,
    namespace: Namespace,
}

impl Kafka {
    /// A namespace on the server of this URL (`kafka://host:port`).
    ///
    /// # Errors
    /// The failure store beside it cannot be made.
    pub fn new(url: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let rest = url.strip_prefix("kafka://").unwrap_or(url);
        let servers = rest.split('?').next().unwrap_or(rest).to_owned();
        let namespace = Namespace::new(url)?;
        Ok(Self { servers, namespace })
    }

    /// What its topics and groups begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.namespace.prefix()
    }
}

impl Subject for Kafka {
    fn name(&self) -> &str {
        "kafka"
    }

    fn connect(&self) -> Fut<'static, Result<Bus>> {
        self.namespace.connect()
    }

    fn failures(&self) -> Option<Arc<dyn FailureStore>> {
        Some(self.namespace.failures())
    }

    /// A broker takes no session shorter than `group.min.session.timeout.ms`, which is 6 s where nobody set it.
    fn lease(&self) -> Duration {
        Duration::from_secs(6)
    }

    fn clear(&self) -> Fut<'_, Result<()>> {
        Box::pin(async move {
            let (servers, prefix) = (self.servers.clone(), self.namespace.prefix().to_owned());
            clear(servers, prefix).await.map_err(|error| {
                Fault::new(FaultKind::Unreachable, Advice::Reconnect, error.to_string()).into()
            })
        })
    }
}

const ADMIN_MAX: Duration = Duration::from_secs(15);

async fn clear(
    servers: String,
    prefix: String,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers);
    let listing = config.clone();
    let listed = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = listing.create()?;
        let metadata = consumer.fetch_metadata(None, ADMIN_MAX)?;
        let names = metadata.topics().iter().map(|t| t.name().to_owned());
        let ours: Vec<String> = names.filter(|name| name.starts_with(&prefix)).collect();
        Ok::<_, rdkafka::error::KafkaError>(ours)
    });
    let topics = listed.await??;
    if topics.is_empty() {
        return Ok(());
    }
    let admin: AdminClient<DefaultClientContext> = config.create()?;
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let options = AdminOptions::new().operation_timeout(Some(ADMIN_MAX));
    for deleted in admin.delete_topics(&names, &options).await? {
        deleted.map_err(|(topic, code)| format!("{topic}: {code}"))?;
    }
    Ok(())
}
