#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const BLOCK_HEAD: usize = 6;

fn encode(records: &[RecordIn], base: Offset) -> (Vec<u8>, Positions) {
    let mut out = b"head".to_vec();
    let refs: Vec<_> = records.iter().collect();
    let positions = encode_block(&mut out, base, 1_000, Producer::NONE, &refs);
    (out, positions)
}

fn record(key: &str, value: &str) -> RecordIn {
    RecordIn {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        ..RecordIn::default()
    }
}

/// Fixture: a batch of one record, key `k`, value `v`, as Kafka's own client writes it (but for the append-time attribute).
#[test]
fn the_bytes_are_those_of_kafka() {
    let (bytes, _) = encode(&[record("k", "v")], 7);
    let batch = &bytes[4 + BLOCK_HEAD..];
    let expected: [u8; 70] = [
        0, 0, 0, 0, 0, 0, 0, 7, // base offset
        0, 0, 0, 58, // length after this field
        255, 255, 255, 255, // leader epoch
        2,   // magic
        0, 0, 0, 0, // crc, checked below
        0, 8, // attributes: append time
        0, 0, 0, 0, // last offset delta
        0, 0, 0, 0, 0, 0, 3, 232, // base timestamp 1000
        0, 0, 0, 0, 0, 0, 3, 232, // max timestamp
        255, 255, 255, 255, 255, 255, 255, 255, // producer id
        255, 255, // producer epoch
        255, 255, 255, 255, // base sequence
        0, 0, 0, 1,  // records
        16, // length 8, zigzag
        0, 0, 0, // attributes, timestamp delta, offset delta
        2, b'k', 2, b'v', 0, // key, value, no header
    ];
    let mut seen = batch.to_vec();
    assert_eq!(
        u32::from_be_bytes(seen[17..21].try_into().unwrap()),
        crc32c::crc32c(&seen[21..])
    );
    seen[17..21].fill(0);
    assert_eq!(seen, expected);
}

#[test]
fn a_flipped_bit_is_never_served() {
    let records = [
        record("key", "value"),
        RecordIn {
            value: None,
            ..record("k2", "")
        },
    ];
    let (bytes, _) = encode(&records, 3);
    let batch_from = 4 + BLOCK_HEAD;
    let whole = Block::verify(Bytes::from(bytes.clone()), 4).unwrap();
    for bit in (batch_from + CRC_FROM) * 8..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Block::verify(Bytes::from(flipped), 4).is_err(), "bit {bit}");
    }
    assert_eq!(whole.record(1, 3).unwrap().value, None);
}

#[test]
fn a_batch_is_served_under_another_base_offset_unchanged() {
    let (bytes, positions) = encode(&[record("a", "1"), record("b", "2")], 3);
    let block = Block::encoded(Bytes::from(bytes), 4, 1_000, positions);
    let record = block.record(1, 900).unwrap();
    assert_eq!(
        (record.offset, record.value.as_deref()),
        (901, Some(&b"2"[..]))
    );
    assert_eq!(record.appended_at_ms, 1_000);
    assert!(block.record(2, 900).is_err());
}

prop_compose! {
    fn any_record()(
        id in any::<[u8; 16]>(),
        key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
        value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)),
        headers in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..20), proptest::option::of(proptest::collection::vec(any::<u8>(), 0..90))),
            0..4,
        ),
        deliver_at_ms in prop_oneof![Just(0u64), any::<u64>()],
        expires_at_ms in prop_oneof![Just(0u64), any::<u64>()],
    ) -> RecordIn {
        RecordIn {
            id,
            key: key.map(Bytes::from),
            value: value.map(Bytes::from),
            headers: headers.into_iter().map(|(name, value)| Header { name: name.into(), value: value.map(Bytes::from) }).collect(),
            deliver_at_ms,
            expires_at_ms,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn records_survive_the_round_trip(records in proptest::collection::vec(any_record(), 1..8), base in 0u64..1 << 60) {
        let (bytes, positions) = encode(&records, base);
        let bytes = Bytes::from(bytes);
        let read = Block::verify(bytes.clone(), 4).unwrap();
        let written = Block::encoded(bytes, 4, 1_000, positions);
        prop_assert_eq!(&read.positions, &written.positions);
        for (index, record) in records.iter().enumerate() {
            let out = read.record(index as u32, base).unwrap();
            prop_assert_eq!(out.offset, base + index as u64);
            let again = out.to_input();
            prop_assert_eq!(again.id, record.id);
            prop_assert_eq!(again.key, record.key.clone());
            prop_assert_eq!(again.value, record.value.clone());
            prop_assert_eq!(again.headers, record.headers.clone());
            prop_assert_eq!(again.deliver_at_ms, record.deliver_at_ms);
            prop_assert_eq!(again.expires_at_ms, record.expires_at_ms);
            let meta = read.meta(index as u32).unwrap();
            prop_assert_eq!(meta.key.is_some(), record.key.as_ref().is_some_and(|key| !key.is_empty()));
        }
    }

    #[test]
    fn garbage_is_refused_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Block::verify(Bytes::from(bytes), 0);
    }

    /// A right checksum around wrong records: what a buggy client could append.
    #[test]
    fn records_that_lie_about_their_lengths_are_refused(at in 0usize..60, with in any::<u8>()) {
        let (mut bytes, _) = encode(&[record("key", "value"), record("k", "v")], 0);
        let records = 4 + BLOCK_HEAD + HEAD;
        let index = records + at % (bytes.len() - records);
        bytes[index] = with;
        let crc = crc32c::crc32c(&bytes[4 + BLOCK_HEAD + CRC_FROM..]);
        bytes[4 + BLOCK_HEAD + 17..4 + BLOCK_HEAD + 21].copy_from_slice(&crc.to_be_bytes());
        if let Ok(block) = Block::verify(Bytes::from(bytes), 4) {
            for index in 0..block.count() {
                if let Ok(record) = block.record(index, 0) {
                    prop_assert_eq!(record.headers.iter().count(), record.headers.len());
                }
                let _ = block.meta(index);
            }
        }
    }
}
