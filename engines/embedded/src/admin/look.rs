//! Messages, for people: pages of a topic, one message with where it stands, a search. The log's lock is held for a few messages at a time.

use postrider_core::browse::{
    Browse, Browsed, DeliveryState, Found, Kept, Search, Standing, Wanted,
};
use postrider_core::clock::Timestamp;
use postrider_core::code::Code;
use postrider_core::failure::FailureId;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::name::{Destination, DestinationKind, Name, SubscriptionId};
use postrider_core::source::{Position, SeekTo};
use postrider_log::{self as log, Log, StreamId};
use tokio::time::Instant;

use super::EmbeddedAdmin;
use crate::convert;
use crate::error::fault;
use crate::names;

/// Messages and bytes that are read under the lock at once.
const CHUNK_MESSAGES: usize = 64;
const CHUNK_BYTES: usize = 1 << 20;

impl EmbeddedAdmin {
    /// Runs this under the lock.
    pub(super) fn with<T>(
        &self,
        run: impl FnOnce(&mut Log, log::Now) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.shared.stage(run).map_err(|ended| ended.fault())?
    }

    pub(super) async fn page(&self, ask: Browse) -> Result<Browsed, Fault> {
        let deadline = Instant::now() + ask.wait;
        let mut from = None;
        loop {
            let grown = self.shared.grown.notified();
            tokio::pin!(grown);
            // Registered before the look, so that nothing that comes after it is missed.
            grown.as_mut().enable();
            let at = match from {
                Some(at) => at,
                None => *from.insert(self.begin(&ask)?),
            };
            let page = self.read_page(&ask, at).await?;
            if !page.records.is_empty() || ask.wait.is_zero() || Instant::now() >= deadline {
                return Ok(page);
            }
            // In memory nobody else lets the time pass: `until` does. An engine that ended is noticed by the next look.
            let woken = self.shared.until(grown);
            let _ = tokio::time::timeout_at(deadline, woken).await;
        }
    }

    /// The offset at which a page begins.
    fn begin(&self, ask: &Browse) -> Result<u64, Fault> {
        self.with(|log, _| {
            let stream = stream_of(log, &ask.destination)?;
            let first = first_of(log, stream)?;
            match ask.from {
                SeekTo::Earliest => Ok(first),
                SeekTo::Latest => log.visible_end(stream).map_err(|error| fault(&error)),
                SeekTo::Position(Position(at)) if at < first => {
                    Err(trimmed(&ask.destination, at, first))
                }
                SeekTo::Position(Position(at)) => Ok(at),
                SeekTo::Time(at) => log
                    .offset_at(stream, at.millis())
                    .map_err(|error| fault(&error)),
            }
        })
    }

    async fn read_page(&self, ask: &Browse, from: u64) -> Result<Browsed, Fault> {
        let mut page = Browsed {
            records: Vec::new(),
            next: from,
            first: 0,
            end: 0,
        };
        let mut bytes = 0;
        loop {
            let room = ask.limit.saturating_sub(page.records.len());
            let some = room.min(CHUNK_MESSAGES);
            let left = ask.bytes_max.saturating_sub(bytes).min(CHUNK_BYTES);
            let read = self.with(|log, _| {
                let stream = stream_of(log, &ask.destination)?;
                page.first = first_of(log, stream)?;
                log.read(stream, page.next, some, left)
                    .map_err(|error| fault(&error))
            })?;
            page.end = read.visible_end;
            if read.next > page.next {
                page.next = read.next;
            }
            if read.records.is_empty() {
                return Ok(page);
            }
            let records = read.records.iter().map(convert::record_of);
            page.records
                .extend(records.inspect(|record| bytes += record.raw.size()));
            if page.records.len() >= ask.limit || bytes >= ask.bytes_max || page.next >= page.end {
                return Ok(page);
            }
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn one(&self, destination: &Destination, position: u64) -> Result<Kept, Fault> {
        self.with(|log, now| {
            let stream = stream_of(log, destination)?;
            let read = log
                .read(stream, position, 1, 1)
                .map_err(|error| fault(&error))?;
            let record = read.records.into_iter().find(|r| r.offset == position);
            let Some(record) = record else {
                let first = first_of(log, stream)?;
                let text = format!(
                    "{destination} keeps no message at {position}: it keeps {first} to {} as far as they are not handled by all",
                    read.visible_end.max(first)
                );
                return Err(not_found(text));
            };
            kept(log, destination, stream, &record, now).map_err(|error| fault(&error))
        })
    }

    /// Walks over all topics and queues in turn, a few messages of each, from the newest to the oldest.
    pub(super) async fn search(&self, search: Search) -> Result<Found, Fault> {
        let mut found = Found::default();
        let mut walks = self.with(|log, _| {
            let streams = names::streams(log).map_err(|error| fault(&error))?;
            let walk = |stream: log::StreamInfo| {
                let destination = names::destination(&stream.name)?;
                let wanted = destination.kind != DestinationKind::Inbox;
                wanted.then_some((destination, stream.id, stream.visible_end))
            };
            Ok(streams.into_iter().filter_map(walk).collect::<Vec<_>>())
        })?;
        while !walks.is_empty() {
            let mut rest = Vec::with_capacity(walks.len());
            for (destination, stream, before) in walks {
                let room = search.scan_max.saturating_sub(found.scanned);
                let some = usize::try_from(room)
                    .unwrap_or(usize::MAX)
                    .min(CHUNK_MESSAGES);
                if some == 0 || found.messages.len() >= search.limit {
                    return Ok(sorted(found));
                }
                let next = self.look_back(
                    &search.wanted,
                    (&destination, stream, before),
                    some,
                    &mut found,
                )?;
                if matches!(search.wanted, Wanted::Id(_)) && !found.messages.is_empty() {
                    found.complete = true;
                    return Ok(found);
                }
                rest.extend(next.map(|before| (destination, stream, before)));
                tokio::task::yield_now().await;
            }
            walks = rest;
        }
        found.complete = true;
        Ok(sorted(found))
    }

    /// Looks at a few messages before this one. `None`: there are no more.
    fn look_back(
        &self,
        wanted: &Wanted,
        (destination, stream, before): (&Destination, StreamId, u64),
        some: usize,
        found: &mut Found,
    ) -> Result<Option<u64>, Fault> {
        self.with(|log, now| {
            let records = match log.read_back(stream, before, some, CHUNK_BYTES) {
                // Removed since the search began.
                Err(log::Error::UnknownStream { .. }) => return Ok(None),
                records => records.map_err(|error| fault(&error))?,
            };
            for record in &records {
                found.scanned += 1;
                if is_wanted(wanted, record) {
                    let kept = kept(log, destination, stream, record, now);
                    found.messages.push(kept.map_err(|error| fault(&error))?);
                }
            }
            Ok(records.last().map(|oldest| oldest.offset))
        })
    }
}

fn sorted(mut found: Found) -> Found {
    found.messages.sort_by(|a, b| {
        let at = |kept: &Kept| (kept.destination.clone(), kept.record.position);
        at(a).cmp(&at(b))
    });
    found
}

fn is_wanted(wanted: &Wanted, record: &log::Record) -> bool {
    match wanted {
        Wanted::Id(id) if record.id != [0; 16] => record.id == *id.as_bytes(),
        Wanted::Id(id) => envelope_of(record).is_some_and(|envelope| envelope.id == *id),
        Wanted::Correlation(text) => envelope_of(record).is_some_and(|envelope| {
            envelope.correlation_id.as_ref() == Some(text) || *envelope.id.to_string() == **text
        }),
    }
}

fn envelope_of(record: &log::Record) -> Option<postrider_core::envelope::Envelope> {
    let read = postrider_core::carriage::read(&convert::raw_of(record));
    read.ok().map(|(envelope, _)| envelope)
}

fn kept(
    log: &Log,
    destination: &Destination,
    stream: StreamId,
    record: &log::Record,
    now: log::Now,
) -> Result<Kept, log::Error> {
    let mut standings = Vec::new();
    for sub in log.subscriptions(stream)? {
        let Ok(service) = Name::new(log.subscription_info(*sub)?.name) else {
            continue;
        };
        let subscription = SubscriptionId {
            service,
            on: destination.clone(),
        };
        standings.push(standing(subscription, log.standing(*sub, record, now)?));
    }
    Ok(Kept {
        destination: destination.clone(),
        record: convert::record_of(record),
        standings,
    })
}

fn standing(subscription: SubscriptionId, stands: log::Standing) -> Standing {
    use DeliveryState as S;
    use log::Standing as L;
    let (state, attempts, failure, until) = match stands {
        L::Waiting { attempts } => (S::Waiting, attempts, None, None),
        L::InFlight { attempts } => (S::InFlight, attempts, None, None),
        L::Delayed { attempts, until_ms } => {
            (S::Delayed, attempts, None, Some(Timestamp(until_ms)))
        }
        L::Settled => (S::Settled, 0, None, None),
        L::Failed { id, state, parked } => {
            let state = match (state, parked) {
                (log::FailureState::Redriving, _) => S::Redriving,
                (log::FailureState::Open, true) => S::Parked,
                (log::FailureState::Open, false) => S::Failed,
            };
            (state, 0, Some(FailureId(id.0)), None)
        }
    };
    Standing {
        subscription,
        state,
        attempts,
        failure,
        until,
    }
}

fn stream_of(log: &Log, destination: &Destination) -> Result<StreamId, Fault> {
    log.find_stream(&names::stream(destination)).ok_or_else(|| {
        not_found(format!(
            "there is no {destination}: list the topics and queues first"
        ))
    })
}

fn first_of(log: &Log, stream: StreamId) -> Result<u64, Fault> {
    let first = log.first_offset(stream);
    first.map_err(|error| fault(&error))
}

fn not_found(text: String) -> Fault {
    Fault::new(FaultKind::NotFound, Advice::FixMessage, text).code(Code::ADMIN_NOT_FOUND)
}

pub(super) fn trimmed(destination: &Destination, asked: u64, first: u64) -> Fault {
    let text = format!("{destination} no longer keeps position {asked}: the first is {first}");
    Fault::new(FaultKind::DataLoss, Advice::FixMessage, text).code(Code::LOG_TRIMMED)
}
