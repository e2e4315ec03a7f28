//! Publishing: one call is one commit.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use postrider_core::Fut;
use postrider_core::code::Code;
use postrider_core::engine::{Cancel, CommitError, Publisher, Receipt, Scheduled};
use postrider_core::envelope::Outgoing;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::name::{Destination, DestinationKind};
use postrider_core::settle::SettleOp;
use postrider_log::{self as log, Log, Now, Publish, StreamId, Ticket, Tx};

use crate::convert;
use crate::error::fault;
use crate::names;
use crate::settle;
use crate::shared::Shared;

/// Records in one commit; a call with more is several commits, in order.
const RECORDS_MAX: usize = 4096;
/// Bytes of one commit, beyond its first message.
const BYTES_MAX: usize = 8 << 20;

#[derive(Debug)]
pub(crate) struct EmbeddedPublisher {
    shared: Arc<Shared>,
}

impl EmbeddedPublisher {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

/// A message that passed the checks.
struct Checked {
    /// Its index in the call.
    index: usize,
    destination: Destination,
    record: log::RecordIn,
    bytes: usize,
}

/// One commit of a call, staged: what to wait for, and whose receipts these are.
struct Staged {
    ticket: Ticket,
    receipts: Vec<(usize, Receipt)>,
}

impl Publisher for EmbeddedPublisher {
    fn publish<'a>(&'a self, messages: Vec<Outgoing>) -> Fut<'a, Vec<Result<Receipt, Fault>>> {
        Box::pin(async move {
            if let [message] = &messages[..] {
                return vec![self.publish_one(message).await];
            }
            let mut results: Vec<Option<Result<Receipt, Fault>>> = Vec::new();
            results.resize_with(messages.len(), || None);
            let checked = self.check(&messages, &mut results);
            let mut staged = Vec::new();
            for chunk in chunks(checked) {
                staged.extend(self.stage(chunk, &mut results).await);
            }
            for Staged { ticket, receipts } in staged {
                let confirmed = self.shared.confirmed(&ticket).await;
                for (index, receipt) in receipts {
                    results[index] = Some(match &confirmed {
                        Ok(()) => Ok(receipt),
                        Err(ended) => Err(ended.fault().unknown_effect()),
                    });
                }
            }
            let every = |result: Option<_>| result.expect("each message was refused or staged");
            results.into_iter().map(every).collect()
        })
    }

    fn commit<'a>(
        &'a self,
        publish: Vec<Outgoing>,
        settle: Vec<SettleOp>,
    ) -> Fut<'a, Result<Vec<Receipt>, CommitError>> {
        Box::pin(async move {
            match self.commit_all(&publish, &settle).await {
                Ok(receipts) => Ok(receipts),
                Err(fault) => Err(CommitError {
                    fault,
                    publish,
                    settle,
                }),
            }
        })
    }

    fn cancel<'a>(&'a self, scheduled: &'a Scheduled) -> Fut<'a, Result<Cancel, Fault>> {
        Box::pin(async move {
            let Some(offset) = scheduled.position else {
                return Err(not_found(format!(
                    "message {} was scheduled without a position: only what this engine scheduled can be cancelled",
                    scheduled.id
                )));
            };
            let ticket = self.shared.stage(|log, now| {
                let name = names::stream(&scheduled.destination);
                let Some(stream) = log.find_stream(&name) else {
                    return Err(not_found(format!("there is no {}", scheduled.destination)));
                };
                let tx = Tx {
                    cancels: vec![log::Cancel { stream, offset }],
                    confirm: log::Confirm::Durable,
                    ..Tx::default()
                };
                log.commit(tx, now).map_err(|error| fault(&error))
            });
            let ticket = ticket.map_err(|ended| ended.fault())??;
            self.shared
                .confirmed(&ticket)
                .await
                .map_err(|ended| ended.fault().unknown_effect())?;
            Ok(match ticket.cancelled.first() {
                Some(true) => Cancel::Cancelled,
                _ => Cancel::AlreadyFired,
            })
        })
    }
}

fn not_found(text: String) -> Fault {
    Fault::new(FaultKind::NotFound, Advice::FixMessage, text)
}

impl EmbeddedPublisher {
    /// As a call with many, without what only many need.
    async fn publish_one(&self, message: &Outgoing) -> Result<Receipt, Fault> {
        let record = convert::record_in(message, self.shared.settings.message_bytes_max)?;
        let staged = self
            .shared
            .stage_patiently(|log, now| {
                let destination = &message.destination;
                let Some((stream, subscriptions)) = names::route(log, &self.shared, destination)?
                else {
                    return Ok(None);
                };
                Ok(Some((
                    log.publish_one(stream, &record, now)?,
                    subscriptions,
                )))
            })
            .await
            .map_err(|error| error.fault())?;
        let Some((ticket, subscriptions)) = staged else {
            return Err(no_route(&message.destination));
        };
        let durability = match self.shared.is_memory() {
            true => postrider_core::capability::Durability::Memory,
            false => convert::durability_of(ticket.level),
        };
        self.shared
            .safe(ticket.lsn, ticket.told_at)
            .await
            .map_err(|ended| ended.fault().unknown_effect())?;
        Ok(Receipt {
            durability,
            position: Some(ticket.appended.offset),
            duplicate: ticket.appended.duplicate,
            subscriptions: Some(subscriptions),
        })
    }

    /// Encodes and checks each message. Where one is refused, later ones of its key are refused with it: they must not pass it.
    fn check(
        &self,
        messages: &[Outgoing],
        results: &mut [Option<Result<Receipt, Fault>>],
    ) -> Vec<Checked> {
        let mut refused: HashSet<(&Destination, &Bytes)> = HashSet::new();
        let mut checked = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let key = message
                .envelope
                .key
                .as_ref()
                .map(|key| (&message.destination, key.as_bytes()));
            let result = match key {
                Some(key) if refused.contains(&key) => Err(Fault::behind_failed(false)),
                _ => convert::record_in(message, self.shared.settings.message_bytes_max),
            };
            match result {
                Ok(record) => checked.push(Checked {
                    index,
                    destination: message.destination.clone(),
                    bytes: message.payload.len(),
                    record,
                }),
                Err(fault) => {
                    refused.extend(key);
                    results[index] = Some(Err(fault));
                }
            }
        }
        checked
    }

    /// Stages one commit; waits while the log has too much to write. What is refused goes into `results`.
    async fn stage(
        &self,
        chunk: Vec<Checked>,
        results: &mut [Option<Result<Receipt, Fault>>],
    ) -> Option<Staged> {
        let indexes: Vec<usize> = chunk.iter().map(|checked| checked.index).collect();
        let staged = self
            .shared
            .stage_patiently(|log, now| {
                let routed = Routed::of(log, &self.shared, &chunk)?;
                let refused = routed.refused.clone();
                routed
                    .commit(log, now, Vec::new())
                    .map(|staged| (staged, refused))
            })
            .await;
        match staged {
            Ok((staged, refused)) => {
                for index in refused {
                    let at = chunk.iter().find(|checked| checked.index == index);
                    let at = at.expect("what is refused was in the chunk");
                    results[index] = Some(Err(no_route(&at.destination)));
                }
                staged
            }
            Err(error) => {
                for index in indexes {
                    results[index] = Some(Err(error.fault()));
                }
                None
            }
        }
    }

    async fn commit_all(
        &self,
        publish: &[Outgoing],
        ops: &[SettleOp],
    ) -> Result<Vec<Receipt>, Fault> {
        let mut checked = Vec::with_capacity(publish.len());
        for (index, message) in publish.iter().enumerate() {
            let record = convert::record_in(message, self.shared.settings.message_bytes_max)?;
            let (destination, bytes) = (message.destination.clone(), message.payload.len());
            checked.push(Checked {
                index,
                destination,
                record,
                bytes,
            });
        }
        let settles = ops
            .iter()
            .map(settle::to_log)
            .collect::<Result<Vec<_>, Fault>>()?;
        let staged = self
            .shared
            .stage_patiently(|log, now| {
                let routed = Routed::of(log, &self.shared, &checked)?;
                match routed.refused.first() {
                    Some(index) => Ok(Err(no_route(&publish[*index].destination))),
                    None => routed.commit(log, now, settles.clone()).map(Ok),
                }
            })
            .await
            .map_err(|error| error.fault())??;
        let Some(Staged {
            ticket,
            mut receipts,
        }) = staged
        else {
            return Ok(Vec::new());
        };
        self.shared
            .confirmed(&ticket)
            .await
            .map_err(|ended| ended.fault().unknown_effect())?;
        receipts.sort_unstable_by_key(|(index, _)| *index);
        Ok(receipts.into_iter().map(|(_, receipt)| receipt).collect())
    }
}

fn no_route(destination: &Destination) -> Fault {
    let text = match destination.kind {
        DestinationKind::Inbox => {
            format!("{destination} is gone: the process that asked does not wait any more")
        }
        _ => format!(
            "nobody owns {destination}: start the service that handles it once, so that its subscription exists"
        ),
    };
    Fault::new(FaultKind::NoRoute, Advice::FixConfig, text).code(Code::PUBLISH_NO_ROUTE)
}

/// Cuts a call into commits that fit into a frame.
fn chunks(checked: Vec<Checked>) -> Vec<Vec<Checked>> {
    let mut chunks: Vec<Vec<Checked>> = Vec::new();
    let mut bytes = 0;
    for one in checked {
        let full =
            |chunk: &Vec<Checked>| chunk.len() >= RECORDS_MAX || bytes + one.bytes > BYTES_MAX;
        match chunks.last_mut().filter(|chunk| !full(chunk)) {
            Some(chunk) => {
                bytes += one.bytes;
                chunk.push(one);
            }
            None => {
                bytes = one.bytes;
                chunks.push(vec![one]);
            }
        }
    }
    chunks
}

/// The streams of one commit, and which records go into each.
struct Routed<'a> {
    durability: Option<postrider_core::capability::Durability>,
    streams: Vec<Route<'a>>,
    /// Indexes of messages that nobody would get.
    refused: Vec<usize>,
}

struct Route<'a> {
    stream: StreamId,
    subscriptions: u32,
    records: Vec<&'a Checked>,
}

impl<'a> Routed<'a> {
    /// Finds the stream of each message; a topic is created by its first message.
    fn of(log: &mut Log, shared: &Shared, chunk: &'a [Checked]) -> Result<Self, log::Error> {
        let durability = shared
            .is_memory()
            .then_some(postrider_core::capability::Durability::Memory);
        let mut routed = Self {
            durability,
            streams: Vec::new(),
            refused: Vec::new(),
        };
        let mut known: HashMap<&Destination, Option<usize>> = HashMap::new();
        for checked in chunk {
            let at = match known.get(&checked.destination) {
                Some(at) => *at,
                None => {
                    let found = names::route(log, shared, &checked.destination)?;
                    let at = found.map(|(stream, subscriptions)| {
                        routed.streams.push(Route {
                            stream,
                            subscriptions,
                            records: Vec::new(),
                        });
                        routed.streams.len() - 1
                    });
                    known.insert(&checked.destination, at);
                    at
                }
            };
            match at {
                Some(at) => routed.streams[at].records.push(checked),
                None => routed.refused.push(checked.index),
            }
        }
        Ok(routed)
    }

    fn commit(
        self,
        log: &mut Log,
        now: Now,
        settles: Vec<log::SettleOp>,
    ) -> Result<Option<Staged>, log::Error> {
        if self.streams.is_empty() && settles.is_empty() {
            return Ok(None);
        }
        let publishes = self.streams.iter().map(|route| Publish {
            stream: route.stream,
            records: route
                .records
                .iter()
                .map(|checked| checked.record.clone())
                .collect(),
            ..Publish::default()
        });
        let ticket = log.commit(
            Tx {
                publishes: publishes.collect(),
                settles,
                ..Tx::default()
            },
            now,
        )?;
        let durability = self
            .durability
            .unwrap_or_else(|| convert::durability_of(ticket.level));
        let mut receipts = Vec::new();
        for (route, appended) in self.streams.iter().zip(&ticket.appended) {
            for (checked, appended) in route.records.iter().zip(appended) {
                let receipt = Receipt {
                    durability,
                    position: Some(appended.offset),
                    duplicate: appended.duplicate,
                    subscriptions: Some(route.subscriptions),
                };
                receipts.push((checked.index, receipt));
            }
        }
        Ok(Some(Staged { ticket, receipts }))
    }
}
