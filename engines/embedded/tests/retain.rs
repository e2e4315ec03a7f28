//! What all have settled stays for a while where that is asked for, and its space comes back afterwards.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use postrider_core::browse::{DeliveryState, Search, SeekHow, Wanted};
use postrider_core::clock::Timestamp;
use postrider_core::engine::{Engine, Publisher};
use postrider_core::envelope::Outgoing;
use postrider_core::failure::Reason;
use postrider_core::fault::FaultKind;
use postrider_core::source::{Position, SeekTo};
use postrider_embedded::{Embedded, MemoryOptions, Options};
use support::*;

fn reason() -> Reason {
    Reason {
        by: "ann".into(),
        text: "once more".into(),
        at: Timestamp(START_MS),
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_handled_is_found_and_handed_out_again_within_the_retention_and_gone_after_it() {
    let mut options = MemoryOptions::on(TokioClock::new());
    options.retain = Some(Duration::from_secs(60));
    let engine = Embedded::memory(options).unwrap();
    provision(&engine, &["inventory"]).await;
    let mut source = open(&engine, "inventory", 1).await;
    let messages = vec![message("o-1", 1), message("o-2", 2), message("o-1", 3)];
    publish(&engine, messages).await;
    let leased = ready(&mut source).await;
    ack_all(&*source, leased).await;
    let admin = engine.admin().unwrap();
    let kept = admin.message(&topic(), 0).await.unwrap();
    assert_eq!(kept.standings[0].state, DeliveryState::Settled);
    let search = Search {
        wanted: Wanted::Id(id(2)),
        scan_max: 100,
        limit: 10,
    };
    let found = admin.find(search.clone()).await.unwrap();
    assert_eq!(found.messages.len(), 1);
    let sub = subscription("inventory");
    assert_eq!(
        admin.depth(&sub).await.unwrap().depth,
        0,
        "kept is not waiting"
    );
    tokio::time::advance(Duration::from_secs(50)).await;
    let back = SeekTo::Position(Position(1));
    let sought = admin.seek(&sub, back, SeekHow::Do(reason())).await.unwrap();
    assert_eq!((sought.skipped, sought.again), (0, 2));
    let again = ready(&mut source).await;
    assert_eq!(numbers(&again), [2, 3]);
    ack_all(&*source, again).await;
    // From when it was stored, not from when it was handled.
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(ready(&mut source).await.is_empty());
    let gone = admin.message(&topic(), 0).await.unwrap_err();
    assert_eq!(gone.kind, FaultKind::NotFound);
    assert_eq!(admin.find(search).await.unwrap().messages.len(), 0);
    let gone = admin.seek(&sub, back, SeekHow::Count).await.unwrap_err();
    assert_eq!(gone.kind, FaultKind::DataLoss);
}

/// The space of what is kept no longer comes back beside the publisher.
async fn publish_when_there_is_room(publisher: &dyn Publisher, one: Outgoing) {
    let publishing = async {
        while let Err(fault) = publisher.publish(vec![one.clone()]).await.remove(0) {
            assert_eq!(fault.kind, FaultKind::Full, "{fault}");
            tokio::task::yield_now().await;
        }
    };
    let published = tokio::time::timeout(Duration::from_secs(60), publishing).await;
    published.expect("space comes back");
}

/// Publishes so many of 32 KiB and has them handled.
async fn handle(engine: &Embedded, from: u64, count: u64) {
    let mut source = open(engine, "inventory", from).await;
    let publisher = publisher(engine).await;
    for n in from..from + count {
        let mut one = message("o-1", n);
        one.payload = Bytes::from(vec![b'x'; 32 << 10]);
        publish_when_there_is_room(&*publisher, one).await;
        let leased = source.next(ROOM).await.unwrap();
        ack_all(&*source, leased).await;
    }
}

async fn stored(engine: &Embedded) -> u64 {
    let all = engine.admin().unwrap().destinations().await.unwrap();
    let of_topic = all.iter().find(|d| d.destination == topic());
    of_topic.map_or(0, |d| d.messages)
}

#[tokio::test]
async fn bytes_bound_what_is_kept_and_another_opening_changes_or_keeps_it() {
    let data = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.message_bytes_max = 64 << 10;
    options.disk_bytes_max = Some(4 << 20);
    options.retain_bytes = Some(1 << 20);
    let engine = Embedded::open(data.path(), options.clone()).unwrap();
    provision(&engine, &["inventory"]).await;
    // Twice what the disk may hold: it goes on only because the space of the oldest comes back.
    handle(&engine, 1, 256).await;
    let kept = stored(&engine).await;
    assert!(
        (16..=32).contains(&kept),
        "{kept} messages of 32 KiB in 1 MiB"
    );
    engine.close(Duration::from_secs(10)).await.unwrap();
    drop(engine);
    // Nothing is said: it stays as it is.
    options.retain_bytes = None;
    let engine = Embedded::open(data.path(), options.clone()).unwrap();
    provision(&engine, &["inventory"]).await;
    assert_eq!(stored(&engine).await, kept);
    handle(&engine, 1001, 2).await;
    let still = stored(&engine).await;
    assert!((16..=32).contains(&still), "{still}");
    engine.close(Duration::from_secs(10)).await.unwrap();
    drop(engine);
    options.retain = Some(Duration::ZERO);
    let engine = Embedded::open(data.path(), options).unwrap();
    assert_eq!(
        stored(&engine).await,
        0,
        "nothing is kept beyond need any more"
    );
    engine.close(Duration::from_secs(10)).await.unwrap();
}
