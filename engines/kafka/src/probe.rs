//! What the server is, as far as it says: its brokers, the defaults that durability follows from, and the requests that it knows.
//!
//! Kafka does not tell its version. Which requests it knows, and from which version on, does: the range that follows is what is shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use postrider_core::capability::Durability;
use postrider_core::code::Code;
use postrider_core::fault::{Advice, Fault, FaultKind};
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::error::KafkaError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::connection::{Connection, Quiet};
use crate::done;
use crate::fault::fault;

/// The broker's default of `message.max.bytes`.
const MESSAGE_BYTES_DEFAULT: usize = 1_048_588;

pub(crate) struct Probed {
    pub(crate) version: String,
    pub(crate) durability: Durability,
    pub(crate) message_bytes_max: usize,
    /// Bytes that are kept beside a committed offset.
    pub(crate) metadata_bytes_max: usize,
}

pub(crate) async fn probe(
    connection: &Connection,
    admin: &Arc<AdminClient<Quiet>>,
) -> Result<Probed, Fault> {
    let brokers = brokers(connection, admin).await?;
    let settings = match brokers.first() {
        Some(id) => settings(connection, admin, *id).await.unwrap_or_default(),
        None => BTreeMap::new(),
    };
    let number = |name: &str| settings.get(name).and_then(|v| v.parse::<usize>().ok());
    let copies = connection.options.replication.map_or_else(
        || number("default.replication.factor").unwrap_or(1),
        usize::from,
    );
    let in_sync = number("min.insync.replicas").unwrap_or(1);
    // A broker confirms what is in the page cache of all that are in sync: with one alone that is one machine.
    let durability = match copies >= 2 && in_sync >= 2 && brokers.len() >= 2 {
        true => Durability::Replicated,
        false => Durability::Os,
    };
    Ok(Probed {
        version: version(connection).await,
        durability,
        message_bytes_max: number("message.max.bytes").unwrap_or(MESSAGE_BYTES_DEFAULT),
        metadata_bytes_max: number("offset.metadata.max.bytes")
            .unwrap_or(done::METADATA_BYTES_DEFAULT),
    })
}

/// The ids of the brokers. Says in one sentence that nobody is there.
async fn brokers(
    connection: &Connection,
    admin: &Arc<AdminClient<Quiet>>,
) -> Result<Vec<i32>, Fault> {
    let (admin, within) = (admin.clone(), connection.options.request_max);
    let asked = tokio::task::spawn_blocking(move || {
        let metadata = admin.inner().fetch_metadata(None, within)?;
        Ok(metadata.brokers().iter().map(|b| b.id()).collect())
    });
    let asked = asked.await.map_err(|_| Fault::closed("the runtime"))?;
    asked.map_err(|error: KafkaError| {
        let text = format!(
            "no Kafka broker answers at {}: {error}; is it running, and is the address right?",
            connection.servers
        );
        Fault::new(FaultKind::Unreachable, Advice::Reconnect, text)
            .code(Code::ENGINE_FAILED)
            .because(error)
    })
}

/// The broker's settings; none where it does not let us look.
async fn settings(
    connection: &Connection,
    admin: &AdminClient<Quiet>,
    broker: i32,
) -> Result<BTreeMap<String, String>, Fault> {
    let said = |error| fault("the broker's settings could not be read", &error);
    let options = AdminOptions::new().request_timeout(Some(connection.options.request_max));
    let resource = [ResourceSpecifier::Broker(broker)];
    let described = admin.describe_configs(&resource, &options).await;
    let resources = described.map_err(said)?.into_iter().filter_map(Result::ok);
    let entries = resources.flat_map(|resource| resource.entries);
    Ok(entries
        .filter_map(|entry| Some((entry.name, entry.value?)))
        .collect())
}

/// The version as a range; `unknown` where the server does not answer this question in the clear.
async fn version(connection: &Connection) -> String {
    let asked = async {
        for server in connection.servers.split(',') {
            if let Some(keys) = api_keys(server).await {
                return Some(name_of(&keys));
            }
        }
        None
    };
    let within = connection.options.request_max;
    let answered = tokio::time::timeout(within, asked).await.ok().flatten();
    answered.unwrap_or("unknown").to_owned()
}

/// By the requests that came with a release (KIP-848, KIP-932), and those that 4.0 no longer takes (KIP-896).
fn name_of(keys: &BTreeMap<i16, (i16, i16)>) -> &'static str {
    const FETCH: i16 = 1;
    const DESCRIBE_QUORUM: i16 = 55;
    const CONSUMER_GROUP_HEARTBEAT: i16 = 68;
    const SHARE_GROUP_HEARTBEAT: i16 = 76;
    let drops_old = keys.get(&FETCH).is_some_and(|(least, _)| *least >= 4);
    match () {
        () if keys.contains_key(&SHARE_GROUP_HEARTBEAT) => "4.1 or later",
        () if drops_old => "4.0",
        () if keys.contains_key(&CONSUMER_GROUP_HEARTBEAT) => "3.7 to 3.9",
        () if keys.contains_key(&DESCRIBE_QUORUM) => "2.8 to 3.6",
        () => "older than 2.8",
    }
}

/// `ApiVersions` version 0: what requests the server takes, and in which versions. The only request that any server answers to anyone.
async fn api_keys(server: &str) -> Option<BTreeMap<i16, (i16, i16)>> {
    const ANSWER_BYTES_MAX: u32 = 64 * 1024;
    // size 10: api key 18, version 0, correlation id 1, no client id
    const REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    let mut stream = TcpStream::connect(server).await.ok()?;
    stream.write_all(&REQUEST).await.ok()?;
    let size = stream.read_u32().await.ok()?;
    if size > ANSWER_BYTES_MAX {
        return None;
    }
    let mut answer = vec![0; size as usize];
    stream.read_exact(&mut answer).await.ok()?;
    read_keys(&answer)
}

/// Correlation id, error code, then a count and key, least and most of each.
fn read_keys(answer: &[u8]) -> Option<BTreeMap<i16, (i16, i16)>> {
    let (head, rest) = answer.split_at_checked(10)?;
    let ok = head.get(4..6)? == [0, 0].as_slice();
    let two = |row: &[u8], at| Some(i16::from_be_bytes(row.get(at..at + 2)?.try_into().ok()?));
    let rows = rest.chunks_exact(6);
    let keys = rows.map(|row| Some((two(row, 0)?, (two(row, 2)?, two(row, 4)?))));
    keys.collect::<Option<_>>().filter(|_| ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_garbage_is_not() {
        let answer = [0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 4, 0, 17];
        let keys = read_keys(&answer).unwrap_or_default();
        assert_eq!(keys.get(&1), Some(&(4, 17)));
        assert_eq!(name_of(&keys), "4.0");
        assert_eq!(read_keys(&[0; 3]), None);
        assert_eq!(read_keys(&[0, 0, 0, 1, 0, 35, 0, 0, 0, 0]), None);
    }
}
