//! `kafka://HOST:PORT[,HOST:PORT]`.

use std::sync::Arc;
use std::time::Duration;

use postrider_core::engine::Engine;
use postrider_kafka::{KafkaEngine, Options};
use postrider_service::{BusOptions, Result};

use crate::url::{EngineUrl, duration, malformed};

/// The longest prefix, in bytes: with it every name still fits into Kafka's limit.
const PREFIX_BYTES_MAX: usize = 40;

/// The longest name of a member, in bytes: with the number behind it, it still fits into Kafka's limit.
const MEMBER_BYTES_MAX: usize = 200;
/// A broker refuses a shorter one, where nobody set `group.min.session.timeout.ms`.
const SESSION_MIN: Duration = Duration::from_secs(6);

pub(crate) async fn open(url: &EngineUrl<'_>, bus: &BusOptions) -> Result<Arc<dyn Engine>> {
    let servers = url.rest.strip_prefix("//").unwrap_or(url.rest);
    let servers = servers.trim_end_matches('/');
    if servers.is_empty() || servers.contains(['/', '@']) {
        return Err(malformed(
            "it names brokers as host:port, separated by commas, as in kafka://127.0.0.1:9092; credentials cannot be given yet",
        ));
    }
    let mut options = Options::on(bus.clock.clone());
    for (name, value) in &url.options {
        match *name {
            "prefix" => options.prefix = prefix(value)?,
            "partitions" => options.partitions = number(name, value, 10_000)?,
            "replication" => options.replication = Some(number(name, value, 100)? as u16),
            "session" => options.session = session(value)?,
            "member" => options.member = Some(member(value)?),
            other => return Err(malformed(format!("kafka: has no option `{other}`"))),
        }
    }
    Ok(Arc::new(KafkaEngine::connect(servers, options).await?))
}

fn prefix(text: &str) -> Result<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.len() > PREFIX_BYTES_MAX || !text.chars().all(allowed) {
        return Err(malformed(
            "prefix is at most 40 characters of a-z A-Z 0-9 . _ -",
        ));
    }
    Ok(text.to_owned())
}

/// A name that Kafka takes as `group.instance.id`, with room for a number behind it.
fn member(text: &str) -> Result<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.is_empty() || text.len() > MEMBER_BYTES_MAX || !text.chars().all(allowed) {
        return Err(malformed(
            "member is 1 to 200 characters of a-z A-Z 0-9 . _ -",
        ));
    }
    Ok(text.to_owned())
}

fn session(text: &str) -> Result<Duration> {
    let long_enough = duration(text).filter(|time| *time >= SESSION_MIN);
    long_enough.ok_or_else(|| malformed("session is a time of at least 6s, as in session=10s"))
}

fn number(name: &str, text: &str, most: u32) -> Result<u32> {
    let number = text.parse().ok().filter(|n| (1..=most).contains(n));
    number.ok_or_else(|| malformed(format!("{name} is a number from 1 to {most}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use postrider_core::code::Code;

    use crate::connect;

    #[tokio::test]
    async fn mistakes_in_the_url_are_named() {
        for url in [
            "kafka:",
            "kafka://user:secret@broker:9092",
            "kafka://broker:9092/topic",
            "kafka://broker:9092?prefix=a/b",
            "kafka://broker:9092?partitions=0",
            "kafka://broker:9092?session=5s",
            "kafka://broker:9092?session=soon",
            "kafka://broker:9092?member=",
            "kafka://broker:9092?member=a/b",
            "kafka://broker:9092?acks=1",
        ] {
            let error = connect(url).await.err().unwrap();
            assert_eq!(error.code(), Code::URL_MALFORMED, "{url}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
