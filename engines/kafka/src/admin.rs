//! Depth: what was stored and is not committed.

use std::sync::Arc;
use std::time::Duration;

use postrider_core::Fut;
use postrider_core::engine::{Admin, DestinationDepth, SubscriptionDepth};
use postrider_core::fault::Fault;
use postrider_core::name::{Destination, SubscriptionId};
use rdkafka::admin::AdminClient;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaResult;

use crate::connection::{Connection, Quiet, SESSION_MIN};
use crate::fault::fault;
use crate::{names, start};

/// Looks at the server. Positions are counted: of a topic with transactions or compaction that is more than there are messages.
pub(crate) struct KafkaAdmin {
    connection: Arc<Connection>,
    admin: Arc<AdminClient<Quiet>>,
}

impl KafkaAdmin {
    pub(crate) const fn new(connection: Arc<Connection>, admin: Arc<AdminClient<Quiet>>) -> Self {
        Self { connection, admin }
    }

    async fn depth_of(&self, id: &SubscriptionId) -> Result<SubscriptionDepth, Fault> {
        let prefix = &self.connection.options.prefix;
        let (group, topic) = (names::group(prefix, id), names::topic(prefix, &id.on));
        let connection = self.connection.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let within = connection.options.request_max;
            // A member of this process has a connection already.
            if let Some(member) = connection.member(&group) {
                return lag(&*member, &topic, within);
            }
            let config = connection.consumer(&group, SESSION_MIN);
            let client: BaseConsumer<Quiet> = config.create_with_context(Quiet)?;
            lag(&client, &topic, within)
        });
        let asked = asked.await.map_err(|_| Fault::closed("the runtime"))?;
        let depth = asked.map_err(|error| fault("the depth could not be asked", &error))?;
        Ok(SubscriptionDepth {
            depth,
            ..SubscriptionDepth::default()
        })
    }

    async fn all(&self) -> Result<Vec<DestinationDepth>, Fault> {
        let (admin, connection) = (self.admin.clone(), self.connection.clone());
        let asked = tokio::task::spawn_blocking(move || {
            let within = connection.options.request_max;
            let prefix = &connection.options.prefix;
            let metadata = admin.inner().fetch_metadata(None, within)?;
            let mut all = Vec::new();
            for topic in metadata.topics().iter().filter(|t| t.error().is_none()) {
                let Some(destination) = destination(prefix, topic.name()) else {
                    continue;
                };
                let (mut messages, mut next_position) = (0, 0);
                for partition in topic.partitions() {
                    let kept =
                        admin
                            .inner()
                            .fetch_watermarks(topic.name(), partition.id(), within)?;
                    let (low, high) = (kept.0.unsigned_abs(), kept.1.unsigned_abs());
                    messages += high.saturating_sub(low);
                    next_position += high;
                }
                all.push(DestinationDepth {
                    destination,
                    messages,
                    next_position,
                    subscriptions: Vec::new(),
                });
            }
            Ok(all)
        });
        let asked = asked.await.map_err(|_| Fault::closed("the runtime"))?;
        asked.map_err(|error: rdkafka::error::KafkaError| {
            fault("the topics could not be looked at", &error)
        })
    }
}

/// Behind the prefix, and not the server's own.
fn destination(prefix: &str, topic: &str) -> Option<Destination> {
    let name = topic.strip_prefix(prefix)?;
    match name.strip_prefix("_queue.") {
        Some(queue) => Destination::queue(queue.to_owned()).ok(),
        None => Destination::topic(name.to_owned()).ok(),
    }
}

/// Stored and not done, over all partitions.
fn lag<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: &str,
    within: Duration,
) -> KafkaResult<u64> {
    let metadata = consumer.fetch_metadata(Some(topic), within)?;
    let partitions = metadata.topics().iter().flat_map(|t| t.partitions());
    let partitions: Vec<i32> = partitions.map(|p| p.id()).collect();
    start::lag(consumer, topic, &partitions, within)
}

impl Admin for KafkaAdmin {
    fn destinations(&self) -> Fut<'_, Result<Vec<DestinationDepth>, Fault>> {
        Box::pin(self.all())
    }

    fn depth<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
    ) -> Fut<'a, Result<SubscriptionDepth, Fault>> {
        Box::pin(self.depth_of(subscription))
    }
}
