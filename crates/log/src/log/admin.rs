//! Definitions: streams, subscriptions and readers, made, changed, looked at and removed.
//!
//! Definitions are always `fsync`. Each call gives the frame after which they are safe: wait for
//! [`Log::is_durable`] before telling anyone.

use super::Log;
use super::frame::Frame;
use super::plan::too_large;
use crate::definitions::{Created, Kind, Start, StreamConfig, SubscriptionConfig, check_name};
use crate::entry::{Ddl, Entry};
use crate::ids::{Now, Offset, StreamId, SubId};
use crate::view::offsets::ReaderState;
use crate::view::stream::Stream;
use crate::view::subscription::Subscription;
use crate::wal::Lsn;
use crate::{Error, Level};

/// A stream, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its number.
    pub id: StreamId,
    /// Its name.
    pub name: String,
    /// How it behaves.
    pub config: StreamConfig,
    /// The oldest record that is there, or the end.
    pub first: Offset,
    /// The next offset to be given.
    pub next: Offset,
    /// Records below may be seen.
    pub visible_end: Offset,
    /// Records that are there.
    pub records: u64,
    /// The bytes they take in the log.
    pub bytes: u64,
    /// Its subscriptions.
    pub subscriptions: Vec<SubId>,
    /// Its log-shaped readers.
    pub readers: Vec<String>,
    /// Message ids remembered; at most [`DedupeWindow::ids_max`](crate::DedupeWindow::ids_max).
    pub dedupe_ids: usize,
}

/// A subscription, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionInfo {
    /// Its number.
    pub id: SubId,
    /// Its stream.
    pub stream: StreamId,
    /// Its name.
    pub name: String,
    /// How it behaves.
    pub config: SubscriptionConfig,
    /// Whether nothing is handed out.
    pub paused: bool,
    /// Records below are settled.
    pub floor: Offset,
    /// Records that are not settled, those in flight included.
    pub depth: u64,
    /// Messages in flight.
    pub in_flight: usize,
    /// Messages that wait behind others of their key or for a back-off; at most
    /// [`look_ahead_max`](SubscriptionConfig::look_ahead_max), returned ones aside.
    pub waiting: usize,
    /// Messages that were looked at and are kept back until a time: delayed or returned ones.
    pub delayed: usize,
    /// When the oldest unsettled record was appended, wall time in ms.
    pub oldest_ms: Option<u64>,
    /// Failure records, open and redriving.
    pub failures: usize,
    /// Parked keys.
    pub parked_keys: usize,
}

impl Log {
    fn define(&mut self, ddl: Ddl<'_>) -> Result<Lsn, Error> {
        let mut frame = Frame::synced();
        if let Ddl::Stream { stream, config, .. } = &ddl {
            let (stream, level) = (*stream, config.level);
            let reserved = self
                .state
                .streams
                .get(&stream)
                .map_or((0, 0), |s| (s.next, s.reserved));
            frame.push(&Entry::Ddl(ddl));
            if level != Level::Fsync
                && reserved.0 + self.options.limits.reserve_ahead / 2 > reserved.1
            {
                frame.push(&Entry::Reserve {
                    stream,
                    upto: reserved.0 + self.options.limits.reserve_ahead,
                });
            }
        } else {
            frame.push(&Entry::Ddl(ddl));
        }
        // Nothing in a definition depends on the time.
        self.append(&frame, Level::Fsync, Now::from_millis(0, 0))
    }

    /// Makes a stream, or changes the settings of one that is there (its kind cannot be changed).
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Invalid`] for another kind, [`Error::TooLarge`] for too many streams, those of
    /// [`Wal::append`](crate::wal::Wal::append).
    pub fn create_stream(
        &mut self,
        name: &str,
        config: StreamConfig,
    ) -> Result<(StreamId, Created, Lsn), Error> {
        check_name(name)?;
        let config = config.normal();
        if let Some(stream) = self.state.names.get(name).map(|id| &self.state.streams[id]) {
            let id = stream.id;
            if stream.config == config {
                return Ok((id, Created::Existing, self.wal.last()));
            }
            if stream.config.kind != config.kind {
                return Err(Error::Invalid {
                    what: "stream's kind",
                    why: "it is fixed at creation: make another stream",
                });
            }
            let lsn = self.define(Ddl::Stream {
                stream: id,
                name,
                config,
            })?;
            return Ok((id, Created::Altered, lsn));
        }
        too_large(
            "a log's streams",
            self.state.streams.len() + 1,
            self.options.limits.streams_max,
            "streams_max",
        )?;
        let id = StreamId(self.state.last_stream + 1);
        let lsn = self.define(Ddl::Stream {
            stream: id,
            name,
            config,
        })?;
        Ok((id, Created::New, lsn))
    }

    /// Removes a stream with its records, subscriptions, failure records and parked keys.
    ///
    /// # Errors
    /// [`Error::UnknownStream`], those of [`Wal::append`](crate::wal::Wal::append).
    pub fn delete_stream(&mut self, stream: StreamId) -> Result<Lsn, Error> {
        self.state.stream(stream)?;
        self.define(Ddl::DropStream { stream })
    }

    /// Makes a subscription, or changes the look-ahead of one that is there (order is fixed; the start matters at creation only).
    ///
    /// # Errors
    /// [`Error::UnknownStream`], [`Error::Name`], [`Error::Invalid`] for another order, [`Error::TooLarge`] for too many, those of
    /// [`Wal::append`](crate::wal::Wal::append).
    pub fn create_subscription(
        &mut self,
        stream: StreamId,
        name: &str,
        config: SubscriptionConfig,
    ) -> Result<(SubId, Created, Lsn), Error> {
        check_name(name)?;
        let view = self.state.stream(stream)?;
        if let Some(sub) = self.find_subscription(stream, name) {
            let before = self.state.sub(sub)?.config;
            if before.ordered != config.ordered {
                let why = "whether it is ordered is fixed at creation: make another subscription";
                return Err(Error::Invalid {
                    what: "subscription",
                    why,
                });
            }
            if before.look_ahead_max == config.look_ahead_max {
                return Ok((sub, Created::Existing, self.wal.last()));
            }
            let config = SubscriptionConfig {
                start: before.start,
                ..config
            };
            let lsn = self.define(Ddl::Subscription {
                sub,
                stream,
                name,
                config,
                from: 0,
            })?;
            return Ok((sub, Created::Altered, lsn));
        }
        let max = self.options.limits.subscriptions_max;
        too_large(
            "a stream's subscriptions",
            view.subs.len() + 1,
            max,
            "subscriptions_max",
        )?;
        // The first subscription of a queue gets what waits for it.
        let waits = view.config.kind == Kind::Queue && view.subs.is_empty();
        let start = if waits && config.start == Start::Latest {
            Start::Earliest
        } else {
            config.start
        };
        let from = start_of(view, start);
        let sub = SubId(self.state.last_sub + 1);
        let lsn = self.define(Ddl::Subscription {
            sub,
            stream,
            name,
            config,
            from,
        })?;
        Ok((sub, Created::New, lsn))
    }

    /// Removes a subscription with its failure records and parked keys.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`], those of [`Wal::append`](crate::wal::Wal::append).
    pub fn delete_subscription(&mut self, sub: SubId) -> Result<Lsn, Error> {
        self.state.sub(sub)?;
        self.define(Ddl::DropSubscription { sub })
    }

    /// Stops or resumes handing out. What is in flight stays so.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`], those of [`Wal::append`](crate::wal::Wal::append).
    pub fn pause(&mut self, sub: SubId, paused: bool) -> Result<Lsn, Error> {
        if self.state.sub(sub)?.paused == paused {
            return Ok(self.wal.last());
        }
        self.define(Ddl::Pause { sub, paused })
    }

    /// Starts a subscription anew: everything that is still there from `to` on is delivered (again), everything before is settled. Leases
    /// and attempts are forgotten; failure records and parked keys stay.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`], those of [`Wal::append`](crate::wal::Wal::append).
    pub fn seek(&mut self, sub: SubId, to: Start) -> Result<Lsn, Error> {
        let (_, stream) = self.state.sub_and_stream(sub)?;
        let to = start_of(stream, to);
        self.define(Ddl::Seek { sub, to })
    }

    /// Lets go of the records below `before`: of an event stream all, of others those that are settled but retained. Whole appends only.
    ///
    /// # Errors
    /// [`Error::UnknownStream`], those of [`Wal::append`](crate::wal::Wal::append).
    pub fn trim(&mut self, stream: StreamId, before: Offset) -> Result<Lsn, Error> {
        let before = before.min(self.state.stream(stream)?.visible_end());
        let mut frame = Frame::freeing();
        frame.push(&Entry::Trim { stream, before });
        self.append(&frame, Level::Fsync, Now::from_millis(0, 0))
    }

    /// Makes the caller the owner of a reader's position: commits of the owner before are fenced off once this is durable. Gives
    /// where the reader stands, with its new epoch.
    ///
    /// # Errors
    /// [`Error::UnknownStream`], [`Error::Name`], those of [`Wal::append`](crate::wal::Wal::append).
    pub fn claim_reader(
        &mut self,
        stream: StreamId,
        group: &str,
    ) -> Result<(ReaderState, Lsn), Error> {
        check_name(group)?;
        let mut state = self.reader(stream, group)?.unwrap_or_default();
        state.epoch += 1;
        let ReaderState {
            epoch,
            watermark,
            done,
            meta,
        } = &state;
        let (epoch, watermark, done) = (*epoch, *watermark, done.clone());
        let mut frame = Frame::default();
        frame.push(&Entry::Offset {
            stream,
            group,
            epoch,
            watermark,
            done,
            meta,
        });
        let lsn = self.append(&frame, Level::Fsync, Now::from_millis(0, 0))?;
        Ok((state, lsn))
    }

    /// Where a reader stands; `None` if it never claimed.
    ///
    /// # Errors
    /// [`Error::UnknownStream`].
    pub fn reader(&self, stream: StreamId, group: &str) -> Result<Option<ReaderState>, Error> {
        Ok(self.state.stream(stream)?.readers.get(group).cloned())
    }

    /// The stream of this name.
    pub fn find_stream(&self, name: &str) -> Option<StreamId> {
        self.state.names.get(name).copied()
    }

    /// The subscription of this name on a stream.
    pub fn find_subscription(&self, stream: StreamId, name: &str) -> Option<SubId> {
        let subs = &self.state.streams.get(&stream)?.subs;
        subs.iter().copied().find(|sub| {
            self.state
                .subs
                .get(sub)
                .is_some_and(|sub| *sub.name == *name)
        })
    }

    /// All streams, in the order of their numbers.
    pub fn streams(&self) -> Vec<StreamId> {
        let mut ids: Vec<StreamId> = self.state.streams.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// The subscriptions of a stream, in the order of their numbers. Without any, a topic keeps nothing.
    ///
    /// # Errors
    /// [`Error::UnknownStream`].
    pub fn subscriptions(&self, stream: StreamId) -> Result<&[SubId], Error> {
        Ok(&self.state.stream(stream)?.subs)
    }

    /// The next offset of a stream, for an expected version. It may not be durable yet.
    ///
    /// # Errors
    /// [`Error::UnknownStream`].
    pub fn next_offset(&self, stream: StreamId) -> Result<Offset, Error> {
        Ok(self.state.stream(stream)?.next)
    }

    /// The first offset that was appended at or after this wall time, to the grain of one append; the end where there is none.
    ///
    /// # Errors
    /// [`Error::UnknownStream`].
    pub fn offset_at(&self, stream: StreamId, at_ms: u64) -> Result<Offset, Error> {
        let stream = self.state.stream(stream)?;
        let found = stream.batches().find(|batch| batch.at_ms >= at_ms);
        Ok(found.map_or(stream.next, |batch| batch.base))
    }

    /// The end of what may be seen of a stream.
    ///
    /// # Errors
    /// [`Error::UnknownStream`].
    pub fn visible_end(&self, stream: StreamId) -> Result<Offset, Error> {
        Ok(self.state.stream(stream)?.visible_end())
    }

    /// A stream, as it is now. Takes time in proportion to its batches.
    ///
    /// # Errors
    /// [`Error::UnknownStream`].
    pub fn stream_info(&self, stream: StreamId) -> Result<StreamInfo, Error> {
        let stream = self.state.stream(stream)?;
        Ok(StreamInfo {
            id: stream.id,
            name: stream.name.to_string(),
            config: stream.config,
            first: stream.first(),
            next: stream.next,
            visible_end: stream.visible_end(),
            records: stream.records(),
            bytes: stream.bytes(),
            subscriptions: stream.subs.clone(),
            readers: stream.readers.keys().map(ToString::to_string).collect(),
            dedupe_ids: stream.dedupe.as_ref().map_or(0, |dedupe| dedupe.len()),
        })
    }

    /// A subscription, as it is now.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`].
    pub fn subscription_info(&self, sub: SubId) -> Result<SubscriptionInfo, Error> {
        let (sub, stream) = self.state.sub_and_stream(sub)?;
        let Subscription {
            dispatch, failures, ..
        } = sub;
        let first = sub.settled.next_unsettled(0);
        let oldest = stream.find(first).filter(|_| sub.depth > 0);
        Ok(SubscriptionInfo {
            id: sub.id,
            stream: sub.stream,
            name: sub.name.to_string(),
            config: sub.config,
            paused: sub.paused,
            floor: sub.settled.floor(),
            depth: sub.depth,
            in_flight: dispatch
                .as_ref()
                .map_or(0, |dispatch| dispatch.in_flight_len()),
            waiting: dispatch
                .as_ref()
                .map_or(0, |dispatch| dispatch.waiting_len()),
            delayed: dispatch
                .as_ref()
                .map_or(0, |dispatch| dispatch.delayed_len()),
            oldest_ms: oldest.map(|batch| batch.at_ms),
            failures: failures.as_ref().map_or(0, |failures| failures.len()),
            parked_keys: failures
                .as_ref()
                .map_or(0, |failures| failures.parked_keys().len()),
        })
    }

    /// Whether a record is settled in a subscription: acknowledged, or ended in another way. True also for what was never there.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`].
    pub fn is_settled(&self, sub: SubId, offset: Offset) -> Result<bool, Error> {
        Ok(self.state.sub(sub)?.settled.contains(offset))
    }

    /// Whether a lease call could give something to some member now.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`].
    pub fn is_ready(&self, sub: SubId) -> Result<bool, Error> {
        let (sub, stream) = self.state.sub_and_stream(sub)?;
        let ready = match &sub.dispatch {
            Some(dispatch) => dispatch.is_ready(stream.visible_end()),
            None => sub.settled.next_unsettled(0) < stream.visible_end(),
        };
        Ok(ready && !sub.paused)
    }
}

/// The offset at which a subscription starts.
pub(super) fn start_of(stream: &Stream, start: Start) -> Offset {
    match start {
        Start::Latest => stream.next,
        Start::Earliest => stream.first(),
        Start::At(offset) => offset.clamp(stream.first(), stream.next.max(stream.first())),
    }
}
