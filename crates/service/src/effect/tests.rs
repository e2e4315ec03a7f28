#![allow(clippy::unwrap_used)]

use std::time::Duration;

use postrider_core::envelope::Outgoing;
use postrider_macros::Message;
use serde::{Deserialize, Serialize};

use super::*;
use crate::fake;

#[derive(Clone, Message, Serialize, Deserialize)]
#[message(topic = "shop.stock", type = "reserved", key = order_id, crate = postrider_core)]
struct Reserved {
    order_id: String,
}

#[derive(Clone, Message, Serialize, Deserialize)]
#[message(queue = "mail", type = "apologise", crate = postrider_core)]
struct Apologise;

#[derive(Clone, Message, Serialize, Deserialize)]
#[message(reply, type = "done", crate = postrider_core)]
struct Done;

fn reserved(order_id: &str) -> Publish<Reserved> {
    Publish(Reserved {
        order_id: order_id.into(),
    })
}

fn sealed(effects: impl IntoEffects) -> Vec<Outgoing> {
    sealed_for(effects, |_| {})
}

fn sealed_for(
    effects: impl IntoEffects,
    change: impl FnOnce(&mut postrider_core::envelope::Envelope),
) -> Vec<Outgoing> {
    let mut envelope = fake::envelope();
    change(&mut envelope);
    let runtime = fake::delivery().inner.runtime.clone();
    let delivery = fake::delivery_of(envelope, "{}", runtime);
    let drafts = Effects::new().with(effects).into_drafts().unwrap();
    seal_effects(drafts, &delivery, &Text::from_static("inventory"), None).unwrap()
}

fn ids(messages: &[Outgoing]) -> Vec<String> {
    messages.iter().map(|m| m.envelope.id.to_string()).collect()
}

#[test]
fn a_rerun_sends_the_same_ids_and_no_two_messages_share_one() {
    let run = || sealed((reserved("a"), reserved("a"), reserved("b"), Send(Apologise)));
    let first = ids(&run());
    assert_eq!(first, ids(&run()));
    let mut distinct = first.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), first.len());
    let alone = ids(&sealed((reserved("b"), Send(Apologise))));
    assert_eq!(
        alone,
        first[2..],
        "what another key or type sends does not shift an id"
    );
}

#[test]
fn messages_belong_to_the_conversation_of_what_was_handled() {
    let out = sealed_for(reserved("a"), |e| {
        e.correlation_id = Some("order-7".into());
        e.tenant = Some("north".into());
    });
    let parent = fake::envelope();
    let envelope = &out[0].envelope;
    assert_eq!(out[0].destination.to_string(), "topic:shop.stock");
    assert_eq!(envelope.source, "inventory");
    assert_eq!(envelope.correlation_id.as_deref(), Some("order-7"));
    assert_eq!(
        envelope.causation_id.as_deref(),
        Some(&*parent.id.to_string())
    );
    assert_eq!(envelope.tenant.as_deref(), Some("north"));
    assert!(envelope.traceparent.is_some(), "every hop is traced");
    let out = sealed(reserved("a"));
    let correlation = out[0].envelope.correlation_id.as_deref();
    assert_eq!(
        correlation,
        Some(&*parent.id.to_string()),
        "the first message begins it"
    );
}

#[test]
fn a_reply_goes_to_who_asked_and_nowhere_where_nobody_did() {
    assert!(sealed(Reply(Done)).is_empty());
    let out = sealed_for(Reply(Done), |e| {
        e.reply_to = postrider_core::name::Destination::inbox("p1").ok();
        e.correlation_id = Some("q-1".into());
    });
    assert_eq!(out[0].destination.to_string(), "inbox:p1");
    assert_eq!(out[0].envelope.correlation_id.as_deref(), Some("q-1"));
}

#[test]
fn after_holds_for_all_inside_that_have_no_time_of_their_own() {
    let now = fake::envelope().time;
    let own = now.plus(Duration::from_secs(9));
    let out = sealed(After(
        Duration::from_secs(60),
        (reserved("a"), reserved("b").at(own)),
    ));
    assert_eq!(
        out[0].envelope.deliver_at,
        Some(now.plus(Duration::from_secs(60)))
    );
    assert_eq!(out[1].envelope.deliver_at, Some(own));
    let out = sealed(
        reserved("a")
            .expires_in(Duration::from_secs(5))
            .header("h", "v"),
    );
    assert_eq!(
        out[0].envelope.expires_at,
        Some(now.plus(Duration::from_secs(5)))
    );
    assert_eq!(out[0].envelope.headers.get("h").unwrap(), "v");
}

#[test]
fn options_vectors_and_lists_keep_their_order() {
    let mut effects = Effects::new();
    effects
        .add(Some(reserved("a")))
        .add(None::<Publish<Reserved>>)
        .add(vec![reserved("b"), reserved("c")]);
    let keys: Vec<_> = sealed(effects)
        .iter()
        .map(|m| m.envelope.key.clone().unwrap().display())
        .collect();
    assert_eq!(keys, ["a", "b", "c"]);
}

#[test]
fn what_breaks_a_limit_is_refused_with_its_code() {
    let delivery = fake::delivery();
    let refused = |effect: Publish<Reserved>| {
        let drafts = Effects::new().with(effect).into_drafts().unwrap();
        seal_effects(drafts, &delivery, &Text::from_static("x"), None)
            .unwrap_err()
            .code()
    };
    let bad = postrider_core::code::Code::PUBLISH_BAD_ENVELOPE;
    assert_eq!(refused(reserved(&"k".repeat(Key::BYTES_MAX + 1))), bad);
    assert_eq!(refused(reserved("a").header("h", vec![0; 70_000])), bad);
    assert_eq!(refused(reserved("a").header("", "v")), bad);
}
