#![allow(clippy::unwrap_used)]

use postrider_core::policy::Retry;
use postrider_macros::Message;
use serde::{Deserialize, Serialize};

use super::*;
use crate::handler::{DeadLetter, HandlerExt, IntoHandler, raw};

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "placed", key = id, crate = postrider_core)]
struct Placed {
    id: String,
}

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "paid", key = id, crate = postrider_core)]
struct Paid {
    id: String,
}

#[derive(Message, Serialize, Deserialize)]
#[message(queue = "mail", type = "ping", crate = postrider_core)]
struct Ping;

#[derive(Message, Serialize, Deserialize)]
#[message(reply, type = "pong", crate = postrider_core)]
struct Pong;

async fn placed(_: Placed) {}
async fn placed_again(_: Placed) {}
async fn paid(_: Paid) {}
async fn ping(_: Ping) {}
async fn pong(_: Pong) {}

fn grouped(handlers: Vec<Configured>) -> Result<Vec<Subscription>> {
    group(&Name::new("inventory").unwrap(), handlers)
}

fn code(handlers: Vec<Configured>) -> Code {
    grouped(handlers).err().unwrap().code()
}

#[test]
fn handlers_of_one_topic_share_a_subscription() {
    let all = grouped(vec![
        placed.into_handler(),
        ping.into_handler(),
        paid.concurrency(3),
    ])
    .unwrap();
    let ids: Vec<_> = all.iter().map(|s| s.id.to_string()).collect();
    assert_eq!(ids, ["inventory@topic:shop.order", "inventory@queue:mail"]);
    assert_eq!(all[0].types(), ["paid", "placed"]);
    assert_eq!(all[0].policy.limits.concurrency, 3);
    let policies: Vec<_> = all
        .iter()
        .map(|s| (s.policy.ordered, s.policy.when_exhausted))
        .collect();
    let expected = [
        (true, WhenExhausted::ParkKey),
        (false, WhenExhausted::DeadLetterAndContinue),
    ];
    assert_eq!(
        policies, expected,
        "keyed messages are ordered, others are not"
    );
}

#[test]
fn two_handlers_of_one_type_are_refused() {
    assert_eq!(
        code(vec![placed.into_handler(), placed_again.into_handler()]),
        Code::HANDLER_DUPLICATE
    );
}

#[test]
fn contradictions_are_refused_and_name_both_handlers() {
    let error = grouped(vec![placed.concurrency(2), paid.concurrency(3)])
        .err()
        .unwrap();
    assert_eq!(error.code(), Code::CONFIG_CONTRADICTS);
    assert!(
        error.what().contains("::placed`") && error.what().contains("::paid`"),
        "{error}"
    );
    let dead = |a, b| vec![placed.dead_letter(a), paid.dead_letter(b)];
    assert_eq!(
        code(dead(DeadLetter::Park, DeadLetter::Stop)),
        Code::CONFIG_CONTRADICTS
    );
    assert!(grouped(dead(DeadLetter::Stop, DeadLetter::Stop)).is_ok());
}

#[test]
fn one_handler_cannot_give_up_the_order_of_another() {
    assert_eq!(
        code(vec![placed.unordered(), paid.into_handler()]),
        Code::CONFIG_CONTRADICTS
    );
    let both = grouped(vec![placed.unordered(), paid.unordered()]).unwrap();
    assert!(!both[0].policy.ordered);
    let parks = vec![placed.unordered().dead_letter(DeadLetter::Park)];
    assert_eq!(
        code(parks),
        Code::CONFIG_CONTRADICTS,
        "there is no key to park"
    );
}

#[test]
fn retries_are_each_handlers_own() {
    assert!(
        grouped(vec![
            placed.retry(Retry::never()),
            paid.retry(Retry::default())
        ])
        .is_ok()
    );
}

#[test]
fn a_reply_is_not_subscribed_to_and_a_raw_handler_needs_a_destination() {
    assert_eq!(code(vec![pong.into_handler()]), Code::CONFIG_CONTRADICTS);
    assert_eq!(
        code(vec![raw("shop.order", |_| async {})]),
        Code::NAME_MALFORMED
    );
    let all = grouped(vec![
        raw("topic:shop.order", |_| async {}),
        placed.into_handler(),
    ])
    .unwrap();
    assert_eq!(all[0].types(), ["placed", "…"]);
}
