//! Where a partition begins: with what its last owner left, else where the subscription says. All of this blocks its thread.

use std::time::Duration;

use postrider_core::source::{Position, ResumeState, SeekTo};
use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::done;

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
    topic: &str,
    partitions: &[i32],
    begin: SeekTo,
    within: Duration,
) -> KafkaResult<Vec<Start>> {
    let committed = consumer.committed_offsets(list(topic, partitions), within)?;
    let (lows, highs) = edges(consumer, topic, partitions, within)?;
    let mut starts = Vec::with_capacity(partitions.len());
    for left in committed.elements() {
        left.error()?;
        let partition = left.partition();
        let (low, high) = (at(&lows, topic, partition), at(&highs, topic, partition));
        let start = match left.offset() {
            Offset::Offset(offset) => {
                let resume = done::read(number(offset), left.metadata());
                let asked = resume.watermark.0;
                let loss = (asked < low || asked > high)
                    .then(|| (Position(asked), Position(asked.clamp(low, high))));
                Start {
                    partition,
                    offset: asked.clamp(low, high),
                    resume,
                    loss,
                }
            }
            _ => {
                let first = match begin {
                    SeekTo::Earliest => low,
                    SeekTo::Latest => high,
                    other => first(consumer, topic, partition, other, within)?,
                };
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

/// The positions to commit for a group that has none.
pub(crate) fn to_pin<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: &str,
    partitions: &[i32],
    begin: SeekTo,
    within: Duration,
) -> KafkaResult<TopicPartitionList> {
    let committed = consumer.committed_offsets(list(topic, partitions), within)?;
    let mut pinned = TopicPartitionList::new();
    for left in committed.elements() {
        left.error()?;
        if !matches!(left.offset(), Offset::Offset(_)) {
            let partition = left.partition();
            let first = first(consumer, topic, partition, begin, within)?;
            pinned.add_partition_offset(topic, partition, offset(first))?;
        }
    }
    Ok(pinned)
}

/// What is stored and not done, over these partitions: two requests to each of their leaders, and one to the group's coordinator.
pub(crate) fn lag<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: &str,
    partitions: &[i32],
    within: Duration,
) -> KafkaResult<u64> {
    let committed = consumer.committed_offsets(list(topic, partitions), within)?;
    let (lows, highs) = edges(consumer, topic, partitions, within)?;
    let mut waiting = 0;
    for left in committed.elements() {
        left.error()?;
        let (low, high) = (
            at(&lows, topic, left.partition()),
            at(&highs, topic, left.partition()),
        );
        let (from, done) = match left.offset() {
            Offset::Offset(offset) => {
                let resume = done::read(number(offset), left.metadata());
                (number(offset), resume.done_above.iter().map(|d| d.1).sum())
            }
            _ => (low, 0),
        };
        waiting += high.saturating_sub(from.max(low)).saturating_sub(done);
    }
    Ok(waiting)
}

/// The first positions that are kept, and the ends, in one request each: a leader answers a connection's requests one after the other.
fn edges<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: &str,
    partitions: &[i32],
    within: Duration,
) -> KafkaResult<(TopicPartitionList, TopicPartitionList)> {
    let edge = |edge: Offset| {
        let mut asked = list(topic, partitions);
        asked.set_all_offsets(edge)?;
        consumer.offsets_for_times(asked, within)
    };
    // ORDER: the end last, so that what is done is never beyond it.
    let lows = edge(Offset::Beginning)?;
    Ok((lows, edge(Offset::End)?))
}

fn at(list: &TopicPartitionList, topic: &str, partition: i32) -> u64 {
    match list.find_partition(topic, partition).map(|p| p.offset()) {
        Some(Offset::Offset(offset)) => number(offset),
        _ => 0,
    }
}

/// The position that `to` means now.
pub(crate) fn first<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: &str,
    partition: i32,
    to: SeekTo,
    within: Duration,
) -> KafkaResult<u64> {
    let (low, high) = kept(consumer, topic, partition, within)?;
    Ok(match to {
        SeekTo::Earliest => low,
        SeekTo::Latest => high,
        SeekTo::Position(position) => position.0.clamp(low, high),
        SeekTo::Time(at) => {
            let mut asked = TopicPartitionList::new();
            asked.add_partition_offset(topic, partition, offset(at.millis()))?;
            let found = consumer.offsets_for_times(asked, within)?;
            let found = found.find_partition(topic, partition);
            match found.map(|p| p.offset()) {
                Some(Offset::Offset(offset)) => number(offset),
                // Nothing was stored since.
                _ => high,
            }
        }
    })
}

/// The first position that is kept, and the next one that will be written.
pub(crate) fn kept<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: &str,
    partition: i32,
    within: Duration,
) -> KafkaResult<(u64, u64)> {
    let (low, high) = consumer.fetch_watermarks(topic, partition, within)?;
    Ok((number(low), number(high)))
}

fn list(topic: &str, partitions: &[i32]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

pub(crate) fn offset(position: u64) -> Offset {
    Offset::Offset(i64::try_from(position).unwrap_or(i64::MAX))
}

fn number(offset: i64) -> u64 {
    u64::try_from(offset).unwrap_or_default()
}
