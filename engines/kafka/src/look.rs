//! Looks at the server over connections that nothing else waits on. All of this blocks its thread.
//!
//! A broker answers the requests of one connection one after the other: a look over a member's own would wait behind a fetch that waits for messages,
//! and behind a join that waits for other members.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_core::clock::{Clock, Mono};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::board::Standing;
use crate::connection::Quiet;
use crate::{done, start};

/// How long the partitions of a topic are taken for known.
const PARTITIONS_KNOWN: Duration = Duration::from_secs(10);
/// How long a connection that asks for a group's positions is kept without being used.
const GROUP_KEPT: Duration = Duration::from_secs(30);
/// Events of a client that are taken off it at once: what it logs and what went wrong with its connection.
const EVENTS_MAX: usize = 64;

type Client = Arc<BaseConsumer<Quiet>>;

/// First and next position of partitions, by topic and partition.
pub(crate) type Edges = BTreeMap<(String, i32), (u64, u64)>;

/// The connections, made when they are first needed.
pub(crate) struct Look {
    config: ClientConfig,
    clock: Arc<dyn Clock>,
    within: Duration,
    client: Mutex<Option<Client>>,
    groups: Mutex<HashMap<String, (Client, Mono)>>,
    partitions: Mutex<HashMap<String, (Vec<i32>, Mono)>>,
}

impl Look {
    pub(crate) fn new(mut config: ClientConfig, clock: Arc<dyn Clock>, within: Duration) -> Self {
        // The end is what a member can read.
        config.set("isolation.level", "read_committed");
        config.set("enable.auto.commit", "false");
        Self {
            config,
            clock,
            within,
            client: Mutex::default(),
            groups: Mutex::default(),
            partitions: Mutex::default(),
        }
    }

    fn client(&self) -> KafkaResult<Client> {
        let mut kept = self.client.lock();
        let client = match &*kept {
            Some(client) => client.clone(),
            None => {
                let made: BaseConsumer<Quiet> = self.config.create_with_context(Quiet)?;
                kept.insert(Arc::new(made)).clone()
            }
        };
        drop(kept);
        settle(&client);
        Ok(client)
    }

    /// A client of the group that is no member of it. The broker lets anyone ask for a group's positions.
    fn of_group(&self, group: &str) -> KafkaResult<Client> {
        let now = self.clock.mono();
        let mut groups = self.groups.lock();
        let old: Vec<String> = groups
            .iter()
            .filter(|(_, (_, used))| used.plus(GROUP_KEPT) <= now)
            .map(|(group, _)| group.clone())
            .collect();
        let unused: Vec<_> = old
            .iter()
            .filter_map(|group| groups.remove(group))
            .collect();
        let client = match groups.get_mut(group) {
            Some((client, used)) => {
                *used = now;
                client.clone()
            }
            None => {
                let mut config = self.config.clone();
                config.set("group.id", group);
                let made: BaseConsumer<Quiet> = config.create_with_context(Quiet)?;
                let made = Arc::new(made);
                groups.insert(group.to_owned(), (made.clone(), now));
                made
            }
        };
        drop(groups);
        drop(unused);
        settle(&client);
        Ok(client)
    }

    /// The partitions of a topic, as of at most 10 s ago.
    fn partitions(&self, topic: &str) -> KafkaResult<Vec<i32>> {
        let now = self.clock.mono();
        if let Some((partitions, asked)) = self.partitions.lock().get(topic)
            && now < asked.plus(PARTITIONS_KNOWN)
        {
            return Ok(partitions.clone());
        }
        let metadata = self.client()?.fetch_metadata(Some(topic), self.within)?;
        let all = metadata.topics().iter().flat_map(|t| t.partitions());
        let partitions: Vec<i32> = all.map(|p| p.id()).collect();
        let mut known = self.partitions.lock();
        known.insert(topic.to_owned(), (partitions.clone(), now));
        Ok(partitions)
    }

    /// What is kept of all topics on the server that `wanted` lets through: one request to each leader for the beginnings and one for the ends.
    pub(crate) fn all_edges(&self, wanted: impl Fn(&str) -> bool) -> KafkaResult<Edges> {
        let metadata = self.client()?.fetch_metadata(None, self.within)?;
        let mut asked = TopicPartitionList::new();
        for topic in metadata.topics().iter().filter(|t| t.error().is_none()) {
            if wanted(topic.name()) {
                for partition in topic.partitions() {
                    asked.add_partition(topic.name(), partition.id());
                }
            }
        }
        self.ask_edges(&asked)
    }

    /// What is kept of these partitions: one request to each leader for the beginnings and one for the ends.
    pub(crate) fn edges(&self, topic: &str, partitions: &[i32]) -> KafkaResult<Edges> {
        self.ask_edges(&start::list(topic, partitions))
    }

    fn ask_edges(&self, partitions: &TopicPartitionList) -> KafkaResult<Edges> {
        let mut edges = Edges::new();
        if partitions.count() == 0 {
            return Ok(edges);
        }
        let client = self.client()?;
        let ask = |edge: Offset| {
            let mut asked = partitions.clone();
            asked.set_all_offsets(edge)?;
            let told = client.offsets_for_times(asked, self.within)?;
            let mut positions = Vec::with_capacity(told.count());
            for one in told.elements() {
                one.error()?;
                let position = match one.offset() {
                    Offset::Offset(offset) => start::number(offset),
                    _ => 0,
                };
                positions.push(((one.topic().to_owned(), one.partition()), position));
            }
            KafkaResult::Ok(positions)
        };
        // ORDER: the end last, so that what is done is never beyond it.
        for (partition, low) in ask(Offset::Beginning)? {
            edges.insert(partition, (low, low));
        }
        for (partition, high) in ask(Offset::End)? {
            edges.entry(partition).or_insert((high, high)).1 = high;
        }
        Ok(edges)
    }

    /// The first position of each partition that was stored at this time or later; the next one that will be written where none was.
    pub(crate) fn since(
        &self,
        topic: &str,
        partition: i32,
        millis: u64,
    ) -> KafkaResult<Option<u64>> {
        let mut asked = TopicPartitionList::new();
        asked.add_partition_offset(topic, partition, start::offset(millis))?;
        let found = self.client()?.offsets_for_times(asked, self.within)?;
        let found = found.find_partition(topic, partition);
        Ok(match found.map(|p| p.offset()) {
            Some(Offset::Offset(offset)) => Some(start::number(offset)),
            _ => None,
        })
    }

    /// What is stored and not done by this group. `own`: how far the members in this process have committed what they own; the group is asked for the
    /// rest alone.
    pub(crate) fn lag(
        &self,
        group: &str,
        topic: &str,
        own: &HashMap<i32, Standing>,
    ) -> KafkaResult<u64> {
        let partitions = self.partitions(topic)?;
        let others: Vec<i32> = partitions
            .iter()
            .copied()
            .filter(|p| !own.contains_key(p))
            .collect();
        let mut standing: HashMap<i32, Standing> = own.clone();
        if !others.is_empty() {
            let client = self.of_group(group)?;
            let asked = start::list(topic, &others);
            let committed = client.committed_offsets(asked, self.within)?;
            for left in committed.elements() {
                left.error()?;
                if let Offset::Offset(offset) = left.offset() {
                    let left_at = done::read(start::number(offset), left.metadata());
                    standing.insert(left.partition(), Standing::from(&left_at));
                }
            }
        }
        let edges = self.edges(topic, &partitions)?;
        let waiting = edges.iter().map(|((_, partition), (low, high))| {
            let at = standing.get(partition);
            let from = at.map_or(*low, |at| at.watermark.max(*low));
            let done = at.map_or(0, |at| at.done);
            high.saturating_sub(from).saturating_sub(done)
        });
        Ok(waiting.sum())
    }
}

/// What a client has to tell is taken off it: nobody else polls it.
fn settle(client: &BaseConsumer<Quiet>) {
    for _ in 0..EVENTS_MAX {
        if client.poll(Duration::ZERO).is_none() {
            return;
        }
    }
}
