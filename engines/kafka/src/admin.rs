//! Depth: what was stored and is not committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use postrider_core::Fut;
use postrider_core::engine::{Admin, DestinationDepth, SubscriptionDepth};
use postrider_core::fault::Fault;
use postrider_core::name::{Destination, SubscriptionId};
use rdkafka::error::KafkaError;

use crate::connection::Connection;
use crate::fault::fault;
use crate::names;

/// Looks at the server. Positions are counted: of a topic with transactions or compaction that is more than there are messages.
pub(crate) struct KafkaAdmin {
    connection: Arc<Connection>,
}

impl KafkaAdmin {
    pub(crate) const fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }

    async fn depth_of(&self, id: &SubscriptionId) -> Result<SubscriptionDepth, Fault> {
        let prefix = &self.connection.options.prefix;
        let (group, topic) = (names::group(prefix, id), names::topic(prefix, &id.on));
        let connection = self.connection.clone();
        let asked = tokio::task::spawn_blocking(move || {
            // ORDER: what is done before what there is.
            let own = connection.board.of(&group);
            connection.look.lag(&group, &topic, &own)
        });
        let asked = asked.await.map_err(|_| Fault::closed("the runtime"))?;
        let depth = asked.map_err(|error| fault("the depth could not be asked", &error))?;
        Ok(SubscriptionDepth {
            depth,
            ..SubscriptionDepth::default()
        })
    }

    async fn all(&self) -> Result<Vec<DestinationDepth>, Fault> {
        let connection = self.connection.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let prefix = &connection.options.prefix;
            let edges = connection
                .look
                .all_edges(|topic| destination(prefix, topic).is_some())?;
            let mut all: BTreeMap<String, (u64, u64)> = BTreeMap::new();
            for ((topic, _), (low, high)) in edges {
                let (messages, next_position) = all.entry(topic).or_default();
                *messages += high.saturating_sub(low);
                *next_position += high;
            }
            let depth = |(topic, (messages, next_position)): (String, (u64, u64))| {
                Some(DestinationDepth {
                    destination: destination(prefix, &topic)?,
                    messages,
                    next_position,
                    subscriptions: Vec::new(),
                })
            };
            Ok(all.into_iter().filter_map(depth).collect())
        });
        let asked = asked.await.map_err(|_| Fault::closed("the runtime"))?;
        asked.map_err(|error: KafkaError| fault("the topics could not be looked at", &error))
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
