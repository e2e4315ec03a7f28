//! The set and the table: never a no for a key that is parked.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering;

use bytes::Bytes;
use postrider_core::carriage::Raw;
use postrider_core::clock::Timestamp;
use postrider_core::failure::{
    Cause, FailureDraft, FailureFacts, FailureStore, Reason, RedriveOutcome, Selection,
};
use postrider_core::fault::FaultKind;
use postrider_core::id::{InstanceId, MessageId};
use postrider_core::name::SubscriptionId;
use postrider_core::store::Store;

use super::*;
use crate::failures::rows;
use crate::{Sqlite, SqliteFailures};

const ME: InstanceId = InstanceId(7);

fn subscription() -> SubscriptionId {
    SubscriptionId::parse("inventory@topic:shop.order").unwrap()
}

fn key(n: u64) -> Bytes {
    Bytes::from(format!("k{n}"))
}

fn draft(n: u64, cause: Cause) -> FailureDraft {
    FailureDraft {
        key: None,
        facts: FailureFacts {
            message_id: Some(MessageId::v7(Timestamp(n), [n, n])),
            message_type: None,
            cause,
            group: "no such item".into(),
            errors: Vec::new(),
            attempts: 1,
            first_seen: Timestamp(n),
            failed_at: Timestamp(n),
            position: n,
        },
        raw: Raw {
            key: None,
            headers: Vec::new(),
            body: Bytes::new(),
        },
    }
}

fn reason() -> Reason {
    Reason {
        by: "ann".into(),
        text: "mended".into(),
        at: Timestamp(1),
    }
}

/// What the table says.
fn truly(store: &Sqlite, key: &Bytes) -> bool {
    let name = subscription().to_string();
    let look = |conn: &rusqlite::Connection| rows::is_parked(conn, &name, key);
    store.look_now(look).unwrap()
}

/// One change by chance, and what became of it.
async fn change(failures: &SqliteFailures, random: u64, n: u64) {
    let subscription = subscription();
    let which = key(random / 8 % 5);
    match random % 8 {
        0 | 1 => {
            let parked = failures.park(&subscription, which, vec![draft(n, Cause::Permanent)]);
            parked.await.unwrap();
        }
        2 | 3 => {
            let was = truly(failures.store(), &which);
            let follower = vec![draft(n, Cause::Follower)];
            let parked = failures.park(&subscription, which.clone(), follower).await;
            let refused = parked.is_err_and(|fault| fault.kind == FaultKind::NotParked);
            assert_eq!(refused, !was);
            assert_eq!(
                failures.is_parked(&subscription, &which),
                was,
                "whoever wants to follow finds out"
            );
        }
        4 => {
            let all = Selection::Key(which);
            failures
                .redrive(&subscription, all, reason())
                .await
                .unwrap();
        }
        5 => {
            let all = Selection::Key(which);
            failures
                .discard(&subscription, all, reason())
                .await
                .unwrap();
        }
        _ => {
            for claimed in failures.claim(&subscription, ME, 2).await.unwrap() {
                let outcome = RedriveOutcome::Done;
                let done = failures.finish(&subscription, claimed.token, outcome);
                done.await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn whatever_happens_a_parked_key_is_never_taken_for_a_free_one() {
    let store = Sqlite::in_memory().unwrap();
    let failures = store.failures();
    failures.open(&subscription()).await.unwrap();
    let mut random: u64 = 1;
    let mut parked = 0;
    for n in 0..3000 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        // Now and then a commit fails, and each of its jobs runs again alone.
        let fails = u64::from(random >> 60 == 0);
        store.shared().fail_commits.store(fails, Ordering::SeqCst);
        change(&failures, random >> 33, n).await;
        if n % 500 == 499 {
            failures.open(&subscription()).await.unwrap();
        }
        for key in (0..5).map(key) {
            let known = store.shared().parked.is_parked(&subscription(), &key);
            let truly = truly(&store, &key);
            parked += u64::from(truly);
            assert!(known.unwrap() || !truly, "{n}: {key:?} is parked");
            assert!(n % 500 != 499 || known == Some(truly), "{n}: {key:?}");
        }
    }
    assert!(parked > 1000, "{parked}");
}

#[tokio::test]
async fn a_key_whose_park_was_not_committed_is_free() {
    let store = Sqlite::in_memory().unwrap();
    let failures = store.failures();
    failures.open(&subscription()).await.unwrap();
    let subscription = subscription();
    let fail_commits = &store.shared().fail_commits;
    fail_commits.store(u64::MAX, Ordering::SeqCst);
    let park = || failures.park(&subscription, key(1), vec![draft(1, Cause::Permanent)]);
    assert!(park().await.is_err());
    assert!(!failures.is_parked(&subscription, &key(1)));
    fail_commits.store(1, Ordering::SeqCst);
    park().await.unwrap();
    assert!(failures.is_parked(&subscription, &key(1)), "the second try");
}

#[tokio::test]
async fn whoever_asks_for_a_key_does_not_wait_for_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let failures = SqliteFailures::open(dir.path().join("f.db")).unwrap();
    failures.open(&subscription()).await.unwrap();
    let free = (subscription(), key(1));
    let parked = vec![draft(1, Cause::Permanent)];
    failures.park(&free.0, key(2), parked).await.unwrap();
    // Nobody can look into the table from now on.
    failures
        .store()
        .close(std::time::Duration::from_secs(10))
        .await
        .unwrap();
    assert!(!failures.is_parked(&free.0, &free.1));
    assert!(failures.is_parked(&free.0, &key(2)));
    let other = SubscriptionId::parse("billing@topic:shop.order").unwrap();
    assert!(
        failures.is_parked(&other, &key(1)),
        "of one that was not opened only the table knows"
    );
}

#[test]
fn more_keys_than_the_limit_are_left_to_the_table() {
    let keys = ParkedKeys::default();
    let id = subscription();
    let opened = |count: usize| Change::Opened((0..count as u64).map(key).collect());
    keys.apply(&mut vec![(id.clone(), opened(KEYS_MAX))]);
    assert_eq!(keys.is_parked(&id, &key(1)), Some(true));
    assert_eq!(keys.is_parked(&id, &"l".into()), Some(false));
    keys.apply(&mut vec![(id.clone(), Change::Parked("l".into()))]);
    assert_eq!(keys.is_parked(&id, &key(1)), None);
    keys.apply(&mut vec![(id.clone(), Change::Freed(key(1)))]);
    assert_eq!(keys.is_parked(&id, &key(1)), None);
    keys.apply(&mut vec![(id.clone(), opened(KEYS_MAX + 1))]);
    assert_eq!(keys.is_parked(&id, &key(1)), None);
    keys.apply(&mut vec![(id.clone(), opened(2))]);
    assert_eq!(keys.is_parked(&id, &key(1)), Some(true));
}
