//! From a URL to a bus.

use std::future::Future;
use std::sync::Arc;

use postrider_core::code::Code;
use postrider_core::engine::Engine;
use postrider_service::{Bus, BusOptions, Error, Result};

use crate::url::EngineUrl;

/// `Bus::connect(url)`. In the prelude.
pub trait Connect: Sized {
    /// Connects to the engine of this URL.
    ///
    /// | URL | engine |
    /// |---|---|
    /// | `embedded:DIR` | durable, in this process, in that directory (`embedded:./data`, `embedded:///var/lib/shop`) |
    /// | `memory:` | the same engine on a memory disk: gone with the process |
    /// | `amqp://USER:PASSWORD@HOST:PORT/VHOST` | RabbitMQ 4.0 or later; `amqps` for TLS |
    /// | `kafka://HOST:PORT,…` | Apache Kafka, in the clear |
    ///
    /// | option | of | means | default |
    /// |---|---|---|---|
    /// | `durability` | `embedded` | `flushed`, `interval`, `os` or `memory`: what a confirmed publish survives, for topics that are made with it | `flushed` |
    /// | `message_bytes_max` | `embedded`, `memory` | the largest message, encoded | 16 MiB |
    /// | `disk_bytes_max` | `embedded` | the most that the log may take on the disk, in bytes: at least eight of the largest messages. Publishers get `PR-1021` where it is reached | no limit |
    /// | `shards` | `amqp` | queues of an ordered subscription: fixed for a topic, and the same for all who use it | 8 |
    /// | `prefix` | `amqp` | what the names of exchanges and queues begin with | `postrider` |
    /// | `hold_max_s` | `amqp` | the server's consumer timeout, in seconds | 1800 |
    /// | `message_bytes_max` | `amqp` | the server's largest message | 16 MiB |
    /// | `heartbeat_s` | `amqp` | seconds between heartbeats | 10 |
    /// | `retain` | `embedded`, `memory` | how long after it was stored a message stays readable that all have settled (`12h`, `7d`; `0s`: not at all): what `flow`, `msg show` and a seek backward see | not at all; what exists keeps what it has |
    /// | `retain_bytes` | `embedded`, `memory` | the most bytes of these that each topic or queue keeps | no limit where `retain` is set |
    /// | `prefix` | `kafka` | what topics and groups begin with | nothing |
    /// | `partitions` | `kafka` | partitions of a topic that is created: the most members that work at once | 8 |
    /// | `replication` | `kafka` | copies of a topic that is created | as the broker says |
    /// | `session` | `kafka` | how long the partitions of a process that died wait: at least `6s`, at most the lease | `10s` |
    /// | `member` | `kafka` | a name that a restarted process keeps: it has its partitions back at once | none |
    ///
    /// A directory is recovered (under 0.3 s by default) on a thread of the runtime that may block, not on the caller's.
    ///
    /// Cancel safety: a directory that was being opened is closed again.
    ///
    /// # Errors
    /// `PR-1101`: no engine of that scheme in this program; `PR-1102`: the URL cannot be read; `PR-1103`: its options contradict each other; what the engine says.
    fn connect(url: &str) -> impl Future<Output = Result<Self>> + Send;

    /// As [`Connect::connect`], with options.
    ///
    /// # Errors
    /// As [`Connect::connect`].
    fn connect_with(url: &str, options: BusOptions) -> impl Future<Output = Result<Self>> + Send;
}

impl Connect for Bus {
    async fn connect(url: &str) -> Result<Self> {
        connect(url).await
    }

    async fn connect_with(url: &str, options: BusOptions) -> Result<Self> {
        connect_with(url, options).await
    }
}

/// [`Connect::connect`] as a function.
///
/// # Errors
/// As [`Connect::connect`].
pub async fn connect(url: &str) -> Result<Bus> {
    connect_with(url, BusOptions::default()).await
}

/// [`Connect::connect_with`] as a function.
///
/// # Errors
/// As [`Connect::connect`].
pub async fn connect_with(url: &str, options: BusOptions) -> Result<Bus> {
    let engine = open(&EngineUrl::parse(url)?, &options).await?;
    Bus::from_engine(engine, options).await
}

/// Schemes that this program could have, and the feature or the release that brings them.
const OTHERS: [(&str, &str); 16] = [
    ("kafka", "kafka"),
    ("amqp", "rabbitmq"),
    ("amqps", "rabbitmq"),
    ("nats", "nats"),
    ("redis", "redis"),
    ("rediss", "redis"),
    ("postgres", "postgres"),
    ("postgresql", "postgres"),
    ("pulsar", "pulsar"),
    ("sqs", "aws"),
    ("kinesis", "aws"),
    ("pubsub", "pubsub"),
    ("amqp10", "amqp10"),
    ("mqtt", "mqtt"),
    ("mqtts", "mqtt"),
    ("zmq", "zeromq"),
];

async fn open(url: &EngineUrl<'_>, options: &BusOptions) -> Result<Arc<dyn Engine>> {
    match url.scheme {
        #[cfg(feature = "embedded")]
        "embedded" => crate::local::open(url, options).await,
        #[cfg(feature = "embedded")]
        "memory" => crate::local::memory(url, options),
        #[cfg(feature = "rabbitmq")]
        "amqp" | "amqps" => crate::rabbit::open(url).await,
        #[cfg(feature = "kafka")]
        "kafka" => crate::kafka::open(url, options).await,
        other => {
            let _ = options;
            Err(unknown(other))
        }
    }
}

fn unknown(scheme: &str) -> Error {
    let error = Error::new(
        Code::URL_UNKNOWN_SCHEME,
        format!("no engine for the scheme `{scheme}`"),
    );
    let other = OTHERS.iter().find(|(s, _)| *s == scheme);
    match (scheme, other) {
        ("embedded" | "memory", _) => error
            .why("the program was built without the feature that brings it")
            .remedy("build with the cargo feature `embedded` of `postrider`"),
        (_, Some((_, feature @ ("kafka" | "rabbitmq")))) => error
            .why(format!(
                "the cargo feature `{feature}` brings it, and this program was built without it"
            ))
            .remedy(format!(
                "build with it: cargo run --release --features {feature} -- …"
            )),
        (_, Some((_, feature))) => error
            .why(format!(
                "the cargo feature `{feature}` will bring it; this version does not have it yet"
            ))
            .remedy("use embedded:DIR or memory: until then"),
        _ => error
            .why("the scheme is misspelt, or no feature brings it")
            .remedy("use embedded:DIR or memory:"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unknown_scheme_names_the_feature_that_would_bring_it() {
        let error = connect("nats://broker:4222").await.err().unwrap();
        assert_eq!(error.code(), Code::URL_UNKNOWN_SCHEME);
        assert!(
            error.to_string().contains("cargo feature `nats`"),
            "{error}"
        );
        #[cfg(not(feature = "kafka"))]
        {
            let error = connect("kafka://broker:9092").await.err().unwrap();
            assert_eq!(error.code(), Code::URL_UNKNOWN_SCHEME);
            assert!(error.to_string().contains("--features kafka"), "{error}");
        }
        let error = connect("kafak://broker").await.err().unwrap();
        assert!(error.to_string().contains("misspelt"), "{error}");
    }
}
