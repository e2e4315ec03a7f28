//! The adapter on a real server, where `POSTRIDER_TEST_RABBITMQ_URL` says where one is. What all engines promise together is in the conformance
//! suite; here stands what only this one does.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use postrider_core::code::Code;
use postrider_core::engine::Engine as _;
use postrider_core::fault::{Effect, FaultKind};
use postrider_core::settle::Settle;
use postrider_core::topology::{ProvisionMode, Topology};
use postrider_rabbitmq::RabbitEngine;
use support::*;

#[tokio::test]
async fn provisioning_creates_once_compares_and_never_changes() {
    let Some(space) = space(2) else { return };
    let engine = space.engine().await;
    let wanted = topology("inventory@topic:shop.order", true);
    let missing = engine.provision(&wanted, ProvisionMode::Check).await;
    let fault = missing.unwrap_err();
    assert_eq!(fault.code, Some(Code::TOPOLOGY_DIFFERS));
    assert!(
        fault.message.contains("inventory@topic:shop.order"),
        "{fault}"
    );
    let created = create(&engine, &wanted).await;
    assert_eq!(created, ["topic:shop.order", "inventory@topic:shop.order"]);
    assert!(create(&engine, &wanted).await.is_empty());
    let checked = engine.provision(&wanted, ProvisionMode::Check).await;
    assert!(checked.unwrap().is_empty());
    // The other form of the same subscription.
    let unordered = topology("inventory@topic:shop.order", false);
    let fault = engine
        .provision(&unordered, ProvisionMode::Migrate)
        .await
        .unwrap_err();
    assert!(fault.message.contains("unordered is needed"), "{fault}");
    // Another number of shards is told by the server, before a key goes the wrong way.
    let mut options = space.options();
    options.shards = 3;
    let other = RabbitEngine::connect(&space.server, options).await.unwrap();
    let fault = other
        .provision(&wanted, ProvisionMode::Create)
        .await
        .unwrap_err();
    assert!(fault.message.contains("alternate-exchange"), "{fault}");
    space.clear(&wanted).await;
}

#[tokio::test]
async fn a_queue_has_one_owner() {
    let Some(space) = space(2) else { return };
    let engine = space.engine().await;
    let first = topology("payment@queue:shop.charge", true);
    create(&engine, &first).await;
    let second = topology("stock@queue:shop.charge", true);
    let fault = engine
        .provision(&second, ProvisionMode::Create)
        .await
        .unwrap_err();
    assert_eq!(fault.code, Some(Code::QUEUE_TWO_OWNERS), "{fault}");
    let both = Topology {
        subscriptions: [first.subscriptions.clone(), second.subscriptions].concat(),
        ..first.clone()
    };
    let fault = engine
        .provision(&both, ProvisionMode::Create)
        .await
        .unwrap_err();
    assert_eq!(fault.code, Some(Code::QUEUE_TWO_OWNERS), "{fault}");
    space.clear(&first).await;
}

#[tokio::test]
async fn what_has_nowhere_to_go_is_said_or_found() {
    let Some(space) = space(2) else { return };
    let engine = space.engine().await;
    let command = Topology {
        subscriptions: Vec::new(),
        ..topology("payment@queue:shop.charge", true)
    };
    create(&engine, &command).await;
    let event = Topology {
        subscriptions: Vec::new(),
        ..topology("nobody@topic:shop.order", true)
    };
    create(&engine, &event).await;
    let publisher = engine.publisher().await.unwrap();
    let messages = vec![
        message("queue:shop.charge", "k", 0),
        message("topic:shop.order", "k", 0),
        message("topic:shop.absent", "k", 0),
    ];
    let results = publish(&*publisher, messages).await;
    let fault = results[0].as_ref().unwrap_err();
    assert_eq!(
        (fault.kind, fault.effect),
        (FaultKind::NoRoute, Effect::NotApplied)
    );
    assert!(results[1].is_ok(), "{:?}", results[1]);
    assert_eq!(
        results[2].as_ref().unwrap_err().kind,
        FaultKind::NotFound,
        "an exchange that is not there closes no channel"
    );
    assert_eq!(space.ready("unrouted").await, 1, "it is lost");
    // Once somebody owns the queue, commands go.
    let owned = topology("payment@queue:shop.charge", true);
    create(&engine, &owned).await;
    let results = publish(&*publisher, vec![message("queue:shop.charge", "k", 0)]).await;
    assert_eq!(results[0].as_ref().unwrap().subscriptions, Some(1));
    space.clear(&owned).await;
    space.clear(&event).await;
}

#[tokio::test]
async fn of_a_call_what_is_refused_stops_its_key_alone() {
    let Some(space) = space(2) else { return };
    let mut options = space.options();
    options.message_bytes_max = 2000;
    let engine = RabbitEngine::connect(&space.server, options).await.unwrap();
    let wanted = topology("inventory@topic:shop.order", true);
    create(&engine, &wanted).await;
    let publisher = engine.publisher().await.unwrap();
    let mut messages: Vec<_> = ["a", "b"]
        .into_iter()
        .flat_map(|key| (0..3).map(move |n| message("topic:shop.order", key, n)))
        .collect();
    messages[1].payload = vec![0; 2000].into();
    let results = publish(&*publisher, messages).await;
    let kinds: Vec<_> = results
        .iter()
        .map(|r| r.as_ref().err().map(|f| f.kind))
        .collect();
    use FaultKind::{Conflict, TooLarge};
    assert_eq!(
        kinds,
        [None, Some(TooLarge), Some(Conflict), None, None, None]
    );
    let mut source = open(&engine, "inventory@topic:shop.order", 1, true).await;
    let mut came = texts(&take(&mut *source, 4).await);
    came.sort();
    assert_eq!(came, ["a/0", "b/0", "b/1", "b/2"]);
    drop(source);
    space.clear(&wanted).await;
}

#[tokio::test]
async fn a_cut_connection_is_said_at_once_and_all_comes_again_in_order() {
    let Some(space) = space(1) else { return };
    let near = space.engine().await;
    let wanted = topology("inventory@topic:shop.order", true);
    create(&near, &wanted).await;
    let wire = Wire::to(&space.server).await;
    let far = RabbitEngine::connect(&wire.url, space.options())
        .await
        .unwrap();
    let mut source = open(&far, "inventory@topic:shop.order", 1, true).await;
    let settler = source.settler();
    let publisher = near.publisher().await.unwrap();
    let messages = (0..6)
        .map(|n| message("topic:shop.order", "k", n))
        .collect();
    assert!(
        publish(&*publisher, messages)
            .await
            .iter()
            .all(Result::is_ok)
    );
    let mut held: Vec<_> = take(&mut *source, 4)
        .await
        .into_iter()
        .map(|l| l.token)
        .collect();
    let first = held.remove(0);
    let generation = first.generation;
    assert!(settle(&*settler, [first], || Settle::Ack).await[0].is_ok());
    wire.cut();
    let lost = tokio::time::timeout(SOON, settler.lost()).await.unwrap();
    assert_eq!(lost, [generation]);
    for result in settle(&*settler, held, || Settle::Ack).await {
        assert_eq!(result.unwrap_err().kind, FaultKind::LeaseLost);
    }
    // An acknowledgement that was on its way may be lost with the connection.
    let mut again = take(&mut *source, 5).await;
    if texts(&again)[0] == "k/0" {
        again.extend(take(&mut *source, 1).await);
        again.remove(0);
    }
    assert_eq!(texts(&again), ["k/1", "k/2", "k/3", "k/4", "k/5"]);
    assert_ne!(again[0].token.generation, generation);
    drop(source);
    space.clear(&wanted).await;
}

#[tokio::test]
async fn a_publisher_outlives_its_connection_and_says_what_is_not_known() {
    let Some(space) = space(1) else { return };
    let wire = Wire::to(&space.server).await;
    let engine = RabbitEngine::connect(&wire.url, space.options())
        .await
        .unwrap();
    let wanted = topology("inventory@topic:shop.order", true);
    create(&engine, &wanted).await;
    let publisher = engine.publisher().await.unwrap();
    let mut unknown = 0;
    for round in 0..8 {
        let messages: Vec<_> = (0..200)
            .map(|n| message("topic:shop.order", &format!("k{n}"), round))
            .collect();
        let publishing = publish(&*publisher, messages.clone());
        let cutting = async {
            // Somewhere in the middle.
            for _ in 0..round * 20 {
                tokio::task::yield_now().await;
            }
            wire.cut();
        };
        let (results, ()) = tokio::join!(publishing, cutting);
        let again: Vec<_> = messages
            .into_iter()
            .zip(&results)
            .filter_map(|(message, result)| result.is_err().then_some(message))
            .collect();
        let faults = results.iter().filter_map(|r| r.as_ref().err());
        for fault in faults {
            assert!(fault.is_retriable(), "{fault}");
            unknown += u32::from(fault.effect == Effect::Unknown);
        }
        // What failed is published again, as the relay does.
        let mut left = again;
        while !left.is_empty() {
            let results = publish(&*publisher, left.clone()).await;
            let kept = left.into_iter().zip(&results);
            left = kept.filter_map(|(m, r)| r.is_err().then_some(m)).collect();
        }
    }
    let mut source = open(&engine, "inventory@topic:shop.order", 1, true).await;
    let settler = source.settler();
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 8 * 200 {
        let leased = tokio::time::timeout(SOON, source.next(ROOM)).await;
        let leased = leased.expect("something is missing").unwrap();
        seen.extend(texts(&leased));
        settle(&*settler, leased.into_iter().map(|l| l.token), || {
            Settle::Ack
        })
        .await;
    }
    println!("{unknown} of 1600 had an unknown effect; none is missing");
    drop(source);
    space.clear(&wanted).await;
}

#[tokio::test]
async fn a_member_that_comes_takes_over_without_repeating_anything() {
    const ID: &str = "inventory@topic:shop.order";
    let Some(space) = space(8) else { return };
    let (first, second) = (space.engine().await, space.engine().await);
    let wanted = topology(ID, true);
    create(&first, &wanted).await;
    let publisher = first.publisher().await.unwrap();
    let keys: Vec<String> = (0..40).map(|k| format!("k{k}")).collect();
    let round = |n| {
        let messages = keys.iter().map(|k| message("topic:shop.order", k, n));
        publish(&*publisher, messages.collect())
    };
    let mut one = open(&first, ID, 1, true).await;
    assert!(round(0).await.iter().all(Result::is_ok));
    let held = take(&mut *one, 40).await;
    let mut two = open(&second, ID, 2, true).await;
    // As long as the first holds anything of a queue, the second gets nothing of it.
    assert!(stays_empty(&mut *two, Duration::from_millis(500)).await);
    let (of_one, of_two) = (one.settler(), two.settler());
    let tokens = held.into_iter().map(|l| l.token);
    let answers = settle(&*of_one, tokens, || Settle::Ack).await;
    assert!(answers.iter().all(Result::is_ok));
    let (mut ones, mut twos, mut published) = (Vec::new(), Vec::new(), 0);
    // At the latest when it is there with all its consumers, the second has its share.
    while twos.is_empty() && published < 50 {
        published += 1;
        assert!(round(published).await.iter().all(Result::is_ok));
        let drained = async {
            while ones.len() + twos.len() < 40 * published as usize {
                let (leased, settler, texts_of) = tokio::select! {
                    leased = one.next(ROOM) => (leased.unwrap(), &of_one, &mut ones),
                    leased = two.next(ROOM) => (leased.unwrap(), &of_two, &mut twos),
                };
                texts_of.extend(texts(&leased));
                let tokens = leased.into_iter().map(|l| l.token);
                settle(&**settler, tokens, || Settle::Ack).await;
            }
        };
        assert!(tokio::time::timeout(SOON, drained).await.is_ok());
    }
    let all: std::collections::BTreeSet<_> = ones.iter().chain(&twos).collect();
    assert_eq!(all.len(), 40 * published as usize, "something came twice");
    assert!(!twos.is_empty(), "the second never had anything to do");
    // The second is gone with all that it held: the first has it next.
    assert!(round(99).await.iter().all(Result::is_ok));
    let left = take(&mut *two, 1).await;
    drop(two);
    let again = texts(&take(&mut *one, 40).await);
    assert!(again.contains(&texts(&left)[0]), "{again:?}");
    drop(one);
    space.clear(&wanted).await;
}

#[tokio::test]
async fn what_is_released_comes_again_in_order_and_behind_nothing() {
    let Some((space, engine, wanted)) = provisioned(1, "inventory@topic:shop.order", true).await
    else {
        return;
    };
    let publisher = engine.publisher().await.unwrap();
    let messages = (0..8)
        .map(|n| message("topic:shop.order", "k", n))
        .collect();
    assert!(
        publish(&*publisher, messages)
            .await
            .iter()
            .all(Result::is_ok)
    );
    let mut source = open(&engine, "inventory@topic:shop.order", 1, true).await;
    let settler = source.settler();
    let mut held = take(&mut *source, 4).await;
    // The last first, as the kernel does; the first is still handled meanwhile.
    let released: Vec<_> = held.drain(1..).rev().map(|l| l.token).collect();
    let answers = settle(&*settler, released, || Settle::Release).await;
    assert!(answers.iter().all(Result::is_ok));
    assert!(
        stays_empty(&mut *source, Duration::from_millis(300)).await,
        "something passed what was released"
    );
    let first = held.into_iter().map(|l| l.token);
    assert!(settle(&*settler, first, || Settle::Ack).await[0].is_ok());
    let again = take(&mut *source, 7).await;
    assert_eq!(
        texts(&again),
        ["k/1", "k/2", "k/3", "k/4", "k/5", "k/6", "k/7"]
    );
    drop(source);
    space.clear(&wanted).await;
}

#[tokio::test]
async fn unordered_members_compete_and_what_is_released_comes_again() {
    let Some((space, engine, wanted)) = provisioned(4, "audit@topic:shop.order", false).await
    else {
        return;
    };
    let mut source = open(&engine, "audit@topic:shop.order", 1, false).await;
    assert!(!source.loses_together());
    let publisher = engine.publisher().await.unwrap();
    let messages = (0..10)
        .map(|n| message("topic:shop.order", "k", n))
        .collect();
    assert!(
        publish(&*publisher, messages)
            .await
            .iter()
            .all(Result::is_ok)
    );
    let settler = source.settler();
    let held = take(&mut *source, 10).await;
    let tokens = held.into_iter().map(|l| l.token);
    let answers = settle(&*settler, tokens, || Settle::Release).await;
    assert!(answers.iter().all(Result::is_ok));
    let again = take(&mut *source, 10).await;
    let tokens: Vec<_> = again.into_iter().map(|l| l.token).collect();
    let delayed = || Settle::RetryAfter {
        delay: Duration::from_secs(1),
        attempts: 1,
    };
    let mut tokens = tokens.into_iter();
    let refused = settle(&*settler, tokens.next(), delayed).await;
    assert!(matches!(
        refused[0].as_ref().unwrap_err().kind,
        FaultKind::Unsupported(_)
    ));
    assert!(
        settle(&*settler, tokens, || Settle::Ack)
            .await
            .iter()
            .all(Result::is_ok)
    );
    drop(source);
    space.clear(&wanted).await;
}

#[tokio::test]
async fn a_source_that_closes_while_it_opens_leaves_no_consumer_behind() {
    const ID: &str = "inventory@topic:shop.order";
    let Some((space, engine, wanted)) = provisioned(8, ID, true).await else {
        return;
    };
    // Dropped ever later while it opens: eight queues on eight channels take some milliseconds.
    for round in 0..100 {
        let source = open(&engine, ID, round, true).await;
        let opened = Instant::now();
        while opened.elapsed() < Duration::from_micros(200) * (round as u32 % 50) {
            tokio::task::yield_now().await;
        }
        drop(source);
    }
    let none_left = async {
        while space.consumers(&format!("{ID}#"), 8).await > 0 {
            tokio::task::yield_now().await;
        }
    };
    let left = tokio::time::timeout(SOON, none_left).await;
    assert!(left.is_ok(), "a consumer that nobody reads has a queue");
    space.clear(&wanted).await;
}

#[tokio::test]
async fn the_first_message_after_a_silence_keeps_its_queue_here() {
    const ID: &str = "inventory@topic:shop.order";
    let Some((space, engine, wanted)) = provisioned(1, ID, true).await else {
        return;
    };
    let publisher = engine.publisher().await.unwrap();
    let mut source = open(&engine, ID, 1, true).await;
    let settler = source.settler();
    let mut generations = Vec::new();
    for n in 0..2 {
        publish(&*publisher, vec![message("topic:shop.order", "k", n)]).await;
        let token = take(&mut *source, 1).await.remove(0).token;
        generations.push(token.generation);
        // Longer than messages may wait here for a driver that does not ask.
        assert!(stays_empty(&mut *source, Duration::from_millis(5_500)).await);
        let settled = settle(&*settler, [token], || Settle::Ack).await;
        assert_eq!(settled.len(), 1);
        settled.into_iter().for_each(Result::unwrap);
    }
    assert_eq!(generations[0], generations[1]);
    drop(source);
    space.clear(&wanted).await;
}

#[tokio::test]
async fn a_member_that_does_not_ask_gives_back_what_waits_here() {
    const ID: &str = "audit@topic:shop.order";
    let Some((space, engine, wanted)) = provisioned(1, ID, false).await else {
        return;
    };
    let publisher = engine.publisher().await.unwrap();
    let mut paused = open(&engine, ID, 1, false).await;
    publish(&*publisher, vec![message("topic:shop.order", "k", 0)]).await;
    // It asked once and gave back: a pause.
    let taken = take(&mut *paused, 1).await;
    let tokens = taken.into_iter().map(|l| l.token);
    settle(&*paused.settler(), tokens, || Settle::Release).await;
    let mut other = open(&engine, ID, 2, false).await;
    let taken = take(&mut *other, 1).await;
    assert_eq!(texts(&taken), ["k/0"]);
    drop((paused, other));
    space.clear(&wanted).await;
}

#[tokio::test]
async fn depth_counts_what_is_ready_and_what_this_process_holds() {
    const ID: &str = "inventory@topic:shop.order";
    let Some(space) = space(2) else { return };
    let engine = space.engine().await;
    let admin = engine.admin().unwrap();
    let unknown = admin.depth(&id(ID)).await.unwrap_err();
    assert_eq!(unknown.kind, FaultKind::NotFound);
    let wanted = topology(ID, true);
    create(&engine, &wanted).await;
    let publisher = engine.publisher().await.unwrap();
    let messages = (0..10).map(|n| message("topic:shop.order", &format!("k{n}"), 0));
    for result in publish(&*publisher, messages.collect()).await {
        result.unwrap();
    }
    let depth = admin.depth(&id(ID)).await.unwrap();
    assert_eq!((depth.depth, depth.in_flight), (10, 0));
    let mut source = open(&engine, ID, 1, true).await;
    let taken = take(&mut *source, 10).await;
    let depth = admin.depth(&id(ID)).await.unwrap();
    assert_eq!((depth.depth, depth.in_flight), (10, 10));
    let tokens = taken.into_iter().take(4).map(|l| l.token);
    for result in settle(&*source.settler(), tokens, || Settle::Ack).await {
        result.unwrap();
    }
    let depth = admin.depth(&id(ID)).await.unwrap();
    assert_eq!((depth.depth, depth.in_flight), (6, 6));
    let known = admin.destinations().await.unwrap();
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].subscriptions, [id(ID)]);
    drop(source);
    space.clear(&wanted).await;
}

#[tokio::test]
async fn after_close_everything_answers_closed() {
    let Some((space, engine, wanted)) = provisioned(1, "inventory@topic:shop.order", true).await
    else {
        return;
    };
    let publisher = engine.publisher().await.unwrap();
    let mut source = open(&engine, "inventory@topic:shop.order", 1, true).await;
    engine.close(SOON).await.unwrap();
    engine.close(SOON).await.unwrap();
    let results = publish(&*publisher, vec![message("topic:shop.order", "k", 0)]).await;
    let fault = results[0].as_ref().unwrap_err();
    assert_eq!(
        (fault.kind, fault.effect),
        (FaultKind::Closed, Effect::NotApplied)
    );
    let next = tokio::time::timeout(SOON, source.next(ROOM)).await.unwrap();
    assert_eq!(next.unwrap_err().kind, FaultKind::Closed);
    assert!(engine.publisher().await.is_err());
    space.clear(&wanted).await;
}

#[tokio::test]
async fn a_wrong_password_is_told_at_once_and_not_repeated() {
    let Some(space) = space(1) else { return };
    let uri: lapin::uri::AMQPUri = space.server.parse().unwrap();
    let (host, port) = (&uri.authority.host, uri.authority.port);
    let url = format!("amqp://guest:not-the-secret@{host}:{port}/%2f");
    let error = RabbitEngine::connect(&url, space.options())
        .await
        .unwrap_err();
    assert!(!error.to_string().contains("not-the-secret"), "{error}");
    assert!(error.to_string().contains(host.as_str()), "{error}");
}
