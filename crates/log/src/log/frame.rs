//! A frame on its way: entries encoded, appended, and applied as recovery would apply them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{Growth, Log};
use crate::batch::Block;
use crate::entry::Entry;
use crate::ids::Now;
use crate::planted::{self, Plant};
use crate::wal::{EntryBytes, Location, Lsn, Space, Sync};
use crate::{Error, Level};

#[derive(Debug)]
enum Body {
    Arena(Range<usize>),
    Own(Bytes),
}

/// Entries to append together.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    arena: Vec<u8>,
    parts: Vec<(u8, Body)>,
    /// Blocks to keep in memory, by the index of their entry.
    blocks: Vec<(usize, Arc<Block>)>,
    /// Whether it must be synced, whatever its level: it reserves offsets.
    pub(crate) must_sync: bool,
    /// How much of the last space of a full disk it may use.
    pub(crate) space: Space,
}

impl Frame {
    /// A frame that frees more than it takes.
    pub(crate) fn freeing() -> Self {
        Frame {
            space: Space::Reserve,
            ..Frame::default()
        }
    }

    /// A frame that must be synced.
    pub(crate) fn synced() -> Self {
        Frame {
            must_sync: true,
            ..Frame::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.len()
    }

    pub(crate) fn push(&mut self, entry: &Entry<'_>) {
        let from = self.arena.len();
        entry.encode(&mut self.arena);
        self.parts
            .push((entry.kind(), Body::Arena(from..self.arena.len())));
    }

    /// Adds an entry whose body was encoded by the caller, with the block in it.
    pub(crate) fn push_block(&mut self, kind: u8, body: Bytes, block: Block) {
        self.blocks.push((self.parts.len(), Arc::new(block)));
        self.parts.push((kind, Body::Own(body)));
    }

    /// Adds an entry whose body is there already.
    pub(crate) fn push_body(&mut self, kind: u8, body: Bytes) {
        self.parts.push((kind, Body::Own(body)));
    }

    fn bodies(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.parts
            .iter()
            .map(|(kind, body)| (*kind, self.body(body)))
    }

    fn body<'a>(&'a self, body: &'a Body) -> &'a [u8] {
        match body {
            Body::Arena(range) => &self.arena[range.clone()],
            Body::Own(bytes) => bytes,
        }
    }
}

impl Log {
    /// Appends a frame and applies it. On an error nothing has changed.
    pub(crate) fn append(&mut self, frame: &Frame, level: Level, now: Now) -> Result<Lsn, Error> {
        assert!(!frame.is_empty(), "a frame has at least one entry");
        // Most frames have one entry.
        if let [(kind, body)] = &frame.parts[..] {
            let body = [frame.body(body)];
            let (kind, flags) = (*kind, 0);
            let bytes = [EntryBytes {
                kind,
                flags,
                body: &body,
            }];
            return self.append_entries(frame, &bytes, level, now);
        }
        let bodies: Vec<(u8, [&[u8]; 1])> =
            frame.bodies().map(|(kind, body)| (kind, [body])).collect();
        let bytes: Vec<EntryBytes<'_>> = bodies
            .iter()
            .map(|(kind, body)| EntryBytes {
                kind: *kind,
                flags: 0,
                body,
            })
            .collect();
        self.append_entries(frame, &bytes, level, now)
    }

    fn append_entries(
        &mut self,
        frame: &Frame,
        bytes: &[EntryBytes<'_>],
        level: Level,
        now: Now,
    ) -> Result<Lsn, Error> {
        let sync = if frame.must_sync || level == Level::Fsync {
            Sync::Now
        } else {
            Sync::Lazy
        };
        // Decoded before it is appended: what could not be replayed is never written.
        let nowhere = Location::default();
        let entries = bytes.iter().map(|one| {
            let entry = Entry::decode(one.kind, one.flags, one.body[0])?;
            Ok((entry.expect("no flag says that it may be skipped"), nowhere))
        });
        let mut entries = entries.collect::<Result<Vec<_>, Error>>()?;
        let appended = self.wal.append_with(bytes, sync, frame.space)?;
        for ((_, at), location) in entries.iter_mut().zip(&appended.locations) {
            *at = *location;
        }
        self.state
            .apply(appended.lsn, &entries, now)
            .expect("what was decided can be applied");
        for (index, block) in &frame.blocks {
            let location = appended.locations[*index];
            // What nobody can read need not be kept for readers.
            if self.state.todo.kept.contains(&location) {
                self.cache.put(location, Arc::clone(block));
            }
        }
        if sync == Sync::Lazy {
            let within = match level {
                Level::Interval(every) => every.min(self.options.lazy_sync_after),
                _ => self.options.lazy_sync_after,
            };
            let due = now.mono + within;
            self.lazy_due = Some(self.lazy_due.map_or(due, |before| before.min(due)));
        }
        self.after_apply();
        Ok(appended.lsn)
    }

    /// Does what the last apply left to be done.
    pub(crate) fn after_apply(&mut self) {
        self.state.todo.kept.clear();
        for (due, timer) in self.state.todo.mono.drain(..) {
            self.mono.insert(due, timer);
        }
        for (due, timer) in self.state.todo.wall.drain(..) {
            self.wall.insert(due, timer);
        }
        self.trim_soon.extend(self.state.todo.trim.drain(..));
        let mut grown = std::mem::take(&mut self.state.todo.grown);
        for (id, lsn) in grown.drain(..) {
            let Some(stream) = self.state.streams.get(&id) else {
                continue;
            };
            let growth = Growth {
                lsn,
                stream: id,
                end: stream.end,
                reserved: stream.reserved,
            };
            match stream.config.level {
                Level::Memory => self.grow_safe(&growth),
                Level::Os | Level::Interval(_) => self.when_written.push_back(growth),
                Level::Fsync if planted::is(Plant::SeenBeforeDurable) => self.grow_safe(&growth),
                Level::Fsync => {}
            }
            self.when_durable.push_back(growth);
        }
        // Its room is used again.
        self.state.todo.grown = grown;
    }

    /// The records of a growth are safe at their stream's level.
    pub(super) fn grow_safe(&mut self, growth: &Growth) {
        let Some(stream) = self.state.streams.get_mut(&growth.stream) else {
            return;
        };
        let before = stream.visible_end();
        stream.safe = stream.safe.max(growth.end);
        if stream.visible_end() > before {
            self.wake_stream(growth.stream);
        }
    }

    pub(crate) fn wake_stream(&mut self, id: crate::StreamId) {
        let Some(stream) = self.state.streams.get_mut(&id) else {
            return;
        };
        if !stream.woken {
            stream.woken = true;
            self.state.todo.woken_streams.push(id);
        }
        for index in 0..stream.subs.len() {
            let sub = self.state.streams.get(&id).and_then(|s| s.subs.get(index));
            if let Some(sub) = sub.copied() {
                self.state.wake_if_ready(sub);
            }
        }
    }
}
