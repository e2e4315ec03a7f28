//! Bounded reading and writing of small fields. Reading never panics and never allocates more than what is there.

use crate::Error;

/// A reader over one slice: every access checked, every sub-reader bounded by its parent.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    left: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// `what` names the thing that is read, for the error.
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Reader { left: bytes, what }
    }

    pub(crate) fn left(&self) -> usize {
        self.left.len()
    }

    pub(crate) fn malformed(&self, why: &'static str) -> Error {
        Error::Malformed {
            what: self.what,
            why,
        }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        if count > self.left.len() {
            return Err(self.malformed("it ends early"));
        }
        let (taken, left) = self.left.split_at(count);
        self.left = left;
        Ok(taken)
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.left)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        Ok(self
            .take(N)?
            .try_into()
            .expect("take gives what it is asked for"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn bool(&mut self) -> Result<bool, Error> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.malformed("a flag is neither 0 nor 1")),
        }
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Error> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn id(&mut self) -> Result<[u8; 16], Error> {
        self.array()
    }

    /// An unsigned LEB128 number of at most 64 bits.
    pub(crate) fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                return Err(self.malformed("a number has more than 64 bits"));
            }
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed("a number has more than 64 bits"))
    }

    /// A zigzag number, as Kafka writes them.
    pub(crate) fn zigzag(&mut self) -> Result<i64, Error> {
        let raw = self.varint()?;
        Ok(((raw >> 1) as i64) ^ -((raw & 1) as i64))
    }

    /// A count of things that take at least `each` bytes here: bounded by what is left, so that it may be allocated.
    pub(crate) fn count(&mut self, each: usize) -> Result<usize, Error> {
        let count = self.varint()?;
        let room = self.left.len() / each.max(1);
        match usize::try_from(count) {
            Ok(count) if count <= room => Ok(count),
            _ => Err(self.malformed("a count is larger than what follows")),
        }
    }

    /// A length as a number, then that many bytes.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let count = self.count(1)?;
        self.take(count)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Error> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map_err(|_| self.malformed("a name is not UTF-8"))
    }

    pub(crate) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        if self.bool()? {
            read(self).map(Some)
        } else {
            Ok(None)
        }
    }

    pub(crate) fn finish(&self) -> Result<(), Error> {
        if self.left.is_empty() {
            Ok(())
        } else {
            Err(self.malformed("bytes follow its end"))
        }
    }
}

/// Writing, the mirror of [`Reader`].
pub(crate) trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn put_bool(&mut self, value: bool) {
        self.put(&[u8::from(value)]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put(&[(value as u8) | 0x80]);
            value >>= 7;
        }
        self.put(&[value as u8]);
    }

    fn put_zigzag(&mut self, value: i64) {
        self.put_varint(((value << 1) ^ (value >> 63)) as u64);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_varint(bytes.len() as u64);
        self.put(bytes);
    }

    fn put_option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T))
    where
        Self: Sized,
    {
        self.put_bool(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// How many bytes [`Put::put_zigzag`] writes.
pub(crate) fn zigzag_len(value: i64) -> usize {
    let raw = ((value << 1) ^ (value >> 63)) as u64;
    (64 - (raw | 1).leading_zeros() as usize).div_ceil(7)
}

/// Ranges `[from, to)` that rise and do not touch, as a count and then gap and length of each.
pub(crate) fn put_ranges(out: &mut Vec<u8>, ranges: &[(u64, u64)]) {
    out.put_varint(ranges.len() as u64);
    let mut at = 0;
    for &(from, to) in ranges {
        assert!(
            from >= at && to > from,
            "ranges rise, are not empty and do not overlap"
        );
        out.put_varint(from - at);
        out.put_varint(to - from);
        at = to;
    }
}

pub(crate) fn read_ranges(reader: &mut Reader<'_>) -> Result<Vec<(u64, u64)>, Error> {
    let count = reader.count(2)?;
    let mut ranges = Vec::with_capacity(count);
    let mut at = 0u64;
    for _ in 0..count {
        let from = at.checked_add(reader.varint()?);
        let length = reader.varint()?;
        let (Some(from), true) = (from, length > 0) else {
            return Err(reader.malformed("a range is empty or out of bounds"));
        };
        let Some(to) = from.checked_add(length) else {
            return Err(reader.malformed("a range is empty or out of bounds"));
        };
        ranges.push((from, to));
        at = to;
    }
    Ok(ranges)
}

/// Sorted offsets as ranges.
pub(crate) fn to_ranges(sorted: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for offset in sorted {
        match ranges.last_mut() {
            Some((_, to)) if *to == offset => *to += 1,
            Some((_, to)) if *to > offset => {}
            _ => ranges.push((offset, offset + 1)),
        }
    }
    ranges
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_the_round_trip() {
        for value in [
            0,
            1,
            127,
            128,
            300,
            u64::from(u32::MAX),
            u64::MAX - 1,
            u64::MAX,
        ] {
            let mut out = Vec::new();
            out.put_varint(value);
            let mut reader = Reader::new(&out, "test");
            assert_eq!(reader.varint().unwrap(), value);
            reader.finish().unwrap();
        }
        for value in [0, -1, 1, 63, 64, -64, -65, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            out.put_zigzag(value);
            assert_eq!(out.len(), zigzag_len(value), "{value}");
            assert_eq!(Reader::new(&out, "test").zigzag().unwrap(), value);
        }
    }

    #[test]
    fn a_count_larger_than_what_follows_is_refused_before_anything_is_allocated() {
        let mut out = Vec::new();
        out.put_varint(u64::MAX);
        out.put(&[0; 16]);
        assert!(Reader::new(&out, "test").count(1).is_err());
        assert!(Reader::new(&out, "test").bytes().is_err());
        assert!(read_ranges(&mut Reader::new(&out, "test")).is_err());
    }

    #[test]
    fn ranges_survive_the_round_trip_and_overflow_is_refused() {
        let ranges = to_ranges([3, 4, 5, 9, 11, 12, u64::MAX - 1]);
        assert_eq!(
            ranges,
            [(3, 6), (9, 10), (11, 13), (u64::MAX - 1, u64::MAX)]
        );
        let mut out = Vec::new();
        put_ranges(&mut out, &ranges);
        assert_eq!(read_ranges(&mut Reader::new(&out, "test")).unwrap(), ranges);

        let mut bad = Vec::new();
        bad.put_varint(1);
        bad.put_varint(u64::MAX);
        bad.put_varint(5);
        assert!(read_ranges(&mut Reader::new(&bad, "test")).is_err());
    }
}
