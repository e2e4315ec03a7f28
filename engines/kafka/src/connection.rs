//! The settings of librdkafka, each with its reason, and what all clients of one engine share.

use std::sync::Arc;
use std::time::Duration;

use postrider_core::fault::{Advice, Fault, FaultKind};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{ConsumerContext, StreamConsumer};
use rdkafka::error::KafkaError;
use tokio::sync::watch;

use crate::board::Board;
use crate::context::Context;
use crate::done;
use crate::look::Look;
use crate::options::Options;
use crate::seats::Seats;

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
    /// How far the members in this process are.
    pub(crate) board: Board,
    /// Their names, where they have one.
    pub(crate) seats: Seats,
    pub(crate) look: Look,
    /// Bytes that the broker keeps beside a committed offset.
    pub(crate) metadata_bytes_max: usize,
}

/// The consumer of an opened subscription.
pub(crate) type Client = StreamConsumer<Context>;

impl Connection {
    pub(crate) fn new(servers: &str, options: Options) -> Self {
        let look = Look::new(client(servers), options.clock.clone(), options.request_max);
        Self {
            servers: servers.to_owned(),
            options,
            closing: Arc::new(watch::Sender::new(0)),
            board: Board::default(),
            seats: Seats::default(),
            look,
            metadata_bytes_max: done::METADATA_BYTES_DEFAULT,
        }
    }

    pub(crate) fn client(&self) -> ClientConfig {
        client(&self.servers)
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

    /// Waits until the consumers that are being closed have left their groups.
    pub(crate) async fn consumers_left(&self, grace: Duration) -> Result<(), Fault> {
        let mut closing = self.closing.subscribe();
        let gone = closing.wait_for(|count| *count == 0);
        if tokio::time::timeout(grace, gone).await.is_err() {
            let text = "a consumer did not leave its group in time: its partitions go to others when its session ends";
            return Err(Fault::new(FaultKind::Timeout, Advice::StopOwner, text));
        }
        Ok(())
    }

    /// `seat`: the member's name in the group.
    pub(crate) fn consumer(
        &self,
        group: &str,
        lease: Duration,
        seat: Option<&str>,
    ) -> ClientConfig {
        let lease = lease.clamp(SESSION_MIN, SESSION_MAX);
        let session = self.options.session.clamp(SESSION_MIN, lease);
        let heartbeat = HEARTBEAT.min(session / 3);
        let ms = |time: Duration| time.as_millis().to_string();
        let mut config = self.client();
        if let Some(seat) = seat {
            // Who comes back under this name has its partitions back at once, and fences off whoever had it.
            config.set("group.instance.id", seat);
        }
        config
            .set("group.id", group)
            .set("group.protocol", "classic")
            .set("partition.assignment.strategy", "cooperative-sticky")
            // Progress is committed by the kernel's word alone.
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Never a silent reset: a position that is gone is data loss, and is said.
            .set("auto.offset.reset", "error")
            // A process that is dead is given up after this.
            .set("session.timeout.ms", ms(session))
            .set("heartbeat.interval.ms", ms(heartbeat))
            // The lease: who does not ask for that long loses its partitions.
            .set("max.poll.interval.ms", ms(lease))
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "100")
            .set("queued.max.messages.kbytes", "16384")
            .set("queued.min.messages", "10000");
        config
    }
}

/// What every client begins with.
fn client(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("client.id", "postrider")
        // A topic is made by provisioning, with its partitions, or not at all.
        .set("allow.auto.create.topics", "false")
        .set("topic.metadata.refresh.interval.ms", "30000")
        .set("reconnect.backoff.max.ms", "2000")
        .set_log_level(RDKafkaLogLevel::Warning);
    config
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
