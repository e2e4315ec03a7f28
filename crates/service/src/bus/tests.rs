#![allow(clippy::unwrap_used)]

use postrider_core::engine::Publisher;
use postrider_core::fault::Effect;
use postrider_macros::Message;
use serde::{Deserialize, Serialize};

use super::*;
use crate::test_support::engine::FakeEngine;
use crate::test_support::publisher::FakePublisher;
use crate::test_support::{passing, too_large};

#[derive(Clone, Default, Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "placed", key = order, crate = postrider_core)]
struct Placed {
    order: String,
    number: u64,
    /// With anything in it JSON cannot be written.
    unwritable: HashMap<Vec<u8>, u8>,
}

fn placed(order: &str, number: u64) -> Placed {
    Placed {
        order: order.into(),
        number,
        ..Placed::default()
    }
}

fn number(message: &Outgoing) -> u64 {
    let placed: Placed = serde_json::from_slice(&message.payload).unwrap();
    placed.number
}

/// A bus whose engine refuses one numbered message once.
async fn bus(refused: u64, fault: Fault) -> (Bus, Arc<FakePublisher>) {
    let publisher = FakePublisher::new();
    let mut fault = Some(fault);
    publisher.refuse(move |m| fault.take_if(|_| number(m) == refused));
    let engine = FakeEngine::new(Arc::clone(&publisher) as Arc<dyn Publisher>, None, &[]);
    let bus = Bus::from_engine(Arc::new(engine), crate::fake::options()).await;
    (bus.unwrap(), publisher)
}

/// Two keys in turns, more than one call of the engine takes.
fn two_keys() -> Vec<Placed> {
    let order = |n| if n % 2 == 0 { "a" } else { "b" };
    (0..1200).map(|n| placed(order(n), n)).collect()
}

#[tokio::test(start_paused = true)]
async fn behind_a_message_that_failed_nothing_of_its_key_is_published_in_later_calls_either() {
    for (fault, retriable) in [(passing(), true), (too_large(), false)] {
        let (bus, publisher) = bus(100, fault).await;
        let results = bus.publish_all(two_keys()).await;
        assert_eq!(*publisher.calls.lock(), 3);
        for (n, result) in results.iter().enumerate() {
            assert_eq!(result.is_ok(), n % 2 == 1 || n < 100, "{n}: {result:?}");
        }
        let error = results[1100].as_ref().unwrap_err();
        assert!(error.what().contains("an earlier message"), "{error}");
        assert_eq!(error.is_retriable(), retriable);
        assert_eq!(error.effect(), Effect::NotApplied);
        let stored: Vec<u64> = publisher.stored.lock().iter().map(number).collect();
        assert!(stored.is_sorted(), "{stored:?}");
        assert_eq!(stored.len(), 650);
    }
}

#[tokio::test(start_paused = true)]
async fn behind_a_message_that_cannot_be_made_nothing_of_its_key_is_published() {
    let (bus, publisher) = bus(u64::MAX, passing()).await;
    let mut unwritable = placed("a", 1);
    unwritable.unwritable.insert(vec![1], 1);
    let huge = "x".repeat(postrider_core::envelope::HEADERS_BYTES_MAX);
    let batch = vec![
        Publish(placed("a", 0)),
        Publish(unwritable),
        Publish(placed("b", 2)),
        Publish(placed("b", 3)).header("huge", huge),
        Publish(placed("a", 4)),
        Publish(placed("b", 5)),
        // A key that was named counts, not the message's own.
        Publish(placed("a", 6)).key(Key::of(&"c")),
        Publish(placed("c", 7)).key(Key::of(&"a")),
    ];
    let results = bus.publish_all(batch).await;
    let accepted: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(
        accepted,
        [true, false, true, false, false, false, true, false]
    );
    let stored: Vec<u64> = publisher.stored.lock().iter().map(number).collect();
    assert_eq!(stored, [0, 2, 6]);
}
