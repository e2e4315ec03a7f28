//! What streams and subscriptions are made with, and how that is written down.

use std::time::Duration;

use crate::Error;
use crate::codec::{Put, Reader};
use crate::ids::{Offset, millis};

/// What keeps a record alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Kept until every subscription that existed at its publish has settled it. Without any, it is gone at once.
    #[default]
    Topic,
    /// As a topic, but kept while there is no subscription yet.
    Queue,
    /// Kept until trimmed, by hand or by retention; subscriptions do not matter.
    Events,
}

/// When a record of the stream is safe, and from when on a consumer may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// Synced to the device. Survives a power cut.
    #[default]
    Fsync,
    /// Handed to the operating system, synced at the latest after this time. Survives the death of the process.
    Interval(Duration),
    /// Handed to the operating system. Survives the death of the process.
    Os,
    /// In memory.
    Memory,
}

impl Level {
    /// The order of strength: `Memory` < `Os` < `Interval` < `Fsync`.
    pub(crate) fn rank(self) -> u8 {
        match self {
            Level::Memory => 0,
            Level::Os => 1,
            Level::Interval(_) => 2,
            Level::Fsync => 3,
        }
    }
}

/// How long records are kept beyond need ([`Kind::Topic`], [`Kind::Queue`]) or at all ([`Kind::Events`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Topics and queues: how long after its append a settled record stays readable. `None`: not at all.
    /// Events: records older than this are trimmed. `None`: never.
    pub age: Option<Duration>,
    /// Topics and queues: at most this many bytes of settled records stay. Events: the oldest beyond this are trimmed. `None`: no limit.
    pub bytes: Option<u64>,
}

/// How long a message id is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DedupeWindow {
    /// At least this long (at most twice). Zero turns deduplication off.
    pub window: Duration,
    /// At most this many ids; beyond it the oldest are forgotten early. 24 bytes and some each.
    pub ids_max: u32,
}

impl Default for DedupeWindow {
    fn default() -> Self {
        DedupeWindow {
            window: Duration::from_secs(120),
            ids_max: 1 << 20,
        }
    }
}

/// How a stream behaves. `Default` is a topic at level `fsync` with a dedupe window of two minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamConfig {
    /// What keeps a record alive. Fixed at creation.
    pub kind: Kind,
    /// Its durability.
    pub level: Level,
    /// Its retention.
    pub retention: Retention,
    /// Its dedupe window.
    pub dedupe: DedupeWindow,
}

/// Where a new subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// With what is published from now on.
    #[default]
    Latest,
    /// With the oldest record that is still there.
    Earliest,
    /// With this offset, or the oldest that is still there.
    At(Offset),
}

/// How a subscription behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriptionConfig {
    /// Where it begins; matters at creation only.
    pub start: Start,
    /// Whether a key is with one member at a time, in order. Otherwise each message is on its own.
    pub ordered: bool,
    /// How many messages may wait behind others of their key before nothing new is looked at. At least 1.
    pub look_ahead_max: u32,
}

impl Default for SubscriptionConfig {
    fn default() -> Self {
        SubscriptionConfig {
            start: Start::Latest,
            ordered: true,
            look_ahead_max: 10_000,
        }
    }
}

/// What creating did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It is new.
    New,
    /// It was there, exactly so.
    Existing,
    /// It was there with other settings, which are now as asked.
    Altered,
}

impl StreamConfig {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(match self.kind {
            Kind::Topic => 0,
            Kind::Queue => 1,
            Kind::Events => 2,
        });
        let (level, interval) = match self.level {
            Level::Fsync => (0, 0),
            Level::Interval(every) => (1, millis(every)),
            Level::Os => (2, 0),
            Level::Memory => (3, 0),
        };
        out.put_u8(level);
        out.put_u64(interval);
        out.put_option(self.retention.age, |out, age| out.put_u64(millis(age)));
        out.put_option(self.retention.bytes, Put::put_u64);
        out.put_u64(millis(self.dedupe.window));
        out.put_u32(self.dedupe.ids_max);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let kind = match reader.u8()? {
            0 => Kind::Topic,
            1 => Kind::Queue,
            2 => Kind::Events,
            _ => return Err(reader.malformed("a stream is of no known kind")),
        };
        let (level, interval) = (reader.u8()?, reader.u64()?);
        let level = match level {
            0 => Level::Fsync,
            1 => Level::Interval(Duration::from_millis(interval)),
            2 => Level::Os,
            3 => Level::Memory,
            _ => return Err(reader.malformed("a level is not known")),
        };
        let age = reader.option(Reader::u64)?.map(Duration::from_millis);
        let bytes = reader.option(Reader::u64)?;
        let dedupe = DedupeWindow {
            window: Duration::from_millis(reader.u64()?),
            ids_max: reader.u32()?,
        };
        Ok(StreamConfig {
            kind,
            level,
            retention: Retention { age, bytes },
            dedupe,
        })
    }

    /// As it will read back: whole milliseconds.
    pub(crate) fn normal(mut self) -> Self {
        let whole = |duration: Duration| Duration::from_millis(millis(duration));
        if let Level::Interval(every) = self.level {
            self.level = Level::Interval(whole(every));
        }
        self.retention.age = self.retention.age.map(whole);
        self.dedupe.window = whole(self.dedupe.window);
        self
    }
}

impl SubscriptionConfig {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let (start, at) = match self.start {
            Start::Latest => (0, 0),
            Start::Earliest => (1, 0),
            Start::At(offset) => (2, offset),
        };
        out.put_u8(start);
        out.put_u64(at);
        out.put_bool(self.ordered);
        out.put_u32(self.look_ahead_max);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let (start, at) = (reader.u8()?, reader.u64()?);
        let start = match start {
            0 => Start::Latest,
            1 => Start::Earliest,
            2 => Start::At(at),
            _ => return Err(reader.malformed("a start is not known")),
        };
        Ok(SubscriptionConfig {
            start,
            ordered: reader.bool()?,
            look_ahead_max: reader.u32()?,
        })
    }
}

/// Names are for people and paths: 1 to 255 bytes, no control characters.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let fits = (1..=255).contains(&name.len());
    if fits && !name.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(Error::Name {
            name: name.chars().take(64).collect(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn definitions_survive_the_round_trip() {
        let stream = StreamConfig {
            kind: Kind::Events,
            level: Level::Interval(Duration::from_millis(250)),
            retention: Retention {
                age: Some(Duration::from_secs(3600)),
                bytes: None,
            },
            dedupe: DedupeWindow {
                window: Duration::ZERO,
                ids_max: 7,
            },
        };
        let mut out = Vec::new();
        stream.encode(&mut out);
        let mut reader = Reader::new(&out, "test");
        assert_eq!(StreamConfig::decode(&mut reader).unwrap(), stream);
        reader.finish().unwrap();

        let sub = SubscriptionConfig {
            start: Start::At(9),
            ordered: false,
            look_ahead_max: 3,
        };
        let mut out = Vec::new();
        sub.encode(&mut out);
        let mut reader = Reader::new(&out, "test");
        assert_eq!(SubscriptionConfig::decode(&mut reader).unwrap(), sub);
        reader.finish().unwrap();
    }

    #[test]
    fn a_name_with_a_line_break_or_without_a_letter_is_refused() {
        assert!(check_name("shop.order").is_ok());
        for bad in ["", "a\nb", &"x".repeat(256)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
