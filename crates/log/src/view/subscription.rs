//! One subscription: what is durable of it. Who gets what next is [`dispatch`](super::dispatch).

use bytes::Bytes;

use crate::Error;
use crate::codec::{Put, Reader};
use crate::definitions::SubscriptionConfig;
use crate::ids::{IntMap, Now, Offset, StreamId, SubId};
use crate::planted::{self, Plant};
use crate::view::dispatch::Dispatch;
use crate::view::failures::Failures;
use crate::view::settled::Settled;

/// What survives of a message that was handed out and is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    /// Hand-overs that count.
    pub(crate) attempts: u32,
    /// When it was returned, wall time in ms; with the delay below.
    pub(crate) returned_ms: u64,
    /// How long it must wait from then on, ms. 0: not at all.
    pub(crate) delay_ms: u64,
    /// Until when that is in this run, monotonic ms; not stored. A clock that jumps later changes nothing.
    pub(crate) not_before_ms: u64,
}

impl Mark {
    /// How long it must still wait, between zero and what it was, whatever the wall clock did meanwhile.
    pub(crate) fn waits_ms(&self, wall_ms: u64) -> u64 {
        if planted::is(Plant::DelayNotClamped) {
            return (self.returned_ms + self.delay_ms).saturating_sub(wall_ms);
        }
        self.delay_ms - wall_ms.saturating_sub(self.returned_ms).min(self.delay_ms)
    }

    /// It was returned, or is found as returned in a run that begins now.
    pub(crate) fn wait_from(&mut self, now: Now) {
        let waits_ms = self.waits_ms(now.wall_ms);
        self.not_before_ms = match waits_ms {
            0 => 0,
            _ if planted::is(Plant::DelayForgotten) => 0,
            _ => now.mono_ms().saturating_add(waits_ms),
        };
    }
}

#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) id: SubId,
    pub(crate) stream: StreamId,
    pub(crate) name: Box<str>,
    pub(crate) config: SubscriptionConfig,
    pub(crate) paused: bool,
    pub(crate) settled: Settled,
    pub(crate) marks: IntMap<Offset, Mark>,
    /// Records of the log that are not settled.
    pub(crate) depth: u64,
    pub(crate) failures: Option<Box<Failures>>,
    pub(crate) crash: Bytes,
    /// Made when somebody leases; an idle subscription has none.
    pub(crate) dispatch: Option<Box<Dispatch>>,
    /// How many dispatchers there were.
    pub(crate) generations: u16,
    /// Whether it is on the list of those to wake.
    pub(crate) woken: bool,
}

impl Subscription {
    pub(crate) fn new(id: SubId, stream: StreamId, name: &str, config: SubscriptionConfig) -> Self {
        Subscription {
            id,
            stream,
            name: name.into(),
            config,
            paused: false,
            settled: Settled::default(),
            marks: IntMap::default(),
            depth: 0,
            failures: None,
            crash: Bytes::new(),
            dispatch: None,
            generations: 0,
            woken: false,
        }
    }

    /// The dispatcher, made at the floor if there is none.
    pub(crate) fn dispatch(&mut self, tokens: u64) -> &mut Dispatch {
        let (config, floor) = (self.config, self.settled.floor());
        let generations = &mut self.generations;
        self.dispatch.get_or_insert_with(|| {
            *generations = generations.wrapping_add(1);
            let dispatch = Dispatch::new(
                config.ordered,
                config.look_ahead_max,
                *generations,
                floor,
                tokens,
            );
            Box::new(dispatch)
        })
    }

    /// Settles a range and calls `new` with the parts that were not settled before.
    pub(crate) fn settle(&mut self, from: Offset, to: Offset, mut new: impl FnMut(Offset, Offset)) {
        let (marks, dispatch) = (&mut self.marks, &mut self.dispatch);
        self.settled.insert(from, to, |from, to| {
            if to - from > marks.len() as u64 {
                marks.retain(|offset, _| !(from..to).contains(offset));
            } else {
                (from..to).for_each(|offset| {
                    marks.remove(&offset);
                });
            }
            if let Some(dispatch) = dispatch {
                dispatch.settle_range(from, to);
            }
            new(from, to);
        });
    }

    /// Forgets all progress and starts at `from`. Leases are over.
    pub(crate) fn reset(&mut self, from: Offset) {
        self.settled = Settled::below(from);
        self.marks = IntMap::default();
        self.dispatch = None;
        self.depth = 0;
    }

    pub(crate) fn failures(&mut self) -> &mut Failures {
        self.failures.get_or_insert_default()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.id.0);
        out.put_u32(self.stream.0);
        out.put_bytes(self.name.as_bytes());
        self.config.encode(out);
        out.put_bool(self.paused);
        self.settled.encode(out);
        let mut marks: Vec<_> = self.marks.iter().collect();
        if planted::is(Plant::LeaseMarkLost) {
            marks.clear();
        }
        marks.sort_unstable_by_key(|(offset, _)| **offset);
        out.put_varint(marks.len() as u64);
        for (offset, mark) in marks {
            out.put_u64(*offset);
            out.put_u32(mark.attempts);
            out.put_varint(mark.returned_ms);
            out.put_varint(mark.delay_ms);
        }
        out.put_bytes(&self.crash);
        out.put_option(self.failures.as_ref(), |out, failures| failures.encode(out));
    }

    /// Reads a subscription. Its depth is counted anew from its stream.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let (id, stream) = (SubId(reader.u32()?), StreamId(reader.u32()?));
        let name = reader.text()?;
        let mut sub = Subscription::new(id, stream, name, SubscriptionConfig::decode(reader)?);
        sub.paused = reader.bool()?;
        sub.settled = Settled::decode(reader)?;
        for _ in 0..reader.count(14)? {
            let offset = reader.u64()?;
            let attempts = reader.u32()?;
            let mark = Mark {
                attempts,
                returned_ms: reader.varint()?,
                delay_ms: reader.varint()?,
                not_before_ms: 0,
            };
            sub.marks.insert(offset, mark);
        }
        sub.crash = Bytes::copy_from_slice(reader.bytes()?);
        sub.failures = reader.option(Failures::decode)?.map(Box::new);
        Ok(sub)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_clamped_between_zero_and_what_it_was_whatever_the_clock_did() {
        let mark = Mark {
            attempts: 1,
            returned_ms: 10_000,
            delay_ms: 5_000,
            ..Mark::default()
        };
        assert_eq!(mark.waits_ms(12_000), 3_000);
        assert_eq!(mark.waits_ms(2_000), 5_000, "the clock went back");
        assert_eq!(mark.waits_ms(90_000), 0);
    }

    #[test]
    fn an_idle_subscription_is_small() {
        assert!(
            size_of::<Subscription>() <= 320,
            "{}",
            size_of::<Subscription>()
        );
    }

    #[test]
    fn it_survives_the_round_trip() {
        let mut sub = Subscription::new(
            SubId(1),
            StreamId(2),
            "inventory",
            SubscriptionConfig::default(),
        );
        sub.marks.insert(
            7,
            Mark {
                attempts: 2,
                returned_ms: 5,
                delay_ms: 9,
                not_before_ms: 0,
            },
        );
        sub.marks.insert(
            9,
            Mark {
                attempts: 1,
                returned_ms: 0,
                delay_ms: 0,
                not_before_ms: 0,
            },
        );
        sub.settle(0, 7, |_, _| {});
        sub.settle(9, 10, |_, _| {});
        sub.crash = Bytes::from_static(b"crash");
        sub.paused = true;
        let mut out = Vec::new();
        sub.encode(&mut out);
        let read = Subscription::decode(&mut Reader::new(&out, "test")).unwrap();
        assert_eq!(
            (read.settled, read.marks, read.crash, read.paused),
            (sub.settled, sub.marks, sub.crash, true)
        );
    }
}
