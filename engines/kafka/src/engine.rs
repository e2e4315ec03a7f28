//! The engine: a connection, what the server is, and what it gives.

use std::sync::Arc;
use std::time::Duration;

use postrider_core::Fut;
use postrider_core::capability::{Capabilities, Capability, Support};
use postrider_core::code::Code;
use postrider_core::engine::{Admin, Engine, EngineInfo, Publisher};
use postrider_core::failure::FailureStore;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::id::InstanceId;
use postrider_core::name::Destination;
use postrider_core::source::Source;
use postrider_core::subscription::SubscriptionSpec;
use postrider_core::topology::{ProvisionMode, Topology, TopologyDiff};
use rdkafka::admin::AdminClient;

use crate::admin::KafkaAdmin;
use crate::connection::{Connection, Quiet};
use crate::fault::fault;
use crate::options::Options;
use crate::probe::{Probed, probe};
use crate::provision::Provisioner;
use crate::publisher::KafkaPublisher;
use crate::source::KafkaSource;
use crate::{names, record};

/// Kafka as an engine. One per process is enough; it holds one producer, and a consumer for each subscription that is opened.
pub struct KafkaEngine {
    info: EngineInfo,
    connection: Arc<Connection>,
    provisioner: Provisioner,
    publisher: Arc<KafkaPublisher>,
    admin: Arc<KafkaAdmin>,
}

impl KafkaEngine {
    /// Connects to brokers (`host:port`, separated by commas) and asks what they are.
    ///
    /// Cancel safety: a connection that was being made is closed again.
    ///
    /// # Errors
    /// `Unreachable`: no broker answers. `Config`: librdkafka refuses a setting.
    pub async fn connect(servers: &str, options: Options) -> Result<Self, Fault> {
        if servers.is_empty() {
            let text = "no broker is named, as in kafka://127.0.0.1:9092";
            return Err(
                Fault::new(FaultKind::Config, Advice::FixConfig, text).code(Code::URL_MALFORMED)
            );
        }
        let mut connection = Connection::new(servers, options);
        let refused = |error| fault("the connection could not be made", &error);
        let admin: AdminClient<Quiet> = connection
            .client()
            .create_with_context(Quiet)
            .map_err(refused)?;
        let admin = Arc::new(admin);
        let probed = probe(&connection, &admin).await?;
        connection.metadata_bytes_max = probed.metadata_bytes_max;
        let connection = Arc::new(connection);
        let info = info(servers, &probed);
        let publisher = KafkaPublisher::new(&connection, &probed).map_err(refused)?;
        Ok(Self {
            admin: Arc::new(KafkaAdmin::new(connection.clone())),
            provisioner: Provisioner::new(connection.clone(), admin),
            publisher: Arc::new(publisher),
            connection,
            info,
        })
    }
}

fn info(servers: &str, probed: &Probed) -> EngineInfo {
    EngineInfo {
        scheme: "kafka",
        product: "Apache Kafka".into(),
        version: probed.version.clone(),
        location: servers.to_owned(),
        durability: probed.durability,
        capabilities: capabilities(probed.message_bytes_max),
    }
}

fn capabilities(message_bytes_max: usize) -> Capabilities {
    use Capability as C;
    let native = [
        C::ConfirmedPublish,
        C::KeyOrder,
        C::CompetingConsumers,
        C::FanOut,
        C::Replay,
        C::Lag,
    ];
    let mut can = Capabilities::none(message_bytes_max.saturating_sub(record::OVERHEAD));
    for capability in native {
        can = can.with(capability, Support::Native);
    }
    let emulated = [
        (
            C::LeaseExtension,
            "a partition is kept while its member asks for more",
            "a member that stands still for a lease loses all its partitions",
        ),
        (
            C::Expiry,
            "a member drops what has expired when it takes it",
            "it stays in the topic until its retention removes it",
        ),
    ];
    for (capability, how, cost) in emulated {
        can = can.with(capability, Support::Emulated { how, cost });
    }
    let absent = [
        (
            C::DelayedDelivery,
            "Kafka hands out in order of the log, at once",
        ),
        (C::CancelDelayed, "Kafka keeps no message back"),
        (
            C::DelayedRetry,
            "Kafka gives nothing back: the kernel holds what waits",
        ),
        (
            C::PublishDedupe,
            "the idempotent producer knows its own session, not message ids",
        ),
        (
            C::AtomicSettle,
            "this adapter does not use Kafka's transactions yet",
        ),
        (C::AtomicDeadLetter, "the failure store stands beside Kafka"),
        (
            C::FailureStore,
            "Kafka keeps no failure records: name a store with Service::failures",
        ),
        (C::RequestReply, "this adapter has no reply topics yet"),
        (C::ExpectedVersion, "Kafka appends whatever the version"),
    ];
    for (capability, why) in absent {
        can = can.with(capability, Support::Absent { why });
    }
    can
}

impl Engine for KafkaEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn provision<'a>(
        &'a self,
        topology: &'a Topology,
        mode: ProvisionMode,
    ) -> Fut<'a, Result<TopologyDiff, Fault>> {
        Box::pin(self.provisioner.provision(topology, mode))
    }

    fn publisher(&self) -> Fut<'_, Result<Arc<dyn Publisher>, Fault>> {
        Box::pin(async move { Ok(self.publisher.clone() as Arc<dyn Publisher>) })
    }

    fn open<'a>(&'a self, spec: &'a SubscriptionSpec) -> Fut<'a, Result<Source, Fault>> {
        Box::pin(async move {
            let topic = names::topic(&self.connection.options.prefix, &spec.id.on);
            self.provisioner.must_exist(&topic).await?;
            let source = KafkaSource::open(&self.connection, spec, topic)?;
            Ok(Source::Log(Box::new(source)))
        })
    }

    fn inbox(&self, _: InstanceId) -> Fut<'_, Result<(Destination, Source), Fault>> {
        Box::pin(async {
            let text = "no replies over Kafka: this adapter has no reply topics yet; answer with an event, or use another engine for requests";
            let kind = FaultKind::Unsupported(Capability::RequestReply);
            Err(Fault::new(kind, Advice::FixConfig, text).code(Code::ENGINE_FAILED))
        })
    }

    fn failures(&self) -> Option<Arc<dyn FailureStore>> {
        None
    }

    fn admin(&self) -> Option<Arc<dyn Admin>> {
        Some(self.admin.clone())
    }

    fn close(&self, grace: Duration) -> Fut<'_, Result<(), Fault>> {
        Box::pin(async move {
            // At once: the second gets no grace of its own.
            let (flushed, left) = tokio::join!(
                self.publisher.close(grace),
                self.connection.consumers_left(grace)
            );
            flushed.and(left)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Instant;

    use futures_util::FutureExt as _;
    use postrider_core::clock::Timestamp;
    use postrider_core::envelope::{Envelope, Outgoing};
    use postrider_core::id::MessageId;
    use postrider_core::text::Text;
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::test_support::TokioClock;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_close_takes_its_grace_once() {
        const GRACE: Duration = Duration::from_secs(3);
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("t", 1, 1).unwrap();
        let options = Options::on(TokioClock::new());
        let servers = mock.bootstrap_servers();
        let engine = KafkaEngine::connect(&servers, options).await.unwrap();
        mock.broker_down(1).unwrap();
        // A message that is never confirmed, and a consumer that never leaves.
        let id = MessageId::v7(Timestamp(1), [1, 7]);
        let message = Outgoing {
            destination: Destination::topic("t").unwrap(),
            envelope: Envelope::new(id, Text::from("tests"), Text::from("t"), Timestamp(1)),
            payload: "x".into(),
        };
        let publisher = engine.publisher().await.unwrap();
        let mut sent = publisher.publish(vec![message]);
        assert!((&mut sent).now_or_never().is_none());
        engine.connection.closing.send_modify(|count| *count += 1);
        let begin = Instant::now();
        let closed = engine.close(GRACE).await;
        let took = begin.elapsed();
        assert!(closed.is_err(), "{closed:?}");
        assert!(took < GRACE * 5 / 3, "{took:?}");
    }
}
