//! What the derives write.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use postrider_core::Bytes;
use postrider_core::codec::CodecError;
use postrider_core::fault::{HandlerError, ToOutcome};
use postrider_core::message::{Command, Event, Message};
use postrider_core::name::DestinationKind;
use postrider_core::text::Text;
use postrider_macros::{Fault, Message};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "placed", key = order.id, version = 2, crate = postrider_core)]
struct Placed {
    order: Order,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u32,
}

#[derive(Message, Serialize, Deserialize)]
#[message(queue = "payments", type = "charge", crate = "postrider_core")]
struct Charge(u32);

#[derive(Message, Serialize, Deserialize)]
#[message(reply, type = "charged", key = 0, crate = postrider_core)]
struct Charged(u32);

fn is_event<T: Event>() {}
fn is_command<T: Command>() {}

#[test]
fn a_message_knows_where_it_goes_and_its_key() {
    is_event::<Placed>();
    is_command::<Charge>();
    assert_eq!(
        (Placed::KIND, Placed::DESTINATION, Placed::TYPE),
        (DestinationKind::Topic, "shop.order", "placed")
    );
    assert_eq!((Placed::VERSION, Charge::VERSION), (2, 1));
    const { assert!(Placed::KEYED && !Charge::KEYED) };
    let placed = Placed {
        order: Order { id: 7 },
    };
    assert_eq!(placed.key().unwrap().as_bytes(), &Bytes::from("7"));
    assert_eq!(Charged(9).key().unwrap().as_bytes(), &Bytes::from("9"));
    assert!(Charge(1).key().is_none());
}

#[test]
fn a_payload_is_read_only_under_its_content_type() {
    let placed = Placed {
        order: Order { id: 7 },
    };
    let payload = placed.encode().unwrap();
    for good in ["application/json", "Application/JSON; charset=utf-8"] {
        assert_eq!(Placed::decode(&Text::from(good), &payload).unwrap(), placed);
    }
    let wrong = Placed::decode(&Text::from("application/xml"), &payload);
    assert!(matches!(
        wrong,
        Err(CodecError::ContentType {
            message_type: "placed",
            ..
        })
    ));
    let broken = Placed::decode(
        &Text::from("application/json"),
        &Bytes::from_static(b"\xff{"),
    );
    assert!(matches!(broken, Err(CodecError::Decode { .. })));
}

#[derive(Debug, thiserror::Error, Fault)]
#[error("inner")]
#[fault(stop, crate = postrider_core)]
struct Inner;

#[derive(Debug, thiserror::Error, Fault)]
#[fault(crate = postrider_core)]
#[error("outer")]
enum Outer {
    #[fault(transient)]
    Unit,
    #[fault(permanent)]
    Tuple(u8),
    #[fault(retry_after = 30)]
    Later,
    #[fault(retry_after = wait)]
    Named { wait: Duration },
    #[fault(unavailable = "psp")]
    Down,
    #[fault(transparent)]
    From(Inner),
}

#[test]
fn an_error_says_what_it_means_for_the_delivery() {
    assert!(matches!(
        Outer::Unit.to_outcome(),
        HandlerError::Transient(_)
    ));
    assert!(
        matches!(Outer::Tuple(1).to_outcome(), HandlerError::Permanent(e) if e.to_string() == "outer")
    );
    let after = |outcome| match outcome {
        HandlerError::RetryAfter(after, _) => after.as_secs(),
        other => panic!("{other:?}"),
    };
    assert_eq!(after(Outer::Later.to_outcome()), 30);
    assert_eq!(
        after(
            Outer::Named {
                wait: Duration::from_secs(5)
            }
            .to_outcome()
        ),
        5
    );
    assert!(
        matches!(Outer::Down.to_outcome(), HandlerError::Unavailable(d, _) if d.to_string() == "psp")
    );
    assert!(matches!(
        Outer::From(Inner).to_outcome(),
        HandlerError::Stop(_)
    ));
}
