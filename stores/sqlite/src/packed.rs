//! Header lists as bytes: for each header `[name length u32 LE][name][value length u32 LE][value]`, to the end.

use bytes::{Buf, BufMut, Bytes};

pub(crate) fn write<'a>(headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in headers {
        for part in [name, value] {
            let length = u32::try_from(part.len()).expect("a header is far below 4 GiB");
            out.put_u32_le(length);
            out.put_slice(part);
        }
    }
    out
}

/// `None`: the bytes are not a header list.
pub(crate) fn read(mut bytes: Bytes) -> Option<Vec<(Bytes, Bytes)>> {
    let mut headers = Vec::new();
    while bytes.has_remaining() {
        let name = part(&mut bytes)?;
        headers.push((name, part(&mut bytes)?));
    }
    Some(headers)
}

fn part(bytes: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
    (length <= bytes.remaining()).then(|| bytes.split_to(length))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn header_lists_survive_and_torn_ones_are_refused() {
        let list: [(&[u8], &[u8]); 3] = [(b"a", b""), (b"", b"\xff\0"), (b"a", b"again")];
        let bytes = Bytes::from(write(list.into_iter()));
        let read_back = read(bytes.clone()).unwrap();
        assert!(read_back.iter().map(|(n, v)| (&n[..], &v[..])).eq(list));
        for cut in 1..bytes.len() {
            let whole = read(bytes.slice(..cut)).is_none_or(|l| l.len() < 3);
            assert!(whole, "a list cut at {cut} was read whole");
        }
        assert!(read(Bytes::from_static(&[0xff; 4])).is_none());
    }
}
