//! The settings of librdkafka, each with its reason, and what all clients of one engine share.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{ConsumerContext, StreamConsumer};
use rdkafka::error::KafkaError;
use tokio::sync::watch;

use crate::context::Context;
use crate::options::Options;

/// A broker refuses a shorter session, where nobody set `group.min.session.timeout.ms`.
pub(crate) const SESSION_MIN: Duration = Duration::from_secs(6);
/// A broker refuses a longer session, where nobody set `group.max.session.timeout.ms`.
pub(crate) const SESSION_MAX: Duration = Duration::from_secs(30 * 60);
/// How soon a member learns of a rebalance.
const HEARTBEAT: Duration = Duration::from_millis(1000);

/// What all clients of one engine share.
pub(crate) struct Connection {
    pub(crate) servers: String,
    pub(crate) options: Options,
    /// How many consumers are being closed on threads of their own.
    pub(crate) closing: Arc<watch::Sender<usize>>,
    /// The consumers of this engine, by group.
    pub(crate) members: Mutex<HashMap<String, Weak<Client>>>,
}

/// The consumer of an opened subscription.
pub(crate) type Client = StreamConsumer<Context>;

impl Connection {
    /// A consumer of the group in this process.
    pub(crate) fn member(&self, group: &str) -> Option<Arc<Client>> {
        self.members.lock().get(group)?.upgrade()
    }

    /// What every client begins with.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.servers)
            .set("client.id", "postrider")
            // A topic is made by provisioning, with its partitions, or not at all.
            .set("allow.auto.create.topics", "false")
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set("reconnect.backoff.max.ms", "2000")
            .set_log_level(RDKafkaLogLevel::Warning);
        config
    }

    pub(crate) fn producer(&self, message_bytes_max: usize) -> ClientConfig {
        let mut config = self.client();
        config
            // With it: acks=all, and what is sent again is stored once and in order.
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // ORDER: a message that the producer gave up while later ones of its key go on would be passed by them.
            .set("message.timeout.ms", "0")
            // As the Java client: services in other languages find the same partition for a key.
            .set("partitioner", "murmur2_random")
            // A batch is what came during the last request.
            .set("linger.ms", "1")
            .set("message.max.bytes", message_bytes_max.to_string())
            .set("queue.buffering.max.kbytes", "131072");
        config
    }

    pub(crate) fn consumer(&self, group: &str, lease: Duration) -> ClientConfig {
        let session = lease.clamp(SESSION_MIN, SESSION_MAX);
        let heartbeat = HEARTBEAT.min(session / 3);
        let ms = |time: Duration| time.as_millis().to_string();
        let mut config = self.client();
        config
            .set("group.id", group)
            .set("group.protocol", "classic")
            .set("partition.assignment.strategy", "cooperative-sticky")
            // Progress is committed by the kernel's word alone.
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Never a silent reset: a position that is gone is data loss, and is said.
            .set("auto.offset.reset", "error")
            .set("session.timeout.ms", ms(session))
            .set("heartbeat.interval.ms", ms(heartbeat))
            // The lease: who does not ask for that long loses its partitions.
            .set("max.poll.interval.ms", ms(session))
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "100")
            .set("queued.max.messages.kbytes", "16384")
            .set("queued.min.messages", "10000");
        config
    }
}

/// The context of whatever is not a member of a group.
#[derive(Clone)]
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        crate::context::log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "postrider", %error, reason, "kafka client");
    }
}

impl ConsumerContext for Quiet {}
