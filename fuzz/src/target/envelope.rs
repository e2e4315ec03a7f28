//! Envelopes in all three forms. What can be read is written again in each form, and must be read as the same.

use bytes::Bytes;
use postrider_core::carriage::{Carriage, Raw, read, write};
use postrider_core::clock::Timestamp;
use postrider_core::envelope::{Envelope, Outgoing};
use postrider_core::id::MessageId;
use postrider_core::message::Key;
use postrider_core::name::Destination;

/// The number of headers, then for each its name and value with a length of one and two bytes, then the body.
pub fn run(input: &[u8]) {
    let Ok((envelope, payload)) = read(&raw_of(input)) else {
        return;
    };
    let message = Outgoing {
        destination: Destination::topic("shop.order").expect("a valid name"),
        envelope,
        payload,
    };
    for carriage in [Carriage::Binary, Carriage::Packed, Carriage::Structured] {
        let again = read(&write(&message, carriage));
        assert!(
            again.is_ok(),
            "{carriage:?} cannot read what it wrote: {again:?}"
        );
        let (envelope, payload) = again.expect("just looked at");
        assert_eq!(envelope.id, message.envelope.id, "{carriage:?}");
        assert_eq!(payload, message.payload, "{carriage:?}");
    }
}

fn raw_of(input: &[u8]) -> Raw {
    let (count, mut rest) = input
        .split_first()
        .map_or((0, input), |(count, rest)| (*count % 64, rest));
    let mut take = |len: usize| {
        let len = len.min(rest.len());
        let (part, left) = rest.split_at(len);
        rest = left;
        Bytes::copy_from_slice(part)
    };
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = take(1).first().copied().unwrap_or_default();
        let name = take(usize::from(name));
        let len = take(2);
        let len = len
            .iter()
            .fold(0, |len, byte| len << 8 | usize::from(*byte));
        headers.push((name, take(len)));
    }
    let body = take(usize::MAX);
    Raw {
        key: None,
        headers,
        body,
    }
}

fn bytes_of(raw: &Raw) -> Vec<u8> {
    let mut out = vec![raw.headers.len() as u8];
    for (name, value) in &raw.headers {
        out.push(name.len() as u8);
        out.extend_from_slice(name);
        out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        out.extend_from_slice(value);
    }
    out.extend_from_slice(&raw.body);
    out
}

/// The same message in each form, small and with everything set.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for full in [false, true] {
        let id = MessageId::v7(Timestamp(1_763_735_534_123), [1, 2]);
        let mut envelope = Envelope::new(
            id,
            "orders".into(),
            "placed".into(),
            Timestamp(1_763_735_534_123),
        );
        if full {
            envelope.key = Some(Key::new(Bytes::from_static(b"order-1")));
            envelope.correlation_id = Some(id.to_string().into());
            envelope.causation_id = Some(id.to_string().into());
            envelope.expires_at = Some(Timestamp(1_763_735_999_000));
        }
        let message = Outgoing {
            destination: Destination::topic("shop.order").expect("a valid name"),
            envelope,
            payload: Bytes::from_static(br#"{"order_id":"o-1","total":1250}"#),
        };
        for carriage in [Carriage::Binary, Carriage::Packed, Carriage::Structured] {
            let name = format!("{}-{full}", format!("{carriage:?}").to_lowercase());
            seeds.push((name, bytes_of(&write(&message, carriage))));
        }
    }
    seeds
}
