//! Topics and starting positions: compared, and made where they are missing. Nothing is ever deleted or changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use postrider_core::code::Code;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::source::SeekTo;
use postrider_core::topology::{ProvisionMode, SubscriptionNeed, Topology, TopologyDiff};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::connection::{Connection, Quiet, SESSION_MIN};
use crate::fault::fault;
use crate::{names, start};

/// How often a broker is asked whether it knows a topic that was made.
const LOOK: std::time::Duration = std::time::Duration::from_millis(50);

pub(crate) struct Provisioner {
    connection: Arc<Connection>,
    admin: Arc<AdminClient<Quiet>>,
}

impl Provisioner {
    pub(crate) const fn new(connection: Arc<Connection>, admin: Arc<AdminClient<Quiet>>) -> Self {
        Self { connection, admin }
    }

    pub(crate) async fn provision(
        &self,
        topology: &Topology,
        mode: ProvisionMode,
    ) -> Result<TopologyDiff, Fault> {
        let prefix = &self.connection.options.prefix;
        let destinations = topology.destinations.iter().map(|d| &d.destination);
        let subscribed = topology.subscriptions.iter().map(|s| &s.id.on);
        let wanted: BTreeSet<_> = destinations.chain(subscribed).collect();
        let there = self.topics().await?;
        let mut diff = TopologyDiff::default();
        let mut missing = Vec::new();
        for destination in wanted {
            let topic = names::topic(prefix, destination);
            if topic.len() > names::TOPIC_BYTES_MAX {
                return Err(too_long(&topic));
            }
            if !there.contains(&topic) {
                missing.push((topic, destination.to_string()));
            }
        }
        if mode == ProvisionMode::Check && !missing.is_empty() {
            diff.missing = missing.into_iter().map(|(topic, _)| topic).collect();
            return Err(lacking(&diff));
        }
        self.create(&missing).await?;
        diff.created = missing.into_iter().map(|(_, text)| text).collect();
        for need in &topology.subscriptions {
            if mode != ProvisionMode::Check && need.start != SeekTo::Earliest {
                self.pin(need).await?;
            }
        }
        Ok(diff)
    }

    /// # Errors
    /// `NotFound`: the topic was not provisioned.
    pub(crate) async fn must_exist(&self, topic: &str) -> Result<(), Fault> {
        if self.topics().await?.contains(topic) {
            return Ok(());
        }
        let text = format!("there is no topic {topic}: provision it, or check the prefix");
        Err(Fault::new(FaultKind::NotFound, Advice::FixConfig, text).code(Code::ENGINE_FAILED))
    }

    async fn topics(&self) -> Result<BTreeSet<String>, Fault> {
        let (admin, within) = (self.admin.clone(), self.connection.options.request_max);
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = admin.inner().fetch_metadata(None, within)?;
            let whole = metadata.topics().iter().filter(|t| t.error().is_none());
            Ok(whole.map(|t| t.name().to_owned()).collect())
        });
        let asked = asked.await.map_err(|_| Fault::closed("the runtime"))?;
        asked.map_err(|e: KafkaError| fault("the topics could not be listed", &e))
    }

    async fn create(&self, missing: &[(String, String)]) -> Result<(), Fault> {
        if missing.is_empty() {
            return Ok(());
        }
        let options = &self.connection.options;
        // -1: what the broker's default says.
        let copies = options.replication.map_or(-1, i32::from);
        let partitions = i32::try_from(options.partitions.max(1)).unwrap_or(i32::MAX);
        let topics: Vec<NewTopic<'_>> = missing
            .iter()
            .map(|(name, _)| NewTopic::new(name, partitions, TopicReplication::Fixed(copies)))
            .collect();
        let within = Some(options.request_max);
        let asks = AdminOptions::new()
            .request_timeout(within)
            .operation_timeout(within);
        let created = self.admin.create_topics(&topics, &asks).await;
        for one in created.map_err(|e| fault("topics could not be created", &e))? {
            match one {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => {
                    let doing = format!("the topic {topic} could not be created");
                    return Err(fault(&doing, &KafkaError::AdminOp(code)));
                }
            }
        }
        self.seen(missing).await
    }

    /// A broker learns of a topic after the controller has made it, and until then says that there is none.
    async fn seen(&self, topics: &[(String, String)]) -> Result<(), Fault> {
        let seeing = async {
            loop {
                let there = self.topics().await?;
                if topics.iter().all(|(topic, _)| there.contains(topic)) {
                    return Ok(());
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let seen = tokio::time::timeout(self.connection.options.request_max, seeing).await;
        seen.unwrap_or_else(|_elapsed| {
            let text = "topics were created, and the broker does not know them yet: try again";
            let after = std::time::Duration::from_millis(500);
            let advice = Advice::Retry { after };
            Err(Fault::new(FaultKind::Timeout, advice, text).code(Code::ENGINE_FAILED))
        })
    }

    /// A subscription that begins elsewhere than with the first message begins *now*, not when its first member is given partitions: the position is
    /// committed for the group where it has none.
    async fn pin(&self, need: &SubscriptionNeed) -> Result<(), Fault> {
        let prefix = &self.connection.options.prefix;
        let (group, topic) = (
            names::group(prefix, &need.id),
            names::topic(prefix, &need.id.on),
        );
        let config = self.connection.consumer(&group, SESSION_MIN, None);
        let connection = self.connection.clone();
        let (begin, within) = (need.start, self.connection.options.request_max);
        let pinned = tokio::task::spawn_blocking(move || {
            // It is not a member: it neither subscribes nor polls.
            let client: BaseConsumer<Quiet> = config.create_with_context(Quiet)?;
            let metadata = client.fetch_metadata(Some(&topic), within)?;
            let partitions = metadata.topics().iter().flat_map(|t| t.partitions());
            let partitions: Vec<i32> = partitions.map(|p| p.id()).collect();
            let list = start::to_pin(
                &client,
                &connection.look,
                &topic,
                &partitions,
                begin,
                within,
            )?;
            match list.count() {
                0 => Ok(()),
                _ => client.commit(&list, CommitMode::Sync),
            }
        });
        match pinned.await.map_err(|_| Fault::closed("the runtime"))? {
            Ok(()) => Ok(()),
            // Members of it run: they have positions, or are about to.
            Err(KafkaError::ConsumerCommit(
                RDKafkaErrorCode::UnknownMemberId | RDKafkaErrorCode::IllegalGeneration,
            )) => Ok(()),
            Err(error) => Err(fault(
                "the start of a subscription could not be kept",
                &error,
            )),
        }
    }
}

fn too_long(topic: &str) -> Fault {
    let text = format!(
        "the topic {topic} would have a name of {} bytes, and Kafka takes {}: shorten it or the prefix",
        topic.len(),
        names::TOPIC_BYTES_MAX
    );
    Fault::new(FaultKind::Config, Advice::FixConfig, text).code(Code::NAME_MALFORMED)
}

fn lacking(diff: &TopologyDiff) -> Fault {
    let text = format!(
        "topics are missing: {}; create them, or connect with provisioning",
        diff.missing.join(", ")
    );
    Fault::new(FaultKind::Config, Advice::FixConfig, text).code(Code::TOPOLOGY_DIFFERS)
}
