//! The body of a MOVE.

use super::{Moved, Owner};
use crate::Error;
use crate::codec::{Put, Reader};
use crate::ids::{FailureId, StreamId, SubId};
use crate::view::failures::{put_location, read_location};

/// Bytes of a move with one owner, at least.
const MOVE_MIN: usize = 16 + 2 + 1;
/// Bytes of an owner.
const OWNER: usize = 1 + 4 + 8;

pub(super) fn encode(out: &mut Vec<u8>, moves: &[Moved]) {
    out.put_varint(moves.len() as u64);
    for moved in moves {
        put_location(out, moved.from);
        out.put_u16(moved.target);
        out.put_varint(moved.owners.len() as u64);
        for owner in &moved.owners {
            let (kind, whose, number) = match *owner {
                Owner::Run(stream, base) => (0, stream.0, base),
                Owner::Record(sub, id) => (1, sub.0, id.0),
                Owner::Cause(sub, id) => (2, sub.0, id.0),
            };
            out.put_u8(kind);
            out.put_u32(whose);
            out.put_u64(number);
        }
    }
}

pub(super) fn decode(r: &mut Reader<'_>) -> Result<Vec<Moved>, Error> {
    let count = r.count(MOVE_MIN)?;
    let mut moves = Vec::with_capacity(count);
    for _ in 0..count {
        let from = read_location(r)?;
        let target = r.u16()?;
        let owners = (0..r.count(OWNER)?).map(|_| read_owner(r));
        let owners = owners.collect::<Result<Vec<_>, Error>>()?;
        moves.push(Moved {
            from,
            target,
            owners,
        });
    }
    Ok(moves)
}

fn read_owner(r: &mut Reader<'_>) -> Result<Owner, Error> {
    let (kind, whose, number) = (r.u8()?, r.u32()?, r.u64()?);
    Ok(match kind {
        0 => Owner::Run(StreamId(whose), number),
        1 => Owner::Record(SubId(whose), FailureId(number)),
        2 => Owner::Cause(SubId(whose), FailureId(number)),
        _ => return Err(r.malformed("an owner is of no known kind")),
    })
}
