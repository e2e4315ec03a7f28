#![allow(clippy::unwrap_used)]

use postrider_core::clock::{SplitMix64, Timestamp};
use postrider_core::id::MessageId;

use super::*;

struct Seeded(parking_lot::Mutex<SplitMix64>);

impl Entropy for Seeded {
    fn next_u64(&self) -> u64 {
        self.0.lock().next_u64()
    }
}

fn seeded() -> Seeded {
    Seeded(parking_lot::Mutex::new(SplitMix64::new(1)))
}

fn envelope() -> Envelope {
    let id = MessageId::from_bytes([1; 16]);
    Envelope::new(id, "shop".into(), "placed".into(), Timestamp(0))
}

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[test]
fn a_traceparent_survives_its_text_form() {
    assert_eq!(TraceContext::parse(PARENT).unwrap().to_string(), PARENT);
    let later = format!("{}-more", PARENT.replacen("00", "01", 1));
    assert_eq!(TraceContext::parse(&later), TraceContext::parse(PARENT));
}

#[test]
fn what_is_not_a_traceparent_is_none() {
    let zero_trace = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
    let zero_span = "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01";
    let upper = PARENT.to_uppercase();
    let version_ff = PARENT.replacen("00", "ff", 1);
    let longer = format!("{PARENT}-more");
    let not_ascii = format!("{}é", &PARENT[..53]);
    for bad in [
        "",
        "00",
        zero_trace,
        zero_span,
        &upper,
        &version_ff,
        &longer,
        &not_ascii,
    ] {
        assert_eq!(TraceContext::parse(bad), None, "{bad}");
    }
}

#[tokio::test]
async fn a_message_from_a_handler_stays_in_its_trace_with_a_new_span() {
    let entropy = seeded();
    let mut incoming = envelope();
    incoming.traceparent = Some(PARENT.into());
    let context = context_of(&incoming, &entropy);
    let outgoing = within(context, async {
        let mut outgoing = envelope();
        inject(&mut outgoing, &entropy);
        TraceContext::parse(&outgoing.traceparent.unwrap()).unwrap()
    })
    .await;
    let producer = TraceContext::parse(PARENT).unwrap();
    assert_eq!(outgoing.trace_id, producer.trace_id);
    assert_ne!(outgoing.span_id, producer.span_id);
    assert_ne!(outgoing.span_id, context.span_id);
}

#[test]
fn a_message_from_outside_begins_a_trace_and_a_given_one_is_kept() {
    let entropy = seeded();
    let mut first = envelope();
    inject(&mut first, &entropy);
    assert!(TraceContext::parse(first.traceparent.as_deref().unwrap()).is_some());
    let mut given = envelope();
    given.traceparent = Some(PARENT.into());
    inject(&mut given, &entropy);
    assert_eq!(given.traceparent.unwrap(), PARENT);
    let mut broken = envelope();
    broken.traceparent = Some("nonsense".into());
    inject(&mut broken, &entropy);
    assert_ne!(broken.traceparent.unwrap(), "nonsense");
}
