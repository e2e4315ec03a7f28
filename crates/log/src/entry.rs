//! The logical entries: what a frame says. Drawn byte for byte in `docs/formats/log-entries.md`.
//!
//! An entry is a kind, flags and a body. Live traffic and recovery hand the same [`Entry`] values to the same `apply`.

mod moved;

use crate::Error;
use crate::batch::Table;
use crate::codec::{Put, Reader, put_ranges, read_ranges};
use crate::definitions::{StreamConfig, SubscriptionConfig};
use crate::ids::{FailureId, MemberId, Offset, StreamId, SubId};
use crate::wal::Location;

/// Flag of an entry that a reader may skip when it does not know the kind.
pub(crate) const SKIPPABLE: u8 = 1;

/// Bytes of a DATA body before its block.
pub(crate) const DATA_HEAD: usize = 14;

/// The kinds. Numbers are for ever; 32 and up are reserved and refused by this release.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 1;
    pub(crate) const REF: u8 = 2;
    pub(crate) const SETTLE: u8 = 3;
    pub(crate) const LEASE: u8 = 4;
    pub(crate) const RETURN: u8 = 5;
    pub(crate) const RESERVE: u8 = 6;
    pub(crate) const OFFSET: u8 = 7;
    pub(crate) const FAILURE: u8 = 8;
    pub(crate) const REOPEN: u8 = 9;
    pub(crate) const REDRIVE: u8 = 10;
    pub(crate) const REMOVE: u8 = 11;
    pub(crate) const CRASH: u8 = 12;
    pub(crate) const DDL: u8 = 13;
    pub(crate) const TRIM: u8 = 14;
    pub(crate) const AUDIT: u8 = 15;
    pub(crate) const MOVE: u8 = 37;
    pub(crate) const COPY: u8 = 39;
    // Reserved: 32 TXN (markers of transactions that span frames), 33 PRODUCER (idempotent producers), 34 PRIORITY,
    // 35 COMPACT (latest per key), 36 KEYRING (encryption), 38 ASSIGN.
}

/// Why messages were settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    Ack = 0,
    Expired = 1,
    Dead = 2,
    Parked = 3,
    Discarded = 4,
    Cancelled = 5,
}

impl Reason {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(match reader.u8()? {
            0 => Reason::Ack,
            1 => Reason::Expired,
            2 => Reason::Dead,
            3 => Reason::Parked,
            4 => Reason::Discarded,
            5 => Reason::Cancelled,
            _ => return Err(reader.malformed("a reason is not known")),
        })
    }
}

/// Where a failure record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureState {
    /// Waiting for a decision.
    Open,
    /// Being handled again by its subscription.
    Redriving,
}

impl FailureState {
    pub(crate) fn code(self) -> u8 {
        match self {
            FailureState::Open => 0,
            FailureState::Redriving => 1,
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(match reader.u8()? {
            0 => FailureState::Open,
            1 => FailureState::Redriving,
            _ => return Err(reader.malformed("a failure state is not known")),
        })
    }
}

/// Who needs the bytes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The run of a stream that begins here.
    Run(StreamId, Offset),
    /// A failure record.
    Record(SubId, FailureId),
    /// The newer cause of a failure record.
    Cause(SubId, FailureId),
}

/// One entry that lies somewhere else from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) from: Location,
    /// The number of the COPY in the frame.
    pub(crate) target: u16,
    pub(crate) owners: Vec<Owner>,
}

/// One returned message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Returned {
    pub(crate) offset: Offset,
    /// Hand-overs that count, from now on.
    pub(crate) attempts: u32,
    pub(crate) delay_ms: u64,
}

/// A change of definitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ddl<'a> {
    Stream {
        stream: StreamId,
        name: &'a str,
        config: StreamConfig,
    },
    DropStream {
        stream: StreamId,
    },
    Subscription {
        sub: SubId,
        stream: StreamId,
        name: &'a str,
        config: SubscriptionConfig,
        from: Offset,
    },
    DropSubscription {
        sub: SubId,
    },
    Seek {
        sub: SubId,
        to: Offset,
    },
    Pause {
        sub: SubId,
        paused: bool,
    },
}

/// One entry. Borrowed: nothing is copied to decode it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry<'a> {
    /// Records. The block begins [`DATA_HEAD`] bytes into the body.
    Data {
        stream: StreamId,
        base: Offset,
        block: &'a [u8],
    },
    /// The records of another DATA entry of this frame, in a further stream.
    Ref {
        stream: StreamId,
        base: Offset,
        target: u16,
    },
    Settle {
        sub: SubId,
        reason: Reason,
        ranges: Vec<(Offset, Offset)>,
    },
    Lease {
        sub: SubId,
        member: MemberId,
        ranges: Vec<(Offset, Offset)>,
    },
    Return {
        sub: SubId,
        at_ms: u64,
        returned: Vec<Returned>,
    },
    Reserve {
        stream: StreamId,
        upto: Offset,
    },
    Offset {
        stream: StreamId,
        group: &'a str,
        epoch: u64,
        watermark: Offset,
        done: Vec<(Offset, Offset)>,
        meta: &'a [u8],
    },
    Failure {
        sub: SubId,
        id: FailureId,
        at_ms: u64,
        source: Option<Offset>,
        key: Option<&'a [u8]>,
        parked: bool,
        group: &'a str,
        meta: &'a [u8],
        block: &'a [u8],
    },
    Reopen {
        sub: SubId,
        id: FailureId,
        at_ms: u64,
        group: &'a str,
        meta: &'a [u8],
    },
    Redrive {
        sub: SubId,
        at_ms: u64,
        ids: Vec<(u64, u64)>,
        reason: &'a str,
    },
    /// Without a reason: their redrive succeeded.
    Remove {
        sub: SubId,
        at_ms: u64,
        ids: Vec<(u64, u64)>,
        reason: Option<&'a str>,
    },
    Crash {
        sub: SubId,
        state: &'a [u8],
    },
    Ddl(Ddl<'a>),
    Trim {
        stream: StreamId,
        before: Offset,
    },
    Audit {
        sub: SubId,
        at_ms: u64,
        offset: Offset,
        reason: &'a str,
    },
    /// Entries that lie in this frame from now on.
    Move {
        moves: Vec<Moved>,
    },
    /// The body of another entry, byte for byte.
    Copy {
        body: &'a [u8],
    },
    /// An entry from the future that says it may be skipped; holds a place, is never written.
    Skipped,
}

impl<'a> Entry<'a> {
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Entry::Data { .. } => kind::DATA,
            Entry::Ref { .. } => kind::REF,
            Entry::Settle { .. } => kind::SETTLE,
            Entry::Lease { .. } => kind::LEASE,
            Entry::Return { .. } => kind::RETURN,
            Entry::Reserve { .. } => kind::RESERVE,
            Entry::Offset { .. } => kind::OFFSET,
            Entry::Failure { .. } => kind::FAILURE,
            Entry::Reopen { .. } => kind::REOPEN,
            Entry::Redrive { .. } => kind::REDRIVE,
            Entry::Remove { .. } => kind::REMOVE,
            Entry::Crash { .. } => kind::CRASH,
            Entry::Ddl(_) => kind::DDL,
            Entry::Trim { .. } => kind::TRIM,
            Entry::Audit { .. } => kind::AUDIT,
            Entry::Move { .. } => kind::MOVE,
            Entry::Copy { .. } => kind::COPY,
            Entry::Skipped => unreachable!("what was skipped is not written again"),
        }
    }

    /// Appends the body to `out`. A block goes last, so that a caller may leave it out and add its own bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Entry::Data { .. }
            | Entry::Ref { .. }
            | Entry::Reserve { .. }
            | Entry::Trim { .. }
            | Entry::Offset { .. } => self.encode_of_stream(out),
            Entry::Settle { .. }
            | Entry::Lease { .. }
            | Entry::Return { .. }
            | Entry::Crash { .. }
            | Entry::Audit { .. } => self.encode_of_sub(out),
            Entry::Failure { .. }
            | Entry::Reopen { .. }
            | Entry::Redrive { .. }
            | Entry::Remove { .. } => self.encode_failure(out),
            Entry::Ddl(ddl) => encode_ddl(out, ddl),
            Entry::Move { moves } => moved::encode(out, moves),
            Entry::Copy { body } => out.put(body),
            Entry::Skipped => unreachable!("what was skipped is not written again"),
        }
    }

    fn encode_of_stream(&self, out: &mut Vec<u8>) {
        match self {
            Entry::Data {
                stream,
                base,
                block,
            } => {
                put_data_head(out, *stream, *base);
                out.put(block);
            }
            Entry::Ref {
                stream,
                base,
                target,
            } => {
                put_data_head(out, *stream, *base);
                out.put_u16(*target);
            }
            Entry::Reserve { stream, upto }
            | Entry::Trim {
                stream,
                before: upto,
            } => {
                out.put_u32(stream.0);
                out.put_u64(*upto);
            }
            Entry::Offset {
                stream,
                group,
                epoch,
                watermark,
                done,
                meta,
            } => {
                out.put_u32(stream.0);
                out.put_u64(*epoch);
                out.put_u64(*watermark);
                out.put_bytes(group.as_bytes());
                put_ranges(out, done);
                out.put_bytes(meta);
            }
            _ => unreachable!("encode hands over what is of a stream"),
        }
    }

    fn encode_of_sub(&self, out: &mut Vec<u8>) {
        match self {
            Entry::Settle {
                sub,
                reason,
                ranges,
            } => {
                out.put_u32(sub.0);
                out.put_u8(*reason as u8);
                put_ranges(out, ranges);
            }
            Entry::Lease {
                sub,
                member,
                ranges,
            } => {
                out.put_u32(sub.0);
                out.put_u64(member.0);
                put_ranges(out, ranges);
            }
            Entry::Return {
                sub,
                at_ms,
                returned,
            } => encode_return(out, *sub, *at_ms, returned),
            Entry::Crash { sub, state } => {
                out.put_u32(sub.0);
                out.put_bytes(state);
            }
            Entry::Audit {
                sub,
                at_ms,
                offset,
                reason,
            } => {
                out.put_u32(sub.0);
                out.put_u64(*at_ms);
                out.put_u64(*offset);
                out.put_bytes(reason.as_bytes());
            }
            _ => unreachable!("encode hands over what is of a subscription"),
        }
    }

    fn encode_failure(&self, out: &mut Vec<u8>) {
        match self {
            Entry::Failure {
                sub,
                id,
                at_ms,
                source,
                key,
                parked,
                group,
                meta,
                block,
            } => {
                out.put_u32(sub.0);
                out.put_u64(id.0);
                out.put_u64(*at_ms);
                out.put_option(*source, Put::put_u64);
                out.put_option(*key, |out, key| out.put_bytes(key));
                out.put_bool(*parked);
                out.put_bytes(group.as_bytes());
                out.put_bytes(meta);
                out.put(block);
            }
            Entry::Reopen {
                sub,
                id,
                at_ms,
                group,
                meta,
            } => {
                out.put_u32(sub.0);
                out.put_u64(id.0);
                out.put_u64(*at_ms);
                out.put_bytes(group.as_bytes());
                out.put_bytes(meta);
            }
            Entry::Redrive {
                sub,
                at_ms,
                ids,
                reason,
            } => {
                out.put_u32(sub.0);
                out.put_u64(*at_ms);
                put_ranges(out, ids);
                out.put_bytes(reason.as_bytes());
            }
            Entry::Remove {
                sub,
                at_ms,
                ids,
                reason,
            } => {
                out.put_u32(sub.0);
                out.put_u64(*at_ms);
                put_ranges(out, ids);
                out.put_option(*reason, |out, reason| out.put_bytes(reason.as_bytes()));
            }
            _ => unreachable!("encode hands over what is of a failure record"),
        }
    }

    /// Reads an entry. `Ok(None)`: a kind from the future that says it may be skipped.
    pub(crate) fn decode(kind: u8, flags: u8, body: &'a [u8]) -> Result<Option<Self>, Error> {
        let mut reader = Reader::new(body, "log entry");
        let r = &mut reader;
        let entry = match kind {
            kind::DATA => {
                let (stream, base) = read_data_head(r)?;
                let block = r.rest();
                let table = Table::read(&mut Reader::new(block, "record batch"))?;
                check_end(r, base, table.count)?;
                Entry::Data {
                    stream,
                    base,
                    block,
                }
            }
            kind::REF => {
                let (stream, base) = read_data_head(r)?;
                Entry::Ref {
                    stream,
                    base,
                    target: r.u16()?,
                }
            }
            kind::SETTLE | kind::LEASE => decode_ranges(kind, r)?,
            kind::RETURN => decode_return(r)?,
            kind::RESERVE => Entry::Reserve {
                stream: StreamId(r.u32()?),
                upto: r.u64()?,
            },
            kind::TRIM => Entry::Trim {
                stream: StreamId(r.u32()?),
                before: r.u64()?,
            },
            kind::OFFSET => Entry::Offset {
                stream: StreamId(r.u32()?),
                epoch: r.u64()?,
                watermark: r.u64()?,
                group: r.text()?,
                done: read_ranges(r)?,
                meta: r.bytes()?,
            },
            kind::FAILURE | kind::REOPEN | kind::REDRIVE | kind::REMOVE => decode_failure(kind, r)?,
            kind::CRASH => Entry::Crash {
                sub: SubId(r.u32()?),
                state: r.bytes()?,
            },
            kind::DDL => Entry::Ddl(decode_ddl(r)?),
            kind::MOVE => Entry::Move {
                moves: moved::decode(r)?,
            },
            kind::COPY => Entry::Copy { body: r.rest() },
            kind::AUDIT => Entry::Audit {
                sub: SubId(r.u32()?),
                at_ms: r.u64()?,
                offset: r.u64()?,
                reason: r.text()?,
            },
            _ if flags & SKIPPABLE != 0 => return Ok(None),
            _ => {
                return Err(r.malformed("its kind is not known: it was written by a newer release"));
            }
        };
        reader.finish()?;
        Ok(Some(entry))
    }
}

fn put_data_head(out: &mut Vec<u8>, stream: StreamId, base: Offset) {
    out.put_u32(stream.0);
    out.put_u16(0);
    out.put_u64(base);
}

fn read_data_head(r: &mut Reader<'_>) -> Result<(StreamId, Offset), Error> {
    let stream = StreamId(r.u32()?);
    if r.u16()? != 0 {
        return Err(r.malformed("it names a partition: it was written by a newer release"));
    }
    Ok((stream, r.u64()?))
}

fn check_end(r: &Reader<'_>, base: Offset, count: u32) -> Result<(), Error> {
    match base.checked_add(u64::from(count)) {
        Some(_) => Ok(()),
        None => Err(r.malformed("its offsets are beyond 64 bits")),
    }
}

fn encode_return(out: &mut Vec<u8>, sub: SubId, at_ms: u64, returned: &[Returned]) {
    out.put_u32(sub.0);
    out.put_u64(at_ms);
    out.put_varint(returned.len() as u64);
    for one in returned {
        out.put_varint(one.offset);
        out.put_varint(u64::from(one.attempts));
        out.put_varint(one.delay_ms);
    }
}

fn decode_ranges<'a>(kind: u8, r: &mut Reader<'a>) -> Result<Entry<'a>, Error> {
    let sub = SubId(r.u32()?);
    Ok(match kind {
        kind::SETTLE => Entry::Settle {
            sub,
            reason: Reason::read(r)?,
            ranges: read_ranges(r)?,
        },
        _ => Entry::Lease {
            sub,
            member: MemberId(r.u64()?),
            ranges: read_ranges(r)?,
        },
    })
}

fn decode_return<'a>(r: &mut Reader<'a>) -> Result<Entry<'a>, Error> {
    let sub = SubId(r.u32()?);
    let at_ms = r.u64()?;
    let count = r.count(3)?;
    let mut returned = Vec::with_capacity(count);
    for _ in 0..count {
        let offset = r.varint()?;
        let attempts = r.varint()?;
        let attempts =
            u32::try_from(attempts).map_err(|_| r.malformed("an attempt count is too large"))?;
        returned.push(Returned {
            offset,
            attempts,
            delay_ms: r.varint()?,
        });
    }
    Ok(Entry::Return {
        sub,
        at_ms,
        returned,
    })
}

fn decode_failure<'a>(kind: u8, r: &mut Reader<'a>) -> Result<Entry<'a>, Error> {
    let sub = SubId(r.u32()?);
    Ok(match kind {
        kind::FAILURE => {
            let (id, at_ms) = (FailureId(r.u64()?), r.u64()?);
            let source = r.option(Reader::u64)?;
            let key = r.option(Reader::bytes)?;
            let parked = r.bool()?;
            let (group, meta) = (r.text()?, r.bytes()?);
            if parked && key.is_none() {
                return Err(r.malformed("a failure record parks a key and has none"));
            }
            let block = read_single_block(r)?;
            Entry::Failure {
                sub,
                id,
                at_ms,
                source,
                key,
                parked,
                group,
                meta,
                block,
            }
        }
        kind::REOPEN => {
            let (id, at_ms) = (FailureId(r.u64()?), r.u64()?);
            Entry::Reopen {
                sub,
                id,
                at_ms,
                group: r.text()?,
                meta: r.bytes()?,
            }
        }
        kind::REDRIVE => {
            let at_ms = r.u64()?;
            Entry::Redrive {
                sub,
                at_ms,
                ids: read_ranges(r)?,
                reason: r.text()?,
            }
        }
        _ => {
            let at_ms = r.u64()?;
            Entry::Remove {
                sub,
                at_ms,
                ids: read_ranges(r)?,
                reason: r.option(Reader::text)?,
            }
        }
    })
}

fn read_single_block<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], Error> {
    let block = r.rest();
    if Table::read(&mut Reader::new(block, "record batch"))?.count != 1 {
        return Err(r.malformed("it holds more than one record"));
    }
    Ok(block)
}

fn encode_ddl(out: &mut Vec<u8>, ddl: &Ddl<'_>) {
    match ddl {
        Ddl::Stream {
            stream,
            name,
            config,
        } => {
            out.put_u8(1);
            out.put_u32(stream.0);
            out.put_bytes(name.as_bytes());
            config.encode(out);
        }
        Ddl::DropStream { stream } => {
            out.put_u8(2);
            out.put_u32(stream.0);
        }
        Ddl::Subscription {
            sub,
            stream,
            name,
            config,
            from,
        } => {
            out.put_u8(3);
            out.put_u32(sub.0);
            out.put_u32(stream.0);
            out.put_bytes(name.as_bytes());
            config.encode(out);
            out.put_u64(*from);
        }
        Ddl::DropSubscription { sub } => {
            out.put_u8(4);
            out.put_u32(sub.0);
        }
        Ddl::Seek { sub, to } => {
            out.put_u8(5);
            out.put_u32(sub.0);
            out.put_u64(*to);
        }
        Ddl::Pause { sub, paused } => {
            out.put_u8(6);
            out.put_u32(sub.0);
            out.put_bool(*paused);
        }
    }
}

fn decode_ddl<'a>(r: &mut Reader<'a>) -> Result<Ddl<'a>, Error> {
    Ok(match r.u8()? {
        1 => Ddl::Stream {
            stream: StreamId(r.u32()?),
            name: r.text()?,
            config: StreamConfig::decode(r)?,
        },
        2 => Ddl::DropStream {
            stream: StreamId(r.u32()?),
        },
        3 => Ddl::Subscription {
            sub: SubId(r.u32()?),
            stream: StreamId(r.u32()?),
            name: r.text()?,
            config: SubscriptionConfig::decode(r)?,
            from: r.u64()?,
        },
        4 => Ddl::DropSubscription {
            sub: SubId(r.u32()?),
        },
        5 => Ddl::Seek {
            sub: SubId(r.u32()?),
            to: r.u64()?,
        },
        6 => Ddl::Pause {
            sub: SubId(r.u32()?),
            paused: r.bool()?,
        },
        _ => return Err(r.malformed("a definition is of no known kind")),
    })
}

#[cfg(test)]
mod tests;
