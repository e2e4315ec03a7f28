//! Entries as typed, printable things.

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::Block;
use crate::checkpoint::Loader;
use crate::disk::Disk;
use crate::entry::{DATA_HEAD, Ddl, Entry, kind};
use crate::ids::{Now, StreamId, SubId};
use crate::tx::Record;
use crate::wal::{EntryRef, Location, Lsn, Stopped};
use crate::{Error, FailureState};

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DumpEntry {
    /// The frame that it is part of: what has the same LSN became true together.
    pub lsn: Lsn,
    /// Where its body is.
    pub location: Location,
    /// What it is, as `docs/formats/log-entries.md` names it, in small letters: `data`, `settle`, ….
    pub kind: &'static str,
    /// What it says, in the order of the format.
    pub fields: Vec<(&'static str, DumpValue)>,
    /// The messages in it, where it holds some.
    pub records: Vec<Record>,
}

/// A value in a [`DumpEntry`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DumpValue {
    /// A number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// A text.
    Text(String),
    /// Bytes, such as a key.
    Bytes(Bytes),
    /// Ranges of numbers, from (inclusive) and to (exclusive).
    Ranges(Vec<(u64, u64)>),
}

impl fmt::Display for DumpValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DumpValue::Number(number) => number.fmt(f),
            DumpValue::Flag(flag) => flag.fmt(f),
            DumpValue::Text(text) => write!(f, "{text:?}"),
            DumpValue::Bytes(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            DumpValue::Ranges(ranges) => {
                for (index, (from, to)) in ranges.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    match to - from {
                        1 => write!(f, "{comma}{from}")?,
                        _ => write!(f, "{comma}{from}..{to}")?,
                    }
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for DumpEntry {
    /// One line: `12 1:4200 data stream=3 name="shop.order" base=7 records=2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lsn, at) = (self.lsn.0, self.location);
        write!(f, "{lsn} {}:{} {}", at.segment.0, at.at, self.kind)?;
        self.fields
            .iter()
            .try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

/// What streams and subscriptions are called, of those that are still there.
#[derive(Default)]
struct Names {
    streams: HashMap<StreamId, String>,
    subs: HashMap<SubId, String>,
}

pub(super) fn dump(
    disk: Arc<dyn Disk>,
    from: Lsn,
    sink: &mut dyn FnMut(DumpEntry) -> ControlFlow<()>,
) -> Result<(), Error> {
    let log = Stopped::open(disk)?;
    let mut loader = Loader::new(Now::from_millis(0, 0));
    let replayed = log
        .replay(&mut loader)
        .and_then(|replayed| Ok((replayed, loader.finish()?)));
    let (end, names) = match replayed {
        Ok((replayed, state)) => (replayed.end, Names::of(&state)),
        Err(error @ Error::Io { .. }) => return Err(error),
        // Damaged: what can be read is shown all the same, without names.
        Err(_) => (None, Names::default()),
    };
    log.scan(end, &mut |frame| {
        if frame.lsn() < from {
            return Ok(true);
        }
        for raw in frame.entries() {
            if sink(names.show(frame.lsn(), &raw)).is_break() {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .map(drop)
}

impl Names {
    fn of(state: &crate::log::State) -> Names {
        let streams = state.streams.values();
        let subs = state.subs.values();
        Names {
            streams: streams
                .map(|stream| (stream.id, stream.name.to_string()))
                .collect(),
            subs: subs.map(|sub| (sub.id, sub.name.to_string())).collect(),
        }
    }

    fn show(&self, lsn: Lsn, raw: &EntryRef<'_>) -> DumpEntry {
        let mut out = DumpEntry {
            lsn,
            location: raw.location,
            kind: name_of(raw.kind),
            fields: Vec::new(),
            records: Vec::new(),
        };
        match Entry::decode(raw.kind, raw.flags, raw.body) {
            Ok(Some(entry)) => self.fields(&entry, raw, &mut out),
            Ok(None) => out.number("kind", u64::from(raw.kind)),
            Err(error) => {
                out.number("kind", u64::from(raw.kind));
                out.text("unreadable", error.to_string());
            }
        }
        out
    }

    fn stream(&self, out: &mut DumpEntry, stream: StreamId) {
        out.number("stream", u64::from(stream.0));
        if let Some(name) = self.streams.get(&stream) {
            out.text("name", name.clone());
        }
    }

    fn sub(&self, out: &mut DumpEntry, sub: SubId) {
        out.number("sub", u64::from(sub.0));
        if let Some(name) = self.subs.get(&sub) {
            out.text("name", name.clone());
        }
    }

    fn fields(&self, entry: &Entry<'_>, raw: &EntryRef<'_>, out: &mut DumpEntry) {
        match entry {
            Entry::Data { stream, base, .. } => {
                self.stream(out, *stream);
                out.number("base", *base);
                out.block(raw.body, DATA_HEAD, *base);
            }
            Entry::Ref {
                stream,
                base,
                target,
            } => {
                self.stream(out, *stream);
                out.number("base", *base);
                out.number("target", u64::from(*target));
            }
            Entry::Reserve { stream, upto } => {
                self.stream(out, *stream);
                out.number("upto", *upto);
            }
            Entry::Trim { stream, before } => {
                self.stream(out, *stream);
                out.number("before", *before);
            }
            Entry::Offset {
                stream,
                group,
                epoch,
                watermark,
                done,
                meta,
            } => {
                self.stream(out, *stream);
                out.text("group", (*group).to_owned());
                out.number("epoch", *epoch);
                out.number("watermark", *watermark);
                out.ranges("done", done);
                out.number("meta_bytes", meta.len() as u64);
            }
            Entry::Ddl(ddl) => self.ddl(ddl, out),
            Entry::Settle { .. }
            | Entry::Lease { .. }
            | Entry::Return { .. }
            | Entry::Crash { .. }
            | Entry::Audit { .. } => self.of_sub(entry, out),
            Entry::Move { moves } => {
                out.number("moves", moves.len() as u64);
                let from = moves.first().map_or(0, |moved| moved.from.segment.0);
                out.number("from_segment", from);
            }
            Entry::Copy { body } => out.number("bytes", body.len() as u64),
            Entry::Skipped => {}
            entry => self.failure(entry, raw, out),
        }
    }

    fn of_sub(&self, entry: &Entry<'_>, out: &mut DumpEntry) {
        match entry {
            Entry::Settle {
                sub,
                reason,
                ranges,
            } => {
                self.sub(out, *sub);
                out.text("reason", format!("{reason:?}").to_lowercase());
                out.ranges("offsets", ranges);
            }
            Entry::Lease {
                sub,
                member,
                ranges,
            } => {
                self.sub(out, *sub);
                out.number("member", member.0);
                out.ranges("offsets", ranges);
            }
            Entry::Return {
                sub,
                at_ms,
                returned,
            } => {
                self.sub(out, *sub);
                out.number("at_ms", *at_ms);
                let offsets = returned.iter().map(|one| (one.offset, one.offset + 1));
                out.ranges("offsets", &offsets.collect::<Vec<_>>());
            }
            Entry::Crash { sub, state } => {
                self.sub(out, *sub);
                out.number("state_bytes", state.len() as u64);
            }
            Entry::Audit {
                sub,
                at_ms,
                offset,
                reason,
            } => {
                self.sub(out, *sub);
                out.number("at_ms", *at_ms);
                out.number("offset", *offset);
                out.text("reason", (*reason).to_owned());
            }
            _ => {}
        }
    }

    fn failure(&self, entry: &Entry<'_>, raw: &EntryRef<'_>, out: &mut DumpEntry) {
        match entry {
            Entry::Failure {
                sub,
                id,
                at_ms,
                source,
                key,
                parked,
                group,
                block,
                ..
            } => {
                self.sub(out, *sub);
                out.number("id", id.0);
                out.number("at_ms", *at_ms);
                if let Some(source) = source {
                    out.number("source", *source);
                }
                if let Some(key) = key {
                    let key = DumpValue::Bytes(Bytes::copy_from_slice(key));
                    out.fields.push(("key", key));
                }
                out.fields.push(("parked", DumpValue::Flag(*parked)));
                out.text("group", (*group).to_owned());
                let block_at = raw.body.len() - block.len();
                out.block(raw.body, block_at, source.unwrap_or(0));
            }
            Entry::Reopen {
                sub,
                id,
                at_ms,
                group,
                ..
            } => {
                self.sub(out, *sub);
                out.number("id", id.0);
                out.number("at_ms", *at_ms);
                out.text("state", format!("{:?}", FailureState::Open).to_lowercase());
                out.text("group", (*group).to_owned());
            }
            Entry::Redrive {
                sub,
                at_ms,
                ids,
                reason,
            } => {
                self.sub(out, *sub);
                out.number("at_ms", *at_ms);
                out.ranges("ids", ids);
                out.text("reason", (*reason).to_owned());
            }
            Entry::Remove {
                sub,
                at_ms,
                ids,
                reason,
            } => {
                self.sub(out, *sub);
                out.number("at_ms", *at_ms);
                out.ranges("ids", ids);
                if let Some(reason) = reason {
                    out.text("reason", (*reason).to_owned());
                }
            }
            _ => {}
        }
    }

    fn ddl(&self, ddl: &Ddl<'_>, out: &mut DumpEntry) {
        let mut what = |op: &str| out.text("op", op.to_owned());
        match ddl {
            Ddl::Stream { stream, name, .. } => {
                what("stream");
                out.number("stream", u64::from(stream.0));
                out.text("name", (*name).to_owned());
            }
            Ddl::DropStream { stream } => {
                what("drop stream");
                out.number("stream", u64::from(stream.0));
            }
            Ddl::Subscription {
                sub,
                stream,
                name,
                from,
                ..
            } => {
                what("subscription");
                out.number("sub", u64::from(sub.0));
                out.number("stream", u64::from(stream.0));
                out.text("name", (*name).to_owned());
                out.number("from", *from);
            }
            Ddl::DropSubscription { sub } => {
                what("drop subscription");
                out.number("sub", u64::from(sub.0));
            }
            Ddl::Seek { sub, to } => {
                what("seek");
                self.sub(out, *sub);
                out.number("to", *to);
            }
            Ddl::Pause { sub, paused } => {
                what("pause");
                self.sub(out, *sub);
                out.fields.push(("paused", DumpValue::Flag(*paused)));
            }
        }
    }
}

impl DumpEntry {
    fn number(&mut self, name: &'static str, value: u64) {
        self.fields.push((name, DumpValue::Number(value)));
    }

    fn text(&mut self, name: &'static str, value: String) {
        self.fields.push((name, DumpValue::Text(value)));
    }

    fn ranges(&mut self, name: &'static str, ranges: &[(u64, u64)]) {
        self.fields.push((name, DumpValue::Ranges(ranges.to_vec())));
    }

    fn block(&mut self, body: &[u8], table_at: usize, base: u64) {
        let records = Block::verify(Bytes::copy_from_slice(body), table_at).and_then(|block| {
            (0..block.count())
                .map(|index| block.record(index, base))
                .collect()
        });
        match records {
            Ok(records) => {
                self.records = records;
                self.number("records", self.records.len() as u64);
                self.number("bytes", body.len() as u64);
            }
            Err(error) => self.text("unreadable", error.to_string()),
        }
    }
}

fn name_of(kind: u8) -> &'static str {
    match kind {
        kind::DATA => "data",
        kind::REF => "ref",
        kind::SETTLE => "settle",
        kind::LEASE => "lease",
        kind::RETURN => "return",
        kind::RESERVE => "reserve",
        kind::OFFSET => "offset",
        kind::FAILURE => "failure",
        kind::REOPEN => "reopen",
        kind::REDRIVE => "redrive",
        kind::REMOVE => "remove",
        kind::CRASH => "crash",
        kind::DDL => "ddl",
        kind::TRIM => "trim",
        kind::AUDIT => "audit",
        kind::MOVE => "move",
        kind::COPY => "copy",
        _ => "unknown",
    }
}
