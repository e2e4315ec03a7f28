//! Looking into the engine message by message, and moving a subscription; on `memory:` under virtual time.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::browse::{Browse, Browsed, DeliveryState, Kept, Search, SeekHow, Wanted};
use postrider_core::clock::Timestamp;
use postrider_core::engine::{Admin, Engine};
use postrider_core::failure::{Cause, FailureId, Reason, RedriveOutcome, Selection};
use postrider_core::fault::FaultKind;
use postrider_core::id::InstanceId;
use postrider_core::settle::Settle;
use postrider_core::source::{LeaseSource, Position, SeekTo};
use postrider_core::text::Text;
use postrider_embedded::Embedded;
use support::*;

async fn three() -> (Embedded, Box<dyn LeaseSource>, Arc<dyn Admin>) {
    let engine = memory();
    provision(&engine, &["inventory", "audit"]).await;
    let source = open(&engine, "inventory", 1).await;
    publish(
        &engine,
        vec![message("o-1", 1), message("o-2", 2), message("o-1", 3)],
    )
    .await;
    let admin = engine.admin().unwrap();
    (engine, source, admin)
}

fn from(from: SeekTo) -> Browse {
    Browse {
        destination: topic(),
        from,
        limit: 100,
        bytes_max: 1 << 20,
        wait: Duration::ZERO,
    }
}

fn positions(page: &Browsed) -> Vec<u64> {
    page.records.iter().map(|record| record.position).collect()
}

fn reason() -> Reason {
    Reason {
        by: "ann".into(),
        text: "a test".into(),
        at: Timestamp(START_MS),
    }
}

fn state(kept: &Kept, service: &str) -> DeliveryState {
    let id = subscription(service);
    let standing = kept.standings.iter().find(|s| s.subscription == id);
    standing.unwrap().state
}

#[tokio::test(start_paused = true)]
async fn a_page_begins_where_it_is_asked_and_takes_nothing() {
    let (engine, mut source, admin) = three().await;
    let page = admin.browse(from(SeekTo::Earliest)).await.unwrap();
    assert_eq!(
        (positions(&page), page.next, page.end),
        (vec![0, 1, 2], 3, 3)
    );
    let some = Browse {
        limit: 2,
        ..from(SeekTo::Earliest)
    };
    assert_eq!(positions(&admin.browse(some).await.unwrap()), [0, 1]);
    let page = admin
        .browse(from(SeekTo::Position(Position(2))))
        .await
        .unwrap();
    assert_eq!(positions(&page), [2]);
    let of_time = from(SeekTo::Time(Timestamp(START_MS)));
    assert_eq!(positions(&admin.browse(of_time).await.unwrap()), [0, 1, 2]);
    assert_eq!(ready(&mut source).await.len(), 3, "nothing was taken");
    // Whoever waits gets what comes, and an empty page after a while.
    let waits = Browse {
        wait: Duration::from_secs(5),
        ..from(SeekTo::Latest)
    };
    let page = admin.browse(waits.clone()).await.unwrap();
    assert!(page.records.is_empty());
    let coming = async {
        tokio::task::yield_now().await;
        publish(&engine, vec![message("o-3", 4)]).await
    };
    let (page, _) = tokio::join!(admin.browse(waits), coming);
    assert_eq!(positions(&page.unwrap()), [3]);
    let nothing = Browse {
        destination: queue(),
        ..from(SeekTo::Earliest)
    };
    let fault = admin.browse(nothing).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_message_is_found_with_where_it_stands_in_each_subscription() {
    let (engine, mut source, admin) = three().await;
    let leased = ready(&mut source).await;
    let kept = admin.message(&topic(), 0).await.unwrap();
    assert_eq!(state(&kept, "inventory"), DeliveryState::InFlight);
    assert_eq!(state(&kept, "audit"), DeliveryState::Waiting);
    let mut leased = leased.into_iter();
    let (first, second) = (leased.next().unwrap(), leased.next().unwrap());
    let failed = draft(&first, Cause::Permanent);
    settle(&*source, first.token, Settle::Park(failed))
        .await
        .unwrap();
    settle(&*source, second.token, Settle::Ack).await.unwrap();
    let search = |wanted| Search {
        wanted,
        scan_max: 100,
        limit: 10,
    };
    let found = admin.find(search(Wanted::Id(id(1)))).await.unwrap();
    assert!(found.complete);
    assert_eq!(
        state(&found.messages[0], "inventory"),
        DeliveryState::Parked
    );
    assert_eq!(
        found.messages[0].standings.iter().find_map(|s| s.failure),
        Some(FailureId(1))
    );
    let found = admin.find(search(Wanted::Id(id(2)))).await.unwrap();
    assert_eq!(
        state(&found.messages[0], "inventory"),
        DeliveryState::Settled
    );
    let none = admin.find(search(Wanted::Id(id(9)))).await.unwrap();
    assert_eq!(
        (none.messages.len(), none.scanned, none.complete),
        (0, 3, true)
    );
    // A conversation: what began it, and what names it.
    let mut answer = message("o-9", 5);
    answer.envelope.correlation_id = Some(Text::from(id(1).to_string()));
    publish(&engine, vec![answer]).await;
    let flow = Wanted::Correlation(Text::from(id(1).to_string()));
    let found = admin.find(search(flow.clone())).await.unwrap();
    let places: Vec<u64> = found.messages.iter().map(|k| k.record.position).collect();
    assert_eq!(places, [0, 3]);
    let cut = Search {
        scan_max: 2,
        ..search(flow)
    };
    let found = admin.find(cut).await.unwrap();
    assert_eq!((found.scanned, found.complete), (2, false));
    let mut later = message("o-4", 6);
    later.envelope.deliver_at = Some(Timestamp(START_MS + 60_000));
    publish(&engine, vec![later]).await;
    let kept = admin.message(&topic(), 4).await.unwrap();
    assert_eq!(state(&kept, "audit"), DeliveryState::Delayed);
    let fault = admin.message(&topic(), 99).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_seek_counts_what_it_does_refuses_while_messages_are_held_and_keeps_why() {
    let (engine, mut source, admin) = three().await;
    let sub = subscription("inventory");
    let leased = ready(&mut source).await;
    let held = admin
        .seek(&sub, SeekTo::Latest, SeekHow::Do(reason()))
        .await;
    assert_eq!(held.unwrap_err().kind, FaultKind::Conflict);
    ack_all(&*source, leased).await;
    // Handled, and still kept for the other subscription.
    let counted = admin
        .seek(&sub, SeekTo::Earliest, SeekHow::Count)
        .await
        .unwrap();
    assert_eq!((counted.skipped, counted.again, counted.to), (0, 3, 0));
    assert!(ready(&mut source).await.is_empty(), "it was only counted");
    let back = SeekTo::Position(Position(1));
    let sought = admin.seek(&sub, back, SeekHow::Do(reason())).await.unwrap();
    assert_eq!((sought.skipped, sought.again), (0, 2));
    let again = ready(&mut source).await;
    assert_eq!(numbers(&again), [2, 3]);
    ack_all(&*source, again).await;
    let other = subscription("audit");
    let skip = SeekHow::Do(reason());
    let sought = admin.seek(&other, SeekTo::Latest, skip).await.unwrap();
    assert_eq!((sought.skipped, sought.again), (3, 0));
    let depth = admin.depth(&other).await.unwrap();
    assert_eq!(depth.depth, 0);
    // All have settled it, so it is gone, and nobody can go back to it.
    let gone = admin.seek(&sub, SeekTo::Position(Position(0)), SeekHow::Count);
    assert_eq!(gone.await.unwrap_err().kind, FaultKind::DataLoss);
    let audit = engine.failures().unwrap().audit(&other, 10).await.unwrap();
    assert_eq!((audit[0].action.as_str(), audit[0].count), ("seek", 3));
    assert_eq!(audit[0].reason, reason());
    let unknown = subscription("nobody");
    let fault = admin.seek(&unknown, SeekTo::Latest, SeekHow::Count).await;
    assert_eq!(fault.unwrap_err().kind, FaultKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn an_edited_failure_keeps_its_original_also_when_it_fails_again() {
    let (engine, mut source, _) = three().await;
    let store = engine.failures().unwrap();
    let (sub, one) = (subscription("inventory"), FailureId(1));
    let first = ready(&mut source).await.into_iter().next().unwrap();
    let failed = draft(&first, Cause::Permanent);
    settle(&*source, first.token, Settle::DeadLetter(failed))
        .await
        .unwrap();
    let before = store.get(&sub, one).await.unwrap().draft;
    assert_eq!(store.original(&sub, one).await.unwrap(), None);
    let headers = before.raw.headers.clone();
    let body = Bytes::from_static(b"mended \xff");
    store
        .edit(&sub, one, headers.clone(), body.clone(), reason())
        .await
        .unwrap();
    let edited = store.get(&sub, one).await.unwrap().draft;
    assert_eq!(
        (&edited.raw.body, &edited.raw.key),
        (&body, &before.raw.key)
    );
    assert_eq!(edited.facts, before.facts);
    let original = store.original(&sub, one).await.unwrap().unwrap();
    assert_eq!(
        (original.raw, original.reason),
        (before.raw.clone(), reason())
    );
    // On its way it is as it was edited, and cannot be edited.
    store.redrive(&sub, Selection::All, reason()).await.unwrap();
    let again = store
        .edit(&sub, one, headers.clone(), Bytes::new(), reason())
        .await;
    assert_eq!(again.unwrap_err().kind, FaultKind::Conflict);
    let redriven = store
        .claim(&sub, InstanceId(1), 10)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(redriven.record.draft.raw.body, body);
    let outcome = RedriveOutcome::Failed(Box::new(before.facts.clone()));
    store.finish(&sub, redriven.token, outcome).await.unwrap();
    assert_eq!(store.get(&sub, one).await.unwrap().draft.raw.body, body);
    let original = store.original(&sub, one).await.unwrap().unwrap();
    assert_eq!(original.raw, before.raw);
    let huge = Bytes::from(vec![0; 1 << 20]);
    let fault = store.edit(&sub, one, headers, huge, reason()).await;
    assert_eq!(fault.unwrap_err().kind, FaultKind::TooLarge);
    let none = store
        .edit(&sub, FailureId(9), Vec::new(), Bytes::new(), reason())
        .await;
    assert_eq!(none.unwrap_err().kind, FaultKind::NotFound);
    let actions = store.audit(&sub, 10).await.unwrap();
    let actions: Vec<&str> = actions.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["redrive", "edit"]);
}
