#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::batch::{Producer, encode_block};
use crate::definitions::{Kind, Level, Start};
use crate::tx::RecordIn;

fn block() -> Vec<u8> {
    let mut out = Vec::new();
    encode_block(
        &mut out,
        0,
        5,
        Producer::NONE,
        &[&RecordIn {
            id: [7; 16],
            ..RecordIn::default()
        }],
    );
    out
}

fn all(block: &[u8]) -> Vec<Entry<'_>> {
    let (stream, sub, id) = (StreamId(3), SubId(4), FailureId(9));
    let config = StreamConfig {
        kind: Kind::Queue,
        level: Level::Interval(Duration::from_millis(5)),
        ..StreamConfig::default()
    };
    let sub_config = SubscriptionConfig {
        start: Start::At(4),
        ..SubscriptionConfig::default()
    };
    vec![
        Entry::Data {
            stream,
            base: 1 << 40,
            block,
        },
        Entry::Ref {
            stream,
            base: 8,
            target: 2,
        },
        Entry::Settle {
            sub,
            reason: Reason::Parked,
            ranges: vec![(1, 4), (9, 10)],
        },
        Entry::Lease {
            sub,
            member: MemberId(1),
            ranges: vec![(0, 1)],
        },
        Entry::Return {
            sub,
            at_ms: 7,
            returned: vec![Returned {
                offset: 5,
                attempts: 2,
                delay_ms: 300,
            }],
        },
        Entry::Reserve {
            stream,
            upto: 65_536,
        },
        Entry::Offset {
            stream,
            group: "projection",
            epoch: 3,
            watermark: 44,
            done: vec![(46, 50)],
            meta: b"opaque",
        },
        Entry::Failure {
            sub,
            id,
            at_ms: 1,
            source: Some(7),
            key: Some(b"order-1"),
            parked: true,
            group: "declined",
            meta: b"{}",
            block,
        },
        Entry::Failure {
            sub,
            id,
            at_ms: 1,
            source: None,
            key: None,
            parked: false,
            group: "declined",
            meta: b"",
            block,
        },
        Entry::Reopen {
            sub,
            id,
            at_ms: 1,
            group: "declined again",
            meta: b"{}",
        },
        Entry::Redrive {
            sub,
            at_ms: 1,
            ids: vec![(1, 3), (7, 8)],
            reason: "fixed",
        },
        Entry::Remove {
            sub,
            at_ms: 1,
            ids: vec![(1, 2)],
            reason: None,
        },
        Entry::Remove {
            sub,
            at_ms: 1,
            ids: vec![(2, 5)],
            reason: Some("no longer wanted"),
        },
        Entry::Crash {
            sub,
            state: b"crash",
        },
        Entry::Ddl(Ddl::Stream {
            stream,
            name: "shop.order",
            config,
        }),
        Entry::Ddl(Ddl::DropStream { stream }),
        Entry::Ddl(Ddl::Subscription {
            sub,
            stream,
            name: "inventory",
            config: sub_config,
            from: 12,
        }),
        Entry::Ddl(Ddl::DropSubscription { sub }),
        Entry::Ddl(Ddl::Seek { sub, to: 0 }),
        Entry::Ddl(Ddl::Pause { sub, paused: true }),
        Entry::Trim {
            stream,
            before: 100,
        },
        Entry::Audit {
            sub,
            at_ms: 2,
            offset: 7,
            reason: "asked to",
        },
    ]
}

#[test]
fn every_entry_survives_the_round_trip() {
    let block = block();
    for entry in all(&block) {
        let mut out = Vec::new();
        entry.encode(&mut out);
        assert_eq!(Entry::decode(entry.kind(), 0, &out).unwrap(), Some(entry));
    }
}

#[test]
fn an_entry_cut_anywhere_is_refused() {
    let block = block();
    for entry in all(&block) {
        let mut out = Vec::new();
        entry.encode(&mut out);
        // The block is checked when it is read; up to its table an entry must be whole.
        let whole = if let Entry::Data { .. } | Entry::Failure { .. } = entry {
            out.len() - block.len()
        } else {
            out.len()
        };
        for cut in 0..whole {
            assert!(
                Entry::decode(entry.kind(), 0, &out[..cut]).is_err(),
                "{entry:?} cut at {cut}"
            );
        }
    }
}

#[test]
fn an_unknown_kind_is_refused_unless_it_says_that_it_may_be_skipped() {
    assert!(Entry::decode(200, 0, b"anything").is_err());
    assert_eq!(Entry::decode(200, SKIPPABLE, b"anything").unwrap(), None);
}

/// Fixture of format version 1: it must read for ever.
#[test]
fn the_bytes_of_a_settle_are_as_drawn() {
    let mut out = Vec::new();
    Entry::Settle {
        sub: SubId(4),
        reason: Reason::Dead,
        ranges: vec![(300, 302), (303, 304)],
    }
    .encode(&mut out);
    assert_eq!(out, [4, 0, 0, 0, 2, 2, 0xAC, 2, 2, 1, 1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn garbage_is_refused_and_never_panics(kind in 0u8..40, flags in any::<u8>(), body in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = Entry::decode(kind, flags, &body);
    }

    #[test]
    fn a_changed_byte_never_panics(which in 0usize..22, at in any::<usize>(), with in any::<u8>()) {
        let block = block();
        let entry = all(&block).swap_remove(which);
        let mut out = Vec::new();
        entry.encode(&mut out);
        let at = at % out.len();
        out[at] = with;
        let _ = Entry::decode(entry.kind(), 0, &out);
    }
}
