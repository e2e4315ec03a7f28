//! Delivery, on `memory:` under virtual time.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use postrider_core::capability::Durability;
use postrider_core::clock::Timestamp;
use postrider_core::code::Code;
use postrider_core::engine::{Cancel, Engine, Scheduled};
use postrider_core::fault::{Effect, FaultKind};
use postrider_core::id::InstanceId;
use postrider_core::name::{Destination, SubscriptionId};
use postrider_core::settle::{Settle, SettleOp};
use postrider_core::source::{Commit, Credit, LogEvent, Position, SeekTo, Source};
use postrider_core::subscription::SubscriptionSpec;
use postrider_core::topology::{DestinationSpec, ProvisionMode, SubscriptionNeed, Topology};
use support::*;

#[tokio::test(start_paused = true)]
async fn every_subscription_gets_every_message_and_says_so() {
    let engine = memory();
    provision(&engine, &["inventory", "payment"]).await;
    let receipts = publish(&engine, vec![message("o-1", 1), message("o-2", 2)]).await;
    assert_eq!(receipts[1].subscriptions, Some(2));
    assert_eq!(
        (receipts[1].durability, receipts[1].position),
        (Durability::Memory, Some(1))
    );
    for service in ["inventory", "payment"] {
        let mut source = open(&engine, service, 1).await;
        let leased = ready(&mut source).await;
        assert_eq!(numbers(&leased), [1, 2]);
        assert_eq!(leased[0].deliveries, Some(0));
        ack_all(&*source, leased).await;
        assert!(ready(&mut source).await.is_empty());
    }
    let depth = engine.admin().unwrap().destinations().await.unwrap();
    assert_eq!(
        (
            depth[0].messages,
            depth[0].next_position,
            depth[0].subscriptions.len()
        ),
        (0, 2, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn a_waiting_source_is_woken_by_a_publish() {
    let engine = memory();
    provision(&engine, &["inventory"]).await;
    let mut source = open(&engine, "inventory", 1).await;
    let waits = tokio::spawn(async move { source.next(ROOM).await.unwrap().len() });
    tokio::task::yield_now().await;
    publish(&engine, vec![message("o-1", 1)]).await;
    assert_eq!(waits.await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_never_with_two_members_and_other_keys_flow() {
    let engine = memory();
    provision(&engine, &["inventory"]).await;
    let mut a = open(&engine, "inventory", 1).await;
    let mut b = open(&engine, "inventory", 2).await;
    publish(
        &engine,
        vec![message("held", 1), message("held", 2), message("free", 3)],
    )
    .await;
    let one = Credit {
        messages: 1,
        ..ROOM
    };
    let first = a.next(one).await.unwrap();
    assert_eq!(numbers(&first), [1]);
    assert_eq!(
        numbers(&ready(&mut b).await),
        [3],
        "the held key stays with its member"
    );
    publish(&engine, vec![message("held", 4)]).await;
    assert!(ready(&mut b).await.is_empty());
    ack_all(&*a, first).await;
    let rest = ready(&mut b).await;
    assert_eq!(
        numbers(&rest),
        [2, 4],
        "a key that nobody holds goes to whoever asks, in order"
    );
    assert!(ready(&mut a).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_release_is_not_counted_and_a_retry_is() {
    let engine = memory();
    provision(&engine, &["inventory"]).await;
    let mut source = open(&engine, "inventory", 1).await;
    publish(&engine, vec![message("o-1", 1)]).await;
    let leased = ready(&mut source).await.remove(0);
    settle(&*source, leased.token, Settle::Release)
        .await
        .unwrap();
    let leased = ready(&mut source).await.remove(0);
    assert_eq!(leased.deliveries, Some(0));
    let retry = Settle::RetryAfter {
        delay: Duration::from_secs(60),
        attempts: 1,
    };
    let at = tokio::time::Instant::now();
    settle(&*source, leased.token, retry).await.unwrap();
    assert_eq!(
        engine
            .admin()
            .unwrap()
            .depth(&subscription("inventory"))
            .await
            .unwrap()
            .delayed,
        1
    );
    let leased = source.next(ROOM).await.unwrap().remove(0);
    assert_eq!(leased.deliveries, Some(1));
    let waited = at.elapsed();
    assert!((60_000..60_200).contains(&waited.as_millis()), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_lease_ended_goes_to_another_and_the_old_token_is_worth_nothing() {
    let engine = memory();
    provision(&engine, &["inventory"]).await;
    let mut a = open(&engine, "inventory", 1).await;
    let mut b = open(&engine, "inventory", 2).await;
    publish(&engine, vec![message("o-1", 1)]).await;
    let held = ready(&mut a).await.remove(0);
    tokio::time::advance(LEASE / 2).await;
    let until = a
        .settler()
        .extend(&[&held.token], LEASE)
        .await
        .remove(0)
        .unwrap();
    assert_eq!(until.0, LEASE + LEASE / 2);
    let at = tokio::time::Instant::now();
    let again = b.next(ROOM).await.unwrap();
    assert!(
        at.elapsed() >= LEASE,
        "the extension counts: {:?}",
        at.elapsed()
    );
    assert_eq!(again[0].deliveries, Some(1));
    let fault = a
        .settler()
        .extend(&[&held.token], LEASE)
        .await
        .remove(0)
        .unwrap_err();
    assert_eq!(fault.kind, FaultKind::LeaseLost);
    let fault = settle(&*a, held.token, Settle::Ack).await.unwrap_err();
    assert_eq!(
        (fault.kind, fault.code),
        (FaultKind::LeaseLost, Some(Code::LEASE_LOST))
    );
    ack_all(&*b, again).await;
}

#[tokio::test(start_paused = true)]
async fn of_several_settles_only_the_lost_one_is_refused() {
    let engine = memory();
    provision(&engine, &["inventory"]).await;
    let mut source = open(&engine, "inventory", 1).await;
    publish(
        &engine,
        (1..=3).map(|n| message(&format!("o-{n}"), n)).collect(),
    )
    .await;
    let mut leased = ready(&mut source).await;
    let lost = leased.remove(1);
    tokio::time::advance(LEASE * 2).await;
    // Only these are extended in time.
    let mut leased = {
        drop(leased);
        let mut again = ready(&mut source).await;
        let at = again
            .iter()
            .position(|one| one.record.position == lost.record.position)
            .unwrap();
        again.remove(at);
        again
    };
    let mut ops = vec![SettleOp {
        token: lost.token,
        settle: Settle::Ack,
    }];
    ops.extend(leased.drain(..).map(|one| SettleOp {
        token: one.token,
        settle: Settle::Ack,
    }));
    let results = source.settler().settle(ops).await;
    assert_eq!(
        results[0].as_ref().unwrap_err().fault.kind,
        FaultKind::LeaseLost
    );
    assert!(results[1].is_ok() && results[2].is_ok());
    let depth = engine
        .admin()
        .unwrap()
        .depth(&subscription("inventory"))
        .await
        .unwrap();
    assert_eq!((depth.depth, depth.in_flight), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn dropping_a_source_gives_back_what_it_holds() {
    let engine = memory();
    provision(&engine, &["inventory"]).await;
    let mut a = open(&engine, "inventory", 1).await;
    publish(&engine, vec![message("o-1", 1), message("o-1", 2)]).await;
    assert_eq!(ready(&mut a).await.len(), 2);
    drop(a);
    let mut b = open(&engine, "inventory", 2).await;
    assert_eq!(numbers(&ready(&mut b).await), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_smaller_credit_is_kept_also_after_a_dropped_future() {
    let engine = memory();
    provision(&engine, &["inventory"]).await;
    let mut source = open(&engine, "inventory", 1).await;
    publish(&engine, (1..=5).map(|n| message("o-1", n)).collect()).await;
    let two = Credit {
        messages: 2,
        ..ROOM
    };
    assert_eq!(numbers(&source.next(two).await.unwrap()), [1, 2]);
    assert_eq!(numbers(&source.next(two).await.unwrap()), [3, 4]);
    let none = Credit {
        messages: 0,
        ..ROOM
    };
    assert!(poll_once(source.next(none)).await.is_none());
    assert_eq!(numbers(&source.next(two).await.unwrap()), [5]);
}

#[tokio::test(start_paused = true)]
async fn delayed_messages_come_when_they_are_due_and_expired_ones_do_not() {
    let engine = memory();
    provision(&engine, &["inventory"]).await;
    let mut source = open(&engine, "inventory", 1).await;
    let mut late = message("o-1", 1);
    late.envelope.deliver_at = Some(Timestamp(START_MS + 60_000));
    let mut stale = message("o-2", 2);
    stale.envelope.deliver_at = Some(Timestamp(START_MS + 10_000));
    stale.envelope.expires_at = Some(Timestamp(START_MS + 5_000));
    publish(&engine, vec![late, stale, message("o-3", 3)]).await;
    let now = ready(&mut source).await;
    assert_eq!(numbers(&now), [3]);
    ack_all(&*source, now).await;
    let at = tokio::time::Instant::now();
    assert_eq!(numbers(&source.next(ROOM).await.unwrap()), [1]);
    assert!(
        (60_000..60_200).contains(&at.elapsed().as_millis()),
        "{:?}",
        at.elapsed()
    );
    let depth = engine
        .admin()
        .unwrap()
        .depth(&subscription("inventory"))
        .await
        .unwrap();
    assert_eq!(depth.depth, 1, "the expired one is gone");
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_is_cancelled_before_it_fires_and_not_after() {
    let engine = memory();
    provision(&engine, &["inventory"]).await;
    let mut source = open(&engine, "inventory", 1).await;
    let delayed = |n| {
        let mut message = message("o-1", n);
        message.envelope.deliver_at = Some(Timestamp(START_MS + 1_000 * n));
        message
    };
    let receipts = publish(&engine, vec![delayed(1), delayed(2)]).await;
    let scheduled = |n: u64| Scheduled {
        destination: topic(),
        id: id(n),
        position: receipts[n as usize - 1].position,
    };
    let publisher = publisher(&engine).await;
    assert_eq!(
        publisher.cancel(&scheduled(1)).await.unwrap(),
        Cancel::Cancelled
    );
    assert_eq!(numbers(&source.next(ROOM).await.unwrap()), [2]);
    assert_eq!(
        publisher.cancel(&scheduled(2)).await.unwrap(),
        Cancel::AlreadyFired
    );
    assert_eq!(
        publisher.cancel(&scheduled(1)).await.unwrap(),
        Cancel::AlreadyFired
    );
}

#[tokio::test(start_paused = true)]
async fn the_same_id_is_stored_once_within_the_window() {
    let engine = memory();
    provision(&engine, &["inventory"]).await;
    let mut source = open(&engine, "inventory", 1).await;
    let first = publish(&engine, vec![message("o-1", 1)]).await;
    let again = publish(&engine, vec![message("o-1", 1), message("o-1", 2)]).await;
    assert!(!first[0].duplicate && again[0].duplicate && !again[1].duplicate);
    assert_eq!(again[0].position, first[0].position);
    assert_eq!(numbers(&ready(&mut source).await), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_commit_is_all_or_nothing() {
    let engine = memory();
    provision(&engine, &["inventory"]).await;
    let mut source = open(&engine, "inventory", 1).await;
    let publisher = publisher(&engine).await;
    publish(&engine, vec![message("o-1", 1)]).await;
    let leased = ready(&mut source).await.remove(0);
    let op = SettleOp {
        token: leased.token,
        settle: Settle::Ack,
    };
    let receipts = publisher
        .commit(vec![message("o-1", 2)], vec![op])
        .await
        .unwrap();
    assert_eq!(receipts.len(), 1);
    let leased = ready(&mut source).await.remove(0);
    assert_eq!(leased.record.position, 1);

    tokio::time::advance(LEASE * 2).await;
    let again = ready(&mut source).await;
    assert_eq!(numbers(&again), [2]);
    let op = SettleOp {
        token: leased.token,
        settle: Settle::Ack,
    };
    let error = publisher
        .commit(vec![message("o-1", 3)], vec![op])
        .await
        .unwrap_err();
    assert_eq!(
        (error.fault.kind, error.fault.effect),
        (FaultKind::LeaseLost, Effect::NotApplied)
    );
    assert_eq!(
        (error.publish.len(), error.settle.len()),
        (1, 1),
        "everything comes back"
    );
    ack_all(&*source, again).await;
    assert!(
        ready(&mut source).await.is_empty(),
        "the message of the refused commit is not there"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_over_a_limit_is_refused_and_nothing_of_its_key_passes_it() {
    let engine = memory();
    provision(&engine, &["inventory"]).await;
    let publisher = publisher(&engine).await;
    let mut large = message("o-1", 1);
    large.payload = vec![0u8; 17 << 20].into();
    let long_key = message(&"k".repeat(1 << 20), 4);
    let results = publisher
        .publish(vec![large, message("o-1", 2), message("o-2", 3), long_key])
        .await;
    let codes: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().err().and_then(|fault| fault.code))
        .collect();
    assert_eq!(codes[0], Some(Code::PUBLISH_TOO_LARGE));
    assert!(codes[1].is_some() && results[1].as_ref().unwrap_err().effect == Effect::NotApplied);
    assert!(results[2].is_ok());
    assert_eq!(codes[3], Some(Code::PUBLISH_BAD_ENVELOPE));
    let mut source = open(&engine, "inventory", 1).await;
    assert_eq!(numbers(&ready(&mut source).await), [3]);
}

#[tokio::test(start_paused = true)]
async fn a_large_call_keeps_its_order_over_several_commits() {
    let engine = memory();
    provision(&engine, &["inventory"]).await;
    let messages = (1..=9_000).map(|n| message("o-1", n)).collect();
    let receipts = publish(&engine, messages).await;
    assert!(
        receipts
            .iter()
            .enumerate()
            .all(|(at, receipt)| receipt.position == Some(at as u64))
    );
}

#[tokio::test(start_paused = true)]
async fn a_topic_is_made_by_its_first_message_and_a_queue_without_owner_refuses() {
    let engine = memory();
    assert_eq!(
        publish(&engine, vec![message("o-1", 1)]).await[0].subscriptions,
        Some(0)
    );
    let mut command = message("o-1", 2);
    command.destination = queue();
    let fault = publisher(&engine)
        .await
        .publish(vec![command])
        .await
        .remove(0)
        .unwrap_err();
    assert_eq!(
        (fault.kind, fault.code),
        (FaultKind::NoRoute, Some(Code::PUBLISH_NO_ROUTE))
    );
}

#[tokio::test(start_paused = true)]
async fn a_queue_has_one_owner() {
    let engine = memory();
    let need = |service: &str| Topology {
        destinations: Vec::new(),
        subscriptions: vec![SubscriptionNeed {
            id: SubscriptionId::parse(&format!("{service}@queue:payment.charge")).unwrap(),
            ordered: true,
            start: SeekTo::Earliest,
        }],
    };
    engine
        .provision(&need("payment"), ProvisionMode::Create)
        .await
        .unwrap();
    let again = engine
        .provision(&need("payment"), ProvisionMode::Create)
        .await
        .unwrap();
    assert!(again.is_empty(), "{again:?}");
    let fault = engine
        .provision(&need("thief"), ProvisionMode::Migrate)
        .await
        .unwrap_err();
    assert_eq!(fault.code, Some(Code::QUEUE_TWO_OWNERS));
}

#[tokio::test(start_paused = true)]
async fn provisioning_says_what_differs_and_changes_only_what_loses_nothing() {
    let engine = memory();
    let fault = engine
        .provision(&topology(&["inventory"]), ProvisionMode::Check)
        .await
        .unwrap_err();
    assert!(
        fault
            .message
            .contains("missing: topic:shop.order, inventory@topic:shop.order"),
        "{fault}"
    );
    let made = engine
        .provision(&topology(&["inventory"]), ProvisionMode::Create)
        .await
        .unwrap();
    assert_eq!(
        made.created,
        ["topic:shop.order", "inventory@topic:shop.order"]
    );
    let retained = |secs| {
        let destination = DestinationSpec {
            destination: topic(),
            durability: None,
            retain: Duration::from_secs(secs),
        };
        Topology {
            destinations: vec![destination],
            subscriptions: Vec::new(),
        }
    };
    let fault = engine
        .provision(&retained(60), ProvisionMode::Create)
        .await
        .unwrap_err();
    assert_eq!(fault.code, Some(Code::TOPOLOGY_DIFFERS));
    assert_eq!(
        engine
            .provision(&retained(60), ProvisionMode::Migrate)
            .await
            .unwrap()
            .created
            .len(),
        1
    );
    let fault = engine
        .provision(&retained(30), ProvisionMode::Migrate)
        .await
        .unwrap_err();
    assert!(fault.message.contains("retention"), "{fault}");
    let mut unordered = topology(&["inventory"]);
    unordered.destinations.clear();
    unordered.subscriptions[0].ordered = false;
    assert!(
        engine
            .provision(&unordered, ProvisionMode::Migrate)
            .await
            .is_err()
    );
    let unknown = SubscriptionSpec::new(subscription("nobody"), InstanceId(1));
    assert_eq!(
        engine.open(&unknown).await.err().unwrap().kind,
        FaultKind::NotFound
    );
}

#[tokio::test(start_paused = true)]
async fn an_inbox_takes_replies_and_is_gone_with_its_process() {
    let engine = memory();
    let (inbox, source) = engine.inbox(InstanceId(7)).await.unwrap();
    let Source::Lease(mut source) = source else {
        panic!("a lease source")
    };
    let mut reply = message("o-1", 1);
    reply.destination = inbox.clone();
    publish(&engine, vec![reply.clone()]).await;
    let got = ready(&mut source).await;
    assert_eq!(numbers(&got), [1]);
    ack_all(&*source, got).await;
    drop(source);
    reply.envelope.id = id(2);
    let fault = publisher(&engine)
        .await
        .publish(vec![reply])
        .await
        .remove(0)
        .unwrap_err();
    assert_eq!(fault.kind, FaultKind::NoRoute);
}

#[tokio::test(start_paused = true)]
async fn a_topic_is_read_as_a_log_and_a_second_reader_fences_the_first() {
    let engine = memory();
    let retained = DestinationSpec {
        destination: topic(),
        durability: None,
        retain: Duration::from_secs(3600),
    };
    let topology = Topology {
        destinations: vec![retained],
        subscriptions: Vec::new(),
    };
    engine
        .provision(&topology, ProvisionMode::Create)
        .await
        .unwrap();
    publish(&engine, (1..=4).map(|n| message("o-1", n)).collect()).await;
    let mut first = engine
        .log_source(&topic(), "orders-view", InstanceId(1))
        .unwrap();
    let LogEvent::Assigned { at, resume } = first.next(ROOM).await.unwrap() else {
        panic!("assigned first")
    };
    assert_eq!(resume.watermark, Position(0));
    let LogEvent::Records { records, .. } = first.next(ROOM).await.unwrap() else {
        panic!("then records")
    };
    assert_eq!(
        records
            .iter()
            .map(|record| record.position)
            .collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
    let done = Commit {
        watermark: Position(1),
        done_above: vec![(Position(2), 1)],
    };
    first.commit(vec![(at, done.clone())]);
    let LogEvent::Committed(stored) = first.next(ROOM).await.unwrap() else {
        panic!("then what became of the commit")
    };
    assert!(matches!(stored[..], [(one, Ok(()))] if one == at));

    let mut second = engine
        .log_source(&topic(), "orders-view", InstanceId(2))
        .unwrap();
    assert!(matches!(
        first.next(ROOM).await.unwrap(),
        LogEvent::Lost { .. }
    ));
    first.commit(vec![(at, Commit::default())]);
    let LogEvent::Committed(stored) = first.next(ROOM).await.unwrap() else {
        panic!("what became of the commit")
    };
    assert_eq!(stored[0].1.as_ref().unwrap_err().kind, FaultKind::Fenced);
    assert_eq!(first.next(ROOM).await.unwrap_err().kind, FaultKind::Fenced);
    let LogEvent::Assigned { at, resume } = second.next(ROOM).await.unwrap() else {
        panic!("assigned first")
    };
    assert_eq!(
        (resume.watermark, resume.done_above),
        (done.watermark, done.done_above)
    );
    second.seek(at, SeekTo::Latest).await.unwrap();
    publish(&engine, vec![message("o-1", 5)]).await;
    let LogEvent::Records { records, .. } = second.next(ROOM).await.unwrap() else {
        panic!("then records")
    };
    assert_eq!(records[0].position, 4);

    tokio::time::advance(Duration::from_secs(7200)).await;
    publish(&engine, vec![message("o-1", 6)]).await;
    let mut late = engine.log_source(&topic(), "late", InstanceId(3)).unwrap();
    let LogEvent::Assigned { at, .. } = late.next(ROOM).await.unwrap() else {
        panic!("assigned first")
    };
    let LogEvent::DataLoss { asked, first, .. } = late.next(ROOM).await.unwrap() else {
        panic!("then the gap")
    };
    assert_eq!(
        (asked, first),
        (Position(0), Position(5)),
        "never a silent reset"
    );
    let fault = late
        .seek(at, SeekTo::Position(Position(2)))
        .await
        .unwrap_err();
    assert_eq!(
        (fault.kind, fault.code),
        (FaultKind::DataLoss, Some(Code::LOG_TRIMMED))
    );
    assert!(
        engine
            .log_source(&Destination::topic("nothing").unwrap(), "g", InstanceId(1))
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn after_close_everything_answers_closed() {
    let engine = memory();
    provision(&engine, &["inventory"]).await;
    let publisher = publisher(&engine).await;
    let mut source = open(&engine, "inventory", 1).await;
    let waits = tokio::spawn(async move { source.next(ROOM).await.map(|some| some.len()) });
    tokio::task::yield_now().await;
    engine.close(Duration::from_secs(1)).await.unwrap();
    engine.close(Duration::from_secs(1)).await.unwrap();
    assert_eq!(waits.await.unwrap().unwrap_err().kind, FaultKind::Closed);
    let fault = publisher
        .publish(vec![message("o-1", 1)])
        .await
        .remove(0)
        .unwrap_err();
    assert_eq!(
        (fault.kind, fault.effect),
        (FaultKind::Closed, Effect::NotApplied)
    );
}
