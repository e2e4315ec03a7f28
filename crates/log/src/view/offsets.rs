//! Positions of log-shaped readers: a watermark, what is done above it, and an epoch that fences off a reader that was replaced.

use crate::Error;
use crate::codec::{Put, Reader, put_ranges, read_ranges};
use crate::ids::Offset;

/// Where a reader group stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReaderState {
    /// The epoch of the reader that owns it: commits with a lower one are refused.
    pub epoch: u64,
    /// All records below are done.
    pub watermark: Offset,
    /// Ranges `[from, to)` above the watermark that are done.
    pub done: Vec<(Offset, Offset)>,
    /// What the reader stored with it.
    pub meta: Vec<u8>,
}

impl ReaderState {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.epoch);
        out.put_u64(self.watermark);
        put_ranges(out, &self.done);
        out.put_bytes(&self.meta);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(ReaderState {
            epoch: reader.u64()?,
            watermark: reader.u64()?,
            done: read_ranges(reader)?,
            meta: reader.bytes()?.to_vec(),
        })
    }
}

/// Whether a commit's done-set is one: rising, not touching, above the watermark.
pub(crate) fn check_done(watermark: Offset, done: &[(Offset, Offset)]) -> Result<(), Error> {
    let mut at = watermark;
    for &(from, to) in done {
        if from < at || to <= from {
            return Err(Error::Invalid {
                what: "done-set",
                why: "its ranges must rise, not overlap, and lie above the watermark",
            });
        }
        at = to;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_done_set_that_overlaps_or_lies_below_the_watermark_is_refused() {
        assert!(check_done(5, &[(6, 8), (9, 10)]).is_ok());
        for bad in [&[(4, 6)][..], &[(6, 6)], &[(6, 9), (8, 10)]] {
            assert!(check_done(5, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn it_survives_the_round_trip() {
        let state = ReaderState {
            epoch: 3,
            watermark: 9,
            done: vec![(11, 14)],
            meta: b"m".to_vec(),
        };
        let mut out = Vec::new();
        state.encode(&mut out);
        assert_eq!(
            ReaderState::decode(&mut Reader::new(&out, "test")).unwrap(),
            state
        );
    }
}
