#![allow(clippy::unwrap_used)]

use super::*;
use crate::clock::Timestamp;
use crate::id::MessageId;
use crate::message::Key;
use crate::name::Destination;

fn full() -> Outgoing {
    let mut e = Envelope::new(
        MessageId::v7(Timestamp(1_763_735_534_123), [1, 2]),
        "shop".into(),
        "placed".into(),
        Timestamp(1_763_735_534_123),
    );
    e.version = 3;
    e.schema = Some("https://example.org/placed.json".into());
    e.subject = Some("o-1".into());
    e.key = Some(Key::new("o-1"));
    e.sequence = Some(7);
    e.correlation_id = Some("c-1".into());
    e.causation_id = Some("m-1".into());
    e.traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
    e.tracestate = Some("a=b".into());
    e.reply_to = Some(Destination::inbox("i-1").unwrap());
    e.expires_at = Some(Timestamp(1_763_735_999_000));
    e.deliver_at = Some(Timestamp(1_763_735_888_000));
    e.data_ref = Some("s3://b/k".into());
    e.tenant = Some("t".into());
    e.headers.push("x-unknown", &b"\xff\x00"[..]);
    e.headers.push("x-twice", "1");
    e.headers.push("x-twice", "2");
    Outgoing {
        destination: Destination::topic("shop.order").unwrap(),
        envelope: e,
        payload: Bytes::from_static(b"{ \"a\": 1.10 }"),
    }
}

#[test]
fn every_field_survives_every_carriage() {
    for carriage in [Carriage::Binary, Carriage::Packed, Carriage::Structured] {
        let out = full();
        let (envelope, payload) = read(&write(&out, carriage)).unwrap();
        assert_eq!(envelope, out.envelope, "{carriage:?}");
        assert_eq!(
            payload, out.payload,
            "{carriage:?}: the payload's own bytes"
        );
    }
}

#[test]
fn a_binary_payload_and_key_survive_every_carriage() {
    for carriage in [Carriage::Binary, Carriage::Packed, Carriage::Structured] {
        let mut out = full();
        out.payload = Bytes::from_static(&[0, 159, 146, 150]);
        out.envelope.key = Some(Key::new(&b"\xf0\x00"[..]));
        out.envelope.content_type = "application/octet-stream".into();
        let (envelope, payload) = read(&write(&out, carriage)).unwrap();
        assert_eq!(
            (envelope, payload),
            (out.envelope, out.payload),
            "{carriage:?}"
        );
    }
}

#[test]
fn a_json_payload_keeps_the_space_around_it() {
    for carriage in [Carriage::Binary, Carriage::Packed, Carriage::Structured] {
        for text in ["\r\n{\"a\":1}", "{\"a\":1}\n", " 1 "] {
            let mut out = full();
            out.payload = Bytes::from(text);
            let (_, payload) = read(&write(&out, carriage)).unwrap();
            assert_eq!(payload, out.payload, "{carriage:?}");
        }
    }
}

#[test]
fn what_is_not_an_envelope_says_why() {
    assert_eq!(read(&Raw::default()), Err(Malformed::NoEnvelope));
    let mut raw = write(&full(), Carriage::Binary);
    raw.headers.retain(|(n, _)| n.as_ref() != b"ce_type");
    assert_eq!(read(&raw), Err(Malformed::Missing("type")));
    let mut raw = write(&full(), Carriage::Binary);
    raw.headers
        .push((Bytes::from_static(b"\xff"), Bytes::new()));
    assert!(matches!(read(&raw), Err(Malformed::HeaderName(_))));
    let mut raw = write(&full(), Carriage::Structured);
    raw.body = raw.body.slice(..raw.body.len() - 3);
    assert!(matches!(
        read(&raw),
        Err(Malformed::Json {
            form: "structured",
            ..
        })
    ));
}

#[test]
fn damaged_bytes_never_panic() {
    for carriage in [Carriage::Binary, Carriage::Packed, Carriage::Structured] {
        let good = write(&full(), carriage);
        for i in 0..good.body.len() {
            let mut raw = good.clone();
            let mut body = raw.body.to_vec();
            body[i] ^= 0x15;
            raw.body = body.into();
            let _ = read(&raw);
        }
        for h in 0..good.headers.len() {
            for i in 0..good.headers[h].1.len() {
                let mut raw = good.clone();
                let mut value = raw.headers[h].1.to_vec();
                value[i] ^= 0x95;
                raw.headers[h].1 = value.into();
                let _ = read(&raw);
            }
        }
    }
}
