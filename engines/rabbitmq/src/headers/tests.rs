use postrider_core::carriage::Malformed;
use postrider_core::clock::Timestamp;
use postrider_core::envelope::Envelope;
use postrider_core::id::MessageId;
use postrider_core::name::Destination;

use super::*;

fn message() -> Outgoing {
    let id = MessageId::v7(Timestamp(1_763_735_534_123), [7, 9]);
    let mut envelope = Envelope::new(
        id,
        "shop".into(),
        "order.placed".into(),
        Timestamp(1_763_735_534_123),
    );
    envelope.key = Some(Key::new(Bytes::from_static(b"o-1\xff\0")));
    envelope.version = 3;
    envelope.sequence = Some(17);
    envelope.correlation_id = Some("c".repeat(300).into());
    envelope.traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
    envelope.reply_to = Some(Destination::inbox("i1").unwrap());
    envelope.tenant = Some("tenant ü".into());
    envelope
        .headers
        .push("ce_unknown", Bytes::from_static(b"kept"));
    envelope
        .headers
        .push("twice", Bytes::from_static(b"\x00\xfe"));
    envelope.headers.push("twice", Bytes::from_static(b""));
    envelope.headers.push("user", Bytes::from_static(b"anna"));
    Outgoing {
        destination: Destination::topic("shop.order").unwrap(),
        envelope,
        payload: Bytes::from_static(b"{\"total\":1}\xff"),
    }
}

#[test]
fn every_field_and_header_survives_the_way_through_amqp() {
    let message = message();
    let encoded = write(&message, 1 << 20).unwrap();
    let record = read(&encoded.properties, encoded.body.to_vec());
    let (envelope, payload) = record.content.unwrap();
    assert_eq!(payload, message.payload);
    // A table keeps the order of the values of a name, not of the names: ours are sorted in `message`.
    assert_eq!(envelope, message.envelope);
}

#[test]
fn a_message_is_persistent_and_tells_tools_what_it_is() {
    let encoded = write(&message(), 1 << 20).unwrap();
    let p = &encoded.properties;
    assert_eq!(*p.delivery_mode(), Some(2));
    assert_eq!(
        p.message_id().as_ref().unwrap().to_string(),
        message().envelope.id.to_string()
    );
    assert_eq!(p.kind().as_ref().unwrap().to_string(), "order.placed");
    assert_eq!(
        p.content_type().as_ref().unwrap().to_string(),
        "application/json"
    );
    assert_eq!(p.correlation_id().as_ref().unwrap().as_str().len(), 255);
    let headers = p.headers().as_ref().unwrap();
    assert!(headers.contains_key("cloudEvents_id"));
    assert!(headers.contains_key("cloudEvents_partitionkey"));
    assert!(!headers.contains_key("ce_id"));
}

#[test]
fn the_other_prefix_of_the_binding_is_read_and_the_servers_own_headers_are_not() {
    let text = |s: &str| AMQPValue::LongString(s.as_bytes().to_vec().into());
    let mut table = FieldTable::default();
    table.insert("cloudEvents:specversion".into(), text("1.0"));
    table.insert("cloudEvents:id".into(), text("A-17"));
    table.insert("cloudEvents:source".into(), text("/elsewhere"));
    table.insert("cloudEvents:type".into(), text("thing"));
    table.insert("x-delivery-count".into(), AMQPValue::LongLongInt(3));
    table.insert("priority".into(), AMQPValue::LongInt(5));
    let properties = BasicProperties::default().with_headers(table);
    let (envelope, _) = read(&properties, b"x".to_vec()).content.unwrap();
    assert_eq!(envelope.id, MessageId::parse_or_hash("A-17"));
    assert_eq!(envelope.headers.get("priority").unwrap().as_ref(), b"5");
    assert_eq!(envelope.headers.len(), 1);
}

#[test]
fn what_is_no_message_of_ours_is_told_apart_and_found_again() {
    let read_body = |body: &[u8]| read(&BasicProperties::default(), body.to_vec());
    let (a, again, b) = (read_body(b"a"), read_body(b"a"), read_body(b"b"));
    assert_eq!(a.content.unwrap_err(), Malformed::NoEnvelope);
    assert_eq!(a.position, again.position);
    assert_ne!(a.position, b.position);
}

#[test]
fn limits_are_checked_before_anything_is_sent() {
    let mut large = message();
    large.payload = Bytes::from(vec![0; 5000]);
    let size = carriage::write(&large, Carriage::Binary).size();
    assert!(write(&large, size).is_ok());
    let fault = write(&large, size - 1).unwrap_err();
    assert_eq!(fault.code, Some(Code::PUBLISH_TOO_LARGE));
    let refused = |change: &dyn Fn(&mut Outgoing)| {
        let mut message = message();
        change(&mut message);
        let fault = write(&message, 1 << 20).unwrap_err();
        assert_eq!(fault.code, Some(Code::PUBLISH_BAD_ENVELOPE), "{fault}");
    };
    refused(&|m| m.envelope.key = Some(Key::new(vec![b'k'; Key::BYTES_MAX + 1])));
    refused(&|m| m.envelope.headers.push("n".repeat(256), Bytes::new()));
    refused(&|m| m.envelope.headers.push("cloudEvents_id", Bytes::new()));
    refused(&|m| {
        let much = vec![b'v'; HEADERS_BYTES_MAX];
        m.envelope.headers.push("much", much);
    });
}
