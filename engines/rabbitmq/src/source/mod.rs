//! A subscription as a lease source: a queue per shard, each on a channel of its own, consumed by a task of its own.
//!
//! - **Held means unacknowledged.** A delivery belongs to this member as long as its channel lives. When the channel ends, whatever was not
//!   acknowledged goes back to the head of the queue in order, all of it: nothing is lost alone.
//! - **Tokens carry the number of their channel**; one of a channel that is gone is answered with `LeaseLost`.
//! - **One member works on a shard at a time** (single active consumer). Which one is decided by priority, and the priority by a hash of member and
//!   queue: members share the queues without talking to each other, and one that comes takes over its share as soon as the member that had
//!   it has settled what it holds.
//! - **In ordered mode nothing is requeued singly**, since a quorum queue appends what comes back behind what came back before. What is
//!   released goes back with its channel, when nothing else of the shard is held.
//! - **The prefetch is the same for all members**, always: a member that takes fewer of what another gave back, and then dies, would put these behind the
//!   rest.

mod shard;
mod state;

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use postrider_core::Fut;
use postrider_core::capability::Capability;
use postrider_core::clock::Mono;
use postrider_core::fault::Fault;
use postrider_core::settle::{LeaseToken, Settle, SettleError, SettleOp};
use postrider_core::source::{Credit, LeaseSource, Leased, Settler};
use postrider_core::subscription::SubscriptionSpec;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{closed, fault, lease_lost};
use crate::link::Link;
use crate::names::{Names, fnv1a};
use crate::publisher::unsupported;
use shard::ShardTask;
use state::Shared;

/// Messages of one queue that a member holds at most, in the handler's hands and before. See above: the same for all, for ever.
pub(crate) const PREFETCH: u16 = 256;

pub(crate) struct RabbitSource {
    shared: Arc<Shared>,
    ordered: bool,
}

/// Starts the tasks of a source. They end when the source was dropped, or once `stop` says so, with their channels closed.
pub(crate) fn start(
    link: &Arc<Link>,
    names: &Names,
    spec: &SubscriptionSpec,
    stop: &watch::Receiver<bool>,
) -> Result<(RabbitSource, Vec<JoinHandle<()>>), Fault> {
    let queues = names.queues(&spec.id, spec.ordered)?;
    let shared = Arc::new(Shared::new(queues.len()));
    let tasks = queues.into_iter().enumerate().map(|(index, queue)| {
        let task = ShardTask {
            link: Arc::clone(link),
            shared: Arc::clone(&shared),
            index,
            priority: spec
                .ordered
                .then(|| priority(spec.member.0, queue.as_str())),
            queue,
        };
        tokio::spawn(task.run(stop.clone()))
    });
    let tasks = tasks.collect();
    let ordered = spec.ordered;
    Ok((RabbitSource { shared, ordered }, tasks))
}

/// Rendezvous hashing: for each queue the member with the highest number has it.
fn priority(member: u64, queue: &str) -> i32 {
    let mut bytes = member.to_be_bytes().to_vec();
    bytes.extend_from_slice(queue.as_bytes());
    (fnv1a(&bytes) >> 33) as i32
}

/// Knows how many messages it keeps from others.
pub(crate) trait Held: Send + Sync + std::fmt::Debug {
    /// Delivered to this process and not settled.
    fn held(&self) -> u64;
}

impl RabbitSource {
    /// Counts what it holds, as long as it lives.
    pub(crate) fn held(&self) -> Weak<dyn Held> {
        let shared: Weak<Shared> = Arc::downgrade(&self.shared);
        shared
    }
}

impl LeaseSource for RabbitSource {
    fn next<'a>(&'a mut self, room: Credit) -> Fut<'a, Result<Vec<Leased>, Fault>> {
        Box::pin(async move {
            if room.messages == 0 {
                // There is nothing to wait for: only a new credit can change that, and it comes with another call.
                return std::future::pending().await;
            }
            loop {
                let woken = self.shared.ready.notified();
                tokio::pin!(woken);
                // Registered before the look, so that nothing that comes after the look is missed.
                woken.as_mut().enable();
                // CANCEL: what is taken is returned without another wait.
                if let Some(taken) = self.shared.take(room) {
                    return taken;
                }
                woken.await;
            }
        })
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(RabbitSettler {
            shared: Arc::clone(&self.shared),
            ordered: self.ordered,
        })
    }

    fn loses_together(&self) -> bool {
        self.ordered
    }
}

impl Drop for RabbitSource {
    /// Gives back what this member holds: its channels are closed.
    fn drop(&mut self) {
        self.shared.close();
    }
}

struct RabbitSettler {
    shared: Arc<Shared>,
    ordered: bool,
}

/// What is sent for one operation.
enum Sent {
    Ack(Channel),
    Requeue(Channel),
    /// It goes back with its channel.
    Kept,
    Refused(Fault),
}

impl RabbitSettler {
    fn decide(&self, op: &SettleOp) -> Sent {
        let Some(channel) = self.shared.channel_of(op.token.generation) else {
            return Sent::Refused(match self.shared.is_closed() {
                true => closed(),
                false => lease_lost(),
            });
        };
        match &op.settle {
            Settle::Ack => Sent::Ack(channel),
            Settle::Release if self.ordered => {
                self.shared.release(op.token.generation);
                Sent::Kept
            }
            Settle::Release => Sent::Requeue(channel),
            Settle::RetryAfter { .. } => Sent::Refused(unsupported(
                Capability::DelayedRetry,
                "RabbitMQ hands out nothing after a delay: hold the message",
            )),
            Settle::DeadLetter(_) | Settle::Park(_) => Sent::Refused(unsupported(
                Capability::AtomicDeadLetter,
                "RabbitMQ keeps no failures: record the failure, then acknowledge",
            )),
        }
    }

    async fn settle_one(&self, sent: Sent, op: SettleOp) -> Result<(), SettleError> {
        let (tag, generation) = (op.token.position, op.token.generation);
        let answer = match sent {
            Sent::Kept => return Ok(()),
            Sent::Refused(fault) => return Err(SettleError { fault, op }),
            Sent::Ack(channel) => channel.basic_ack(tag, BasicAckOptions::default()).await,
            Sent::Requeue(channel) => {
                let options = BasicNackOptions {
                    requeue: true,
                    ..BasicNackOptions::default()
                };
                channel.basic_nack(tag, options).await
            }
        };
        match answer {
            Ok(()) => {
                self.shared.settled(generation);
                Ok(())
            }
            Err(error) => {
                // The channel is gone or going, and the delivery with it.
                let fault = lease_lost().because(fault("settling", &error));
                Err(SettleError { fault, op })
            }
        }
    }
}

impl Settler for RabbitSettler {
    fn settle<'a>(&'a self, ops: Vec<SettleOp>) -> Fut<'a, Vec<Result<(), SettleError>>> {
        // ORDER: each is sent at its first poll, and `join_all` polls them first in their order.
        let ops = ops.into_iter().map(|op| {
            let sent = self.decide(&op);
            self.settle_one(sent, op)
        });
        Box::pin(join_all(ops.collect::<Vec<_>>()))
    }

    fn extend<'a>(
        &'a self,
        tokens: &'a [&'a LeaseToken],
        _: Duration,
    ) -> Fut<'a, Vec<Result<Mono, Fault>>> {
        let kept = tokens.iter().map(|token| {
            // As long as its channel: there is no time to name.
            let held = self.shared.channel_of(token.generation);
            held.map(|_| Mono(Duration::MAX)).ok_or_else(lease_lost)
        });
        let kept = kept.collect();
        Box::pin(std::future::ready(kept))
    }

    fn lost(&self) -> Fut<'_, Vec<u64>> {
        Box::pin(async {
            loop {
                let woken = self.shared.lost.notified();
                tokio::pin!(woken);
                woken.as_mut().enable();
                let lost = self.shared.take_lost();
                if !lost.is_empty() {
                    return lost;
                }
                woken.await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_share_the_queues_and_one_that_comes_moves_only_its_own() {
        let queues: Vec<String> = (0..256).map(|n| format!("q#{n}")).collect();
        let owner = |members: &[u64], queue: &str| {
            let best = members.iter().max_by_key(|m| priority(**m, queue));
            best.copied()
        };
        let three: Vec<_> = queues.iter().map(|q| owner(&[1, 2, 3], q)).collect();
        let four: Vec<_> = queues.iter().map(|q| owner(&[1, 2, 3, 4], q)).collect();
        for (before, after) in three.iter().zip(&four) {
            assert!(after == before || *after == Some(4));
        }
        for member in 1..=4 {
            let share = four.iter().filter(|o| **o == Some(member)).count();
            assert!((32..=96).contains(&share), "member {member} has {share}");
        }
    }
}
