//! Emptying segments in which little is still needed, so that one message that nobody can handle keeps a few bytes and not a segment.
//!
//! One segment at a time: first it is found who needs something in it, a bounded part of the index per step; then their entries are read
//! off the lock and written once more at the head, a slice per frame, the next when the one before is durable. That is the budget: publishers share
//! their syncs with at most one slice. And no more is written by moves than by everyone else together, so that they end.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::frame::Frame;
use super::{Log, State};
use crate::entry::{Entry, Moved, Owner, kind};
use crate::ids::{Now, Offset, StreamId, SubId};
use crate::wal::{Location, Lsn, ReadSource, SegmentId, SegmentInfo, Space};
use crate::{Error, Level};

/// Bytes of one slice; a single larger entry goes alone.
const SLICE_BYTES: u64 = 256 << 10;
/// Entries of one slice.
const SLICE_ENTRIES: usize = 1_024;
/// Bytes around one moved entry, about: headers and where it came from.
const ENTRY_COST: u64 = 64;
/// What a group of frames is padded to.
const BLOCK: u64 = 4096;
/// Places of the index looked at in one step.
const LOOK_MAX: usize = 16_384;

/// What is being moved.
#[derive(Debug, Default)]
pub(crate) struct Mover {
    /// Look for a segment to empty: something changed since the last look.
    look: bool,
    /// How much was written at the last look: a full disk is looked at again whenever something was settled.
    looked_at: u64,
    /// A job is outstanding.
    busy: bool,
    work: Option<Work>,
    /// The last slice; the next one waits for it.
    slice: Lsn,
    /// Segments with something in them that cannot be read: they stay.
    unreadable: BTreeSet<SegmentId>,
    /// Bytes that moves have cost since the log was opened.
    moved: u64,
    /// Bytes of segments that were emptied since the last checkpoint was taken.
    emptied: u64,
}

/// One segment on its way.
#[derive(Debug)]
struct Work {
    victim: SegmentInfo,
    search: Option<Search>,
    /// What is needed in it, and by whom.
    found: Vec<(Location, Owner)>,
    /// How much of that is done.
    done: usize,
}

/// How far the index was searched.
#[derive(Debug)]
struct Search {
    /// Streams still to be searched, the next one last.
    streams: Vec<StreamId>,
    from: Offset,
    subs: Vec<SubId>,
    after: u64,
}

/// Reads a slice of what is moved, off the lock. Made by [`Log::relocate`].
#[derive(Debug)]
#[must_use = "nothing more is moved until this job is run and finished"]
pub struct RelocateJob {
    reads: Vec<(Location, ReadSource)>,
}

/// What came of a [`RelocateJob`]; hand it to [`Log::finish_relocate`].
#[derive(Debug)]
#[must_use = "nothing is moved before the job is finished"]
pub struct RelocateDone {
    bodies: Result<Vec<(Location, Bytes)>, Error>,
}

impl RelocateJob {
    /// Reads and verifies. Blocks for the disk.
    pub fn run(self) -> RelocateDone {
        let read = |(location, source): (Location, ReadSource)| match source {
            ReadSource::Bytes(bytes) => Ok((location, bytes)),
            ReadSource::File(job) => job.run().map(|bytes| (location, bytes)),
        };
        RelocateDone {
            bodies: self.reads.into_iter().map(read).collect(),
        }
    }
}

impl Mover {
    /// There may be something to move: a checkpoint was made.
    pub(super) fn look(&mut self) {
        self.look = true;
    }

    /// A slice was written, and the next one waits until it is durable.
    pub(super) fn waits(&self, durable: Lsn) -> bool {
        self.slice > durable
    }

    /// Whether a step may move something, or look for what to move.
    pub(super) fn wants_step(&self) -> bool {
        self.look || self.work.is_some()
    }

    pub(super) fn emptied_bytes(&self) -> u64 {
        self.emptied
    }

    /// The state was taken for a checkpoint, which frees what was emptied before.
    pub(super) fn captured(&mut self) {
        self.emptied = 0;
    }
}

impl Log {
    /// The next slice of emptying a segment in which little is needed, to be run without the lock and brought back with
    /// [`finish_relocate`](Self::finish_relocate). `None`: there is nothing to move, one is outstanding, or the slice before is not durable yet.
    ///
    /// Segments are emptied when those that are needed waste more than two of the largest and more than what is needed in them.
    pub fn relocate(&mut self, _now: Now) -> Option<RelocateJob> {
        if self.mover.busy || self.wal.is_poisoned() || self.mover.slice > self.wal.durable() {
            return None;
        }
        let written = self.wal.sealed_bytes();
        self.mover.look |= self.wal.is_full() && written > self.mover.looked_at;
        if self.mover.work.is_none() && std::mem::take(&mut self.mover.look) {
            self.mover.looked_at = written;
            let victim = self.wasteful_segment();
            self.mover.moved += victim.map_or(0, |victim| self.cost(victim.id));
            self.mover.work = victim.map(|victim| Work::new(victim, &self.state));
        }
        let work = self.mover.work.as_mut()?;
        work.search(&self.state);
        let mut reads = Vec::new();
        for location in work.slice(&self.state) {
            match self.wal.locate(location) {
                Ok(source) => reads.push((location, source)),
                // It was freed: nobody needs it any more.
                Err(_) => continue,
            }
        }
        self.mover.busy = true;
        Some(RelocateJob { reads })
    }

    /// Takes back a slice: writes it at the head, and says that it lies there from now on. `true`: there is more to do.
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::Closed`]. A full or busy disk is none: the slice is tried again later. An entry that cannot be read stays where
    /// it is, and its segment with it.
    pub fn finish_relocate(&mut self, done: RelocateDone, now: Now) -> Result<bool, Error> {
        self.mover.busy = false;
        let Some(mut work) = self.mover.work.take() else {
            return Ok(false);
        };
        let Ok(bodies) = done.bodies else {
            self.mover.unreadable.insert(work.victim.id);
            self.mover.look = true;
            return Ok(true);
        };
        let slice = work.slice_len();
        let frame = self.move_frame(&work.found[work.done..work.done + slice], bodies);
        if !frame.is_empty() {
            match self.append(&frame, Level::Fsync, now) {
                Ok(lsn) => self.mover.slice = lsn,
                Err(error @ (Error::Poisoned { .. } | Error::Closed)) => return Err(error),
                Err(_) => {
                    self.mover.work = Some(work);
                    return Ok(false);
                }
            }
        }
        work.done += slice;
        if work.search.is_some() || work.done < work.found.len() {
            self.mover.work = Some(work);
        } else {
            if self.state.segments.contains_key(&work.victim.id) {
                // Something in it has no owner that was found: never tried twice.
                self.mover.unreadable.insert(work.victim.id);
            }
            self.mover.emptied += work.victim.size;
            self.mover.look = true;
        }
        Ok(true)
    }

    /// Copies of what is still needed of a slice, and where they belong.
    fn move_frame(&self, slice: &[(Location, Owner)], bodies: Vec<(Location, Bytes)>) -> Frame {
        let mut frame = Frame::synced();
        // A whole segment becomes free by what its choice has seen to fit.
        if self.wal.is_full() {
            frame.space = Space::Last;
        }
        let mut moves = Vec::new();
        for (from, body) in bodies {
            let owners = owners_of(slice, from);
            let owners = owners.filter(|owner| self.state.location_of(*owner) == Some(from));
            let owners: Vec<Owner> = owners.collect();
            if owners.is_empty() {
                continue;
            }
            let target = u16::try_from(frame.len()).expect("a slice has few entries");
            frame.push_body(kind::COPY, body);
            moves.push(Moved {
                from,
                target,
                owners,
            });
        }
        if !moves.is_empty() {
            frame.push(&Entry::Move { moves });
        }
        frame
    }

    /// Bytes that emptying a segment writes, about: copies, who owns them, and what a frame takes.
    fn cost(&self, segment: SegmentId) -> u64 {
        let needed = self.state.segments.get(&segment).copied();
        let needed = needed.unwrap_or_default();
        (needed.bytes + needed.entries * ENTRY_COST).next_multiple_of(BLOCK) + BLOCK
    }

    fn needed_bytes(&self, segment: SegmentId) -> u64 {
        let needed = self.state.segments.get(&segment);
        needed.map_or(0, |needed| needed.bytes)
    }

    /// The segment with the least in it, if all of them together waste too much.
    fn wasteful_segment(&self) -> Option<SegmentInfo> {
        let segments = self.wal.segments();
        let sealed = segments.into_iter().filter(|segment| {
            segment.sealed
                && self.state.segments.contains_key(&segment.id)
                && !self.mover.unreadable.contains(&segment.id)
        });
        let sealed: Vec<(SegmentInfo, u64)> = sealed
            .map(|segment| (segment, self.needed_bytes(segment.id).min(segment.size)))
            .collect();
        let size: u64 = sealed.iter().map(|(segment, _)| segment.size).sum();
        let needed: u64 = sealed.iter().map(|(_, needed)| needed).sum();
        let allowed = match self.wal.is_full() {
            true => 0,
            false => needed.max(2 * self.wal.options().segment_bytes[2]),
        };
        if size - needed <= allowed {
            return None;
        }
        // Never more than half of what is written: moves follow what others publish, and end when nothing more is gained by them.
        let written = self.wal.sealed_bytes() / 2 + self.wal.options().segment_bytes[2] / 2;
        let share = |(segment, needed): &&(SegmentInfo, u64)| needed * 1_000 / segment.size;
        let least = sealed.iter().min_by_key(share)?;
        let cost = self.cost(least.0.id);
        let pays = match self.wal.is_full() {
            // Each one gives back more than it takes, so they end; what takes it must have room for all of it.
            true => cost <= least.0.size / 4 && cost <= self.wal.room_left(),
            false => cost <= least.0.size / 2 && self.mover.moved + cost <= written,
        };
        pays.then_some(least.0)
    }
}

impl Work {
    fn new(victim: SegmentInfo, state: &State) -> Work {
        let mut streams: Vec<StreamId> = state.streams.keys().copied().collect();
        streams.sort_unstable();
        let with_records = state.subs.values().filter(|sub| sub.failures.is_some());
        let mut subs: Vec<SubId> = with_records.map(|sub| sub.id).collect();
        subs.sort_unstable();
        Work {
            victim,
            search: Some(Search {
                streams,
                from: 0,
                subs,
                after: 0,
            }),
            found: Vec::new(),
            done: 0,
        }
    }

    /// Searches a part of the index; at its end what was found is in the order of the segment.
    fn search(&mut self, state: &State) {
        let Some(search) = &mut self.search else {
            return;
        };
        let mut looked = 0;
        while looked < LOOK_MAX {
            if !search.step(state, self.victim.id, &mut looked, &mut self.found) {
                self.search = None;
                self.found.sort_by_key(|(at, _)| at.at);
                return;
            }
        }
    }

    /// How many of the next ones go into one frame; all owners of one entry go together.
    fn slice_len(&self) -> usize {
        if self.search.is_some() {
            return 0;
        }
        let mut bytes = 0;
        let rest = &self.found[self.done..];
        for (index, (at, _)) in rest.iter().enumerate() {
            if index > 0 && rest[index - 1].0 == *at {
                continue;
            }
            if index > 0 && (bytes + u64::from(at.len) > SLICE_BYTES || index >= SLICE_ENTRIES) {
                return index;
            }
            bytes += u64::from(at.len);
        }
        rest.len()
    }

    /// The places of the next slice that are still needed, each once.
    fn slice(&self, state: &State) -> Vec<Location> {
        let slice = &self.found[self.done..self.done + self.slice_len()];
        let needed = slice
            .iter()
            .filter(|(at, owner)| state.location_of(*owner) == Some(*at));
        let mut places: Vec<Location> = needed.map(|(at, _)| *at).collect();
        places.dedup();
        places
    }
}

/// Who has something at `at`, of those in the order of places.
fn owners_of(found: &[(Location, Owner)], at: Location) -> impl Iterator<Item = Owner> + '_ {
    let from = found.partition_point(|(place, _)| place.at < at.at);
    let same = found[from..]
        .iter()
        .take_while(move |(place, _)| *place == at);
    same.map(|(_, owner)| *owner)
}

impl Search {
    /// Looks at one stream or subscription, or a part of it. `false`: all was looked at.
    fn step(
        &mut self,
        state: &State,
        victim: SegmentId,
        looked: &mut usize,
        found: &mut Vec<(Location, Owner)>,
    ) -> bool {
        *looked += 1;
        if let Some(id) = self.streams.last().copied() {
            let runs = state.streams.get(&id).into_iter();
            for run in runs.flat_map(|stream| stream.batches_from(self.from)) {
                if *looked >= LOOK_MAX {
                    self.from = run.base;
                    return true;
                }
                *looked += 1;
                if run.at.segment == victim {
                    found.push((run.at, Owner::Run(id, run.base)));
                }
            }
            self.streams.pop();
            self.from = 0;
            return true;
        }
        let Some(id) = self.subs.last().copied() else {
            return false;
        };
        let records = state.subs.get(&id).and_then(|sub| sub.failures.as_ref());
        let after = self.after;
        let records = records.into_iter();
        for (record, pieces) in records.flat_map(|all| all.pieces_after(after)) {
            if *looked >= LOOK_MAX {
                return true;
            }
            *looked += 1;
            self.after = record.0;
            if pieces.payload.segment == victim {
                found.push((pieces.payload, Owner::Record(id, record)));
            }
            if let Some(meta) = pieces.meta.filter(|meta| meta.segment == victim) {
                found.push((meta, Owner::Cause(id, record)));
            }
        }
        self.subs.pop();
        self.after = 0;
        true
    }
}
