//! Where a partition begins: with what its last owner left, else where the subscription says. All of this blocks its thread.

use std::time::Duration;

use postrider_core::source::{Position, ResumeState, SeekTo};
use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::done;
use crate::look::{Edges, Look};

/// Where one partition begins.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) partition: i32,
    /// What to read first.
    pub(crate) offset: u64,
    pub(crate) resume: ResumeState,
    /// The position that was left is not kept: asked for, and the first that is.
    pub(crate) loss: Option<(Position, Position)>,
}

/// Where these partitions begin for the group of this consumer.
pub(crate) fn resolve<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    look: &Look,
    topic: &str,
    partitions: &[i32],
    begin: SeekTo,
    within: Duration,
) -> KafkaResult<Vec<Start>> {
    let committed = consumer.committed_offsets(list(topic, partitions), within)?;
    let edges = look.edges(topic, partitions)?;
    let mut starts = Vec::with_capacity(partitions.len());
    for left in committed.elements() {
        left.error()?;
        let partition = left.partition();
        let kept = kept(&edges, topic, partition);
        let start = match left.offset() {
            Offset::Offset(offset) => begin_at(partition, kept, number(offset), left.metadata()),
            _ => {
                let first = first(look, kept, topic, partition, begin)?;
                Start {
                    partition,
                    offset: first,
                    resume: ResumeState {
                        watermark: Position(first),
                        done_above: Vec::new(),
                    },
                    loss: None,
                }
            }
        };
        starts.push(start);
    }
    Ok(starts)
}

/// Where its last owner left off, or as near to it as is kept.
fn begin_at(partition: i32, (low, high): (u64, u64), committed: u64, metadata: &str) -> Start {
    let resume = done::read(committed, metadata);
    let asked = resume.watermark.0;
    let loss =
        (asked < low || asked > high).then(|| (Position(asked), Position(asked.clamp(low, high))));
    Start {
        partition,
        offset: asked.clamp(low, high),
        resume,
        loss,
    }
}

/// The positions to commit for a group that has none.
pub(crate) fn to_pin<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    look: &Look,
    topic: &str,
    partitions: &[i32],
    begin: SeekTo,
    within: Duration,
) -> KafkaResult<TopicPartitionList> {
    let committed = consumer.committed_offsets(list(topic, partitions), within)?;
    let edges = look.edges(topic, partitions)?;
    let mut pinned = TopicPartitionList::new();
    for left in committed.elements() {
        left.error()?;
        if !matches!(left.offset(), Offset::Offset(_)) {
            let partition = left.partition();
            let kept = kept(&edges, topic, partition);
            let first = first(look, kept, topic, partition, begin)?;
            pinned.add_partition_offset(topic, partition, offset(first))?;
        }
    }
    Ok(pinned)
}

/// The position that `to` means now, where this is kept.
pub(crate) fn first(
    look: &Look,
    (low, high): (u64, u64),
    topic: &str,
    partition: i32,
    to: SeekTo,
) -> KafkaResult<u64> {
    Ok(match to {
        SeekTo::Earliest => low,
        SeekTo::Latest => high,
        SeekTo::Position(position) => position.0.clamp(low, high),
        // Nothing was stored since: with what comes next.
        SeekTo::Time(at) => look.since(topic, partition, at.millis())?.unwrap_or(high),
    })
}

/// The first position that is kept, and the next one that will be written.
pub(crate) fn kept(edges: &Edges, topic: &str, partition: i32) -> (u64, u64) {
    let asked = edges.get(&(topic.to_owned(), partition));
    asked.copied().unwrap_or_default()
}

pub(crate) fn list(topic: &str, partitions: &[i32]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

pub(crate) fn offset(position: u64) -> Offset {
    Offset::Offset(i64::try_from(position).unwrap_or(i64::MAX))
}

pub(crate) fn number(offset: i64) -> u64 {
    u64::try_from(offset).unwrap_or_default()
}
