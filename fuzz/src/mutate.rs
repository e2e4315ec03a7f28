//! Mutations of inputs, all from one seed.

use postrider_core::clock::SplitMix64;

/// An input is cut at this many bytes.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Values that decoders trip over.
const TRICKY: [u64; 10] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX,
];
const WORDS: [&[u8]; 12] = [
    b"\"",
    b",",
    b"\r\n",
    b"\0",
    b"..",
    b"%00",
    b"{}",
    b"-1",
    b"\xff\xfe",
    b"\xe2\x80\xae",
    b"ce_",
    b"9223372036854775808",
];

/// A changed copy of an input; `other` is spliced in now and then.
pub fn mutate(rng: &mut SplitMix64, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=rng.below(6) {
        change(rng, &mut bytes, other);
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn change(rng: &mut SplitMix64, bytes: &mut Vec<u8>, other: &[u8]) {
    let len = bytes.len() as u64;
    let at = rng.below(len.max(1)) as usize;
    let span = (1 + rng.below(32)) as usize;
    match rng.below(10) {
        0 if len > 0 => bytes[at] ^= 1 << rng.below(8),
        1 if len > 0 => bytes[at] = rng.next_u64() as u8,
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..(at + span).min(bytes.len()))),
        4 => {
            let copy = bytes[at..(at + span).min(bytes.len())].to_vec();
            insert(bytes, at, &copy);
        }
        5 => {
            let tricky = TRICKY[rng.below(TRICKY.len() as u64) as usize];
            let width = 1 << rng.below(4);
            let value = match rng.below(2) {
                0 => tricky.to_le_bytes()[..width].to_vec(),
                _ => tricky.to_be_bytes()[8 - width..].to_vec(),
            };
            overwrite(bytes, at, &value);
        }
        6 => insert(bytes, at, WORDS[rng.below(WORDS.len() as u64) as usize]),
        7 => {
            let from = rng.below(other.len() as u64 + 1) as usize;
            let part = other[from..].to_vec();
            bytes.truncate(at);
            bytes.extend(part);
        }
        8 => {
            let noise: Vec<u8> = (0..span).map(|_| rng.next_u64() as u8).collect();
            insert(bytes, at, &noise);
        }
        _ => {
            let value = [rng.next_u64() as u8];
            overwrite(bytes, at, &value);
        }
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, what: &[u8]) {
    let tail = bytes.split_off(at.min(bytes.len()));
    bytes.extend_from_slice(what);
    bytes.extend(tail);
}

fn overwrite(bytes: &mut Vec<u8>, at: usize, what: &[u8]) {
    for (index, byte) in what.iter().enumerate() {
        match bytes.get_mut(at + index) {
            Some(place) => *place = *byte,
            None => bytes.push(*byte),
        }
    }
}
