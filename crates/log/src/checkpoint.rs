//! The state as sections of a checkpoint, and its way back: sections, then frames. Drawn in `docs/formats/log-entries.md`.

use crate::Error;
use crate::codec::{Put, Reader};
use crate::entry::Entry;
use crate::ids::Now;
use crate::log::State;
use crate::planted::{self, Plant};
use crate::view::stream::Stream;
use crate::view::subscription::Subscription;
use crate::wal::{FrameRef, Visitor};

/// The version of all sections.
const VERSION: u16 = 1;
const HEAD: &str = "head";
const STREAMS: &str = "streams";
const SUBSCRIPTIONS: &str = "subscriptions";

pub(crate) fn encode(state: &State) -> Vec<(String, Vec<u8>)> {
    let mut head = Vec::new();
    head.put_u16(VERSION);
    head.put_u32(state.last_stream);
    head.put_u32(state.last_sub);

    let mut streams = Vec::new();
    streams.put_varint(state.streams.len() as u64);
    let mut sorted: Vec<&Stream> = state.streams.values().collect();
    sorted.sort_unstable_by_key(|stream| stream.id);
    sorted.iter().for_each(|stream| stream.encode(&mut streams));

    let mut subs = Vec::new();
    subs.put_varint(state.subs.len() as u64);
    let mut sorted: Vec<&Subscription> = state.subs.values().collect();
    sorted.sort_unstable_by_key(|sub| sub.id);
    sorted.iter().for_each(|sub| sub.encode(&mut subs));

    vec![
        (HEAD.to_owned(), head),
        (STREAMS.to_owned(), streams),
        (SUBSCRIPTIONS.to_owned(), subs),
    ]
}

/// Builds the state at open.
pub(crate) struct Loader {
    state: State,
    now: Now,
    counted: bool,
}

impl Loader {
    pub(crate) fn new(now: Now) -> Self {
        Loader {
            state: State::default(),
            now,
            counted: false,
        }
    }

    pub(crate) fn finish(mut self) -> Result<State, Error> {
        self.count()?;
        Ok(self.state)
    }

    fn count(&mut self) -> Result<(), Error> {
        if !std::mem::replace(&mut self.counted, true) {
            self.state.count_after_checkpoint()?;
        }
        Ok(())
    }
}

impl Visitor for Loader {
    fn checkpoint(&mut self, section: &str, bytes: &[u8]) -> Result<(), Error> {
        let mut reader = Reader::new(bytes, "checkpoint section");
        match section {
            HEAD => {
                if reader.u16()? != VERSION {
                    return Err(reader.malformed("it was written by a newer release"));
                }
                self.state.last_stream = reader.u32()?;
                self.state.last_sub = reader.u32()?;
            }
            STREAMS => {
                for _ in 0..reader.count(60)? {
                    let stream = Stream::decode(&mut reader)?;
                    self.state.names.insert(stream.name.clone(), stream.id);
                    self.state.streams.insert(stream.id, stream);
                }
            }
            SUBSCRIPTIONS => {
                for _ in 0..reader.count(40)? {
                    let mut sub = Subscription::decode(&mut reader)?;
                    sub.marks
                        .values_mut()
                        .for_each(|mark| mark.wait_from(self.now));
                    self.state.subs.insert(sub.id, sub);
                }
            }
            _ => return Err(reader.malformed("it has a section that this release does not know")),
        }
        reader.finish()
    }

    fn frame(&mut self, frame: &FrameRef<'_>) -> Result<(), Error> {
        self.count()?;
        let mut entries = Vec::with_capacity(frame.len());
        for raw in frame.entries() {
            // An entry that may be skipped keeps its place, so that references by index stay right.
            match Entry::decode(raw.kind, raw.flags, raw.body)? {
                Some(entry) => entries.push((entry, raw.location)),
                None => entries.push((Entry::Skipped, raw.location)),
            }
        }
        if planted::is(Plant::HalfATransaction) {
            entries.truncate(1);
        }
        self.state.apply(frame.lsn(), &entries, self.now)?;
        self.state.todo = Default::default();
        Ok(())
    }
}
