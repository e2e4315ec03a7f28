//! The failure store over the log, on `memory:` under virtual time.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::carriage::Raw;
use postrider_core::clock::Timestamp;
use postrider_core::crash::{Change, CrashNote};
use postrider_core::engine::Engine;
use postrider_core::failure::{
    Cause, FailureDraft, FailureFacts, FailureId, FailureState, FailureStore, KeyState, Reason,
    RedriveOutcome, RedriveToken, Redriven, Selection,
};
use postrider_core::fault::FaultKind;
use postrider_core::id::InstanceId;
use postrider_core::name::SubscriptionId;
use postrider_core::settle::{Settle, SettleOp};
use postrider_core::source::LeaseSource;
use postrider_embedded::Embedded;
use support::*;

const A: InstanceId = InstanceId(1);
const B: InstanceId = InstanceId(2);

fn reason(text: &str) -> Reason {
    Reason {
        by: "ann".into(),
        text: text.into(),
        at: Timestamp(START_MS),
    }
}

fn store(engine: &Embedded) -> Arc<dyn FailureStore> {
    engine.failures().unwrap()
}

/// Three messages of a parked key `o-1` (1, 2, 3) and a dead letter of `o-2` (4).
async fn parked() -> (Embedded, Box<dyn LeaseSource>) {
    let engine = memory();
    provision(&engine, &["inventory"]).await;
    let mut source = open(&engine, "inventory", 1).await;
    let messages = vec![
        message("o-1", 1),
        message("o-1", 2),
        message("o-1", 3),
        message("o-2", 4),
    ];
    publish(&engine, messages).await;
    let leased = ready(&mut source).await;
    let causes = [Cause::RetriesExhausted, Cause::Follower, Cause::Follower];
    let mut leased = leased.into_iter();
    for cause in causes {
        let one = leased.next().unwrap();
        let draft = draft(&one, cause);
        settle(&*source, one.token, Settle::Park(draft))
            .await
            .unwrap();
    }
    let one = leased.next().unwrap();
    let draft = draft(&one, Cause::Permanent);
    settle(&*source, one.token, Settle::DeadLetter(draft))
        .await
        .unwrap();
    (engine, source)
}

fn of(redriven: &[Redriven]) -> Vec<u64> {
    redriven
        .iter()
        .map(|redriven| redriven.record.id.0)
        .collect()
}

fn token(redriven: Redriven) -> RedriveToken {
    redriven.token
}

#[tokio::test(start_paused = true)]
async fn a_failure_keeps_the_original_bytes_and_settles_its_message() {
    let (engine, mut source) = parked().await;
    assert!(
        ready(&mut source).await.is_empty(),
        "recorded and settled in one"
    );
    let store = store(&engine);
    let sub = subscription("inventory");
    let records = store.list(&sub, None, None, 10).await.unwrap();
    let shown: Vec<_> = records
        .iter()
        .map(|record| (record.id.0, record.parked, record.state))
        .collect();
    let waiting = FailureState::Waiting;
    assert_eq!(
        shown,
        [
            (1, true, waiting),
            (2, true, waiting),
            (3, true, waiting),
            (4, false, waiting)
        ]
    );
    let one = store.get(&sub, FailureId(4)).await.unwrap();
    assert_eq!(
        one.draft.raw,
        postrider_core::carriage::write(
            &message("o-2", 4),
            postrider_core::carriage::Carriage::Binary
        )
    );
    assert_eq!(
        (one.draft.facts.cause, one.draft.facts.attempts),
        (Cause::Permanent, 3)
    );
    assert_eq!(
        store
            .list(&sub, Some("card declined"), Some(FailureId(1)), 2)
            .await
            .unwrap()
            .len(),
        2
    );
    let groups = store.groups(None).await.unwrap();
    assert_eq!(
        (groups.len(), groups[0].count, groups[0].sample),
        (1, 4, FailureId(1))
    );
    assert_eq!(groups[0].subscription, sub);
    assert_eq!(
        store.open(&sub).await.unwrap().parked,
        [Bytes::from_static(b"o-1")]
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_behind_a_parked_key_says_so_and_a_follower_of_a_free_key_is_refused() {
    let (engine, mut source) = parked().await;
    publish(&engine, vec![message("o-1", 5), message("o-3", 6)]).await;
    let mut leased = ready(&mut source).await;
    assert_eq!(
        leased.iter().map(|one| one.key_parked).collect::<Vec<_>>(),
        [true, false]
    );
    let free = leased.pop().unwrap();
    let follower = draft(&free, Cause::Follower);
    let fault = settle(&*source, free.token, Settle::Park(follower))
        .await
        .unwrap_err();
    assert_eq!(fault.kind, FaultKind::NotParked);
    let store = store(&engine);
    let follower = |n: u64| FailureDraft {
        key: None,
        facts: FailureFacts {
            message_id: Some(id(n)),
            message_type: None,
            cause: Cause::Follower,
            group: "follower".into(),
            errors: Vec::new(),
            attempts: 0,
            first_seen: Timestamp(1),
            failed_at: Timestamp(1),
            position: n,
        },
        raw: Raw::default(),
    };
    let key = |text: &'static str| Bytes::from_static(text.as_bytes());
    let fault = store
        .park(&subscription("inventory"), key("o-3"), vec![follower(90)])
        .await
        .unwrap_err();
    assert_eq!(fault.kind, FaultKind::NotParked);
    let ids = store
        .park(
            &subscription("inventory"),
            key("o-1"),
            vec![follower(91), follower(91)],
        )
        .await
        .unwrap();
    assert_eq!(
        ids[0], ids[1],
        "the same message from the same place is recorded once"
    );
}

#[tokio::test(start_paused = true)]
async fn redrive_hands_a_parked_key_back_in_order_and_frees_it_with_the_last() {
    let (engine, _source) = parked().await;
    let store = store(&engine);
    let sub = subscription("inventory");
    assert!(
        store.claim(&sub, A, 10).await.unwrap().is_empty(),
        "nothing was marked"
    );
    let marked = store
        .redrive(&sub, Selection::Ids(vec![FailureId(2)]), reason("fixed"))
        .await
        .unwrap();
    assert_eq!(marked, 3, "one record of a parked key brings the key");
    let mut claimed = store.claim(&sub, A, 2).await.unwrap();
    assert_eq!(of(&claimed), [1, 2]);
    assert_eq!(claimed[0].record.state, FailureState::Redriving);
    assert!(
        store.claim(&sub, B, 10).await.unwrap().is_empty(),
        "the key is with another member"
    );
    claimed.extend(store.claim(&sub, A, 10).await.unwrap());
    assert_eq!(of(&claimed), [1, 2, 3]);
    let mut states = Vec::new();
    for redriven in claimed {
        states.push(
            store
                .finish(&sub, token(redriven), RedriveOutcome::Done)
                .await
                .unwrap(),
        );
    }
    assert_eq!(states, [KeyState::Parked, KeyState::Parked, KeyState::Free]);
    assert!(store.open(&sub).await.unwrap().parked.is_empty());
    assert_eq!(store.list(&sub, None, None, 10).await.unwrap().len(), 1);
    let audit = store.audit(&sub, 10).await.unwrap();
    assert_eq!(
        (audit[0].action.as_str(), audit[0].count, &audit[0].reason),
        ("redrive", 3, &reason("fixed"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_redrive_that_fails_again_makes_the_rest_of_its_key_wait() {
    let (engine, mut source) = parked().await;
    let store = store(&engine);
    let sub = subscription("inventory");
    store
        .redrive(
            &sub,
            Selection::Key(Bytes::from_static(b"o-1")),
            reason("fixed"),
        )
        .await
        .unwrap();
    publish(&engine, vec![message("o-1", 7)]).await;
    let late = ready(&mut source).await.remove(0);
    let follower = draft(&late, Cause::Follower);
    settle(&*source, late.token, Settle::Park(follower))
        .await
        .unwrap();
    let claimed = store.claim(&sub, A, 10).await.unwrap();
    assert_eq!(
        of(&claimed),
        [1, 2, 3, 5],
        "what came meanwhile follows its key"
    );
    let mut claimed = claimed.into_iter();
    let first = claimed.next().unwrap();
    let mut facts = first.record.draft.facts.clone();
    facts.group = "still declined".into();
    facts.attempts = 9;
    let outcome = RedriveOutcome::Failed(Box::new(facts));
    assert_eq!(
        store.finish(&sub, first.token, outcome).await.unwrap(),
        KeyState::Parked
    );
    for rest in claimed {
        store
            .finish(&sub, rest.token, RedriveOutcome::Released)
            .await
            .unwrap();
    }
    assert!(store.claim(&sub, A, 10).await.unwrap().is_empty());
    let first = store.get(&sub, FailureId(1)).await.unwrap();
    assert_eq!(
        (first.state, first.redrives, first.draft.facts.attempts),
        (FailureState::Waiting, 1, 9)
    );
    assert_eq!(store.groups(Some(&sub)).await.unwrap().len(), 2);
    assert_eq!(
        store
            .redrive(&sub, Selection::All, reason("now"))
            .await
            .unwrap(),
        5
    );
    assert_eq!(
        of(&store.claim(&sub, A, 10).await.unwrap()),
        [1, 2, 3, 4, 5]
    );
}

#[tokio::test(start_paused = true)]
async fn claims_of_a_member_that_is_gone_return() {
    let (engine, source) = parked().await;
    let store = store(&engine);
    let sub = subscription("inventory");
    store
        .redrive(&sub, Selection::All, reason("fixed"))
        .await
        .unwrap();
    let mut claimed = store.claim(&sub, A, 10).await.unwrap();
    assert_eq!(of(&claimed), [1, 2, 3, 4]);
    let waits = {
        let (store, sub) = (Arc::clone(&store), sub.clone());
        tokio::spawn(async move { store.changed(&sub).await })
    };
    tokio::task::yield_now().await;
    assert!(!waits.is_finished());
    drop(source);
    waits.await.unwrap();
    assert_eq!(of(&store.claim(&sub, B, 10).await.unwrap()), [1, 2, 3, 4]);
    let fault = store
        .finish(&sub, token(claimed.remove(0)), RedriveOutcome::Done)
        .await
        .unwrap_err();
    assert_eq!(fault.fault.kind, FaultKind::LeaseLost);
}

#[tokio::test(start_paused = true)]
async fn claims_of_a_member_that_goes_while_its_process_lives_are_given_back() {
    let (engine, _source) = parked().await;
    let store = store(&engine);
    let sub = subscription("inventory");
    store
        .redrive(&sub, Selection::All, reason("fixed"))
        .await
        .unwrap();
    let mut lost = store.claim(&sub, A, 10).await.unwrap();
    assert_eq!(of(&lost), [1, 2, 3, 4]);
    store.release_claims(&sub, B).await.unwrap();
    assert!(store.claim(&sub, B, 10).await.unwrap().is_empty());
    store.release_claims(&sub, A).await.unwrap();
    let taken = store.claim(&sub, B, 10).await.unwrap();
    assert_eq!(of(&taken), [1, 2, 3, 4]);
    let lost = token(lost.remove(0));
    let (id, generation) = (lost.id, lost.generation);
    let error = store
        .finish(&sub, lost, RedriveOutcome::Done)
        .await
        .unwrap_err();
    assert_eq!(error.fault.kind, FaultKind::LeaseLost);
    assert_eq!(
        (error.token.id, error.token.generation),
        (id, generation),
        "the token comes back"
    );
    let nobody = subscription("nobody");
    store.release_claims(&nobody, A).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_released_claim_is_handed_out_again() {
    let (engine, _source) = parked().await;
    let store = store(&engine);
    let sub = subscription("inventory");
    store
        .redrive(&sub, Selection::Ids(vec![FailureId(4)]), reason("fixed"))
        .await
        .unwrap();
    let claimed = store.claim(&sub, A, 10).await.unwrap().remove(0);
    assert_eq!(
        store
            .finish(&sub, claimed.token, RedriveOutcome::Released)
            .await
            .unwrap(),
        KeyState::Free
    );
    assert_eq!(of(&store.claim(&sub, B, 10).await.unwrap()), [4]);
}

#[tokio::test(start_paused = true)]
async fn discarding_the_failed_record_leaves_its_followers_redrivable() {
    let (engine, _source) = parked().await;
    let store = store(&engine);
    let sub = subscription("inventory");
    assert_eq!(
        store
            .discard(&sub, Selection::Ids(vec![FailureId(1)]), reason("void"))
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        store
            .redrive(&sub, Selection::Ids(vec![FailureId(3)]), reason("go"))
            .await
            .unwrap(),
        2
    );
    let on_its_way = store
        .discard(&sub, Selection::Ids(vec![FailureId(2)]), reason("void"))
        .await
        .unwrap();
    assert_eq!(on_its_way, 0, "what is on its way back is not removed");
    let group = Selection::Group("card declined".into());
    assert_eq!(store.discard(&sub, group, reason("void")).await.unwrap(), 1);
    let actions: Vec<_> = store
        .audit(&sub, 2)
        .await
        .unwrap()
        .into_iter()
        .map(|entry| (entry.action, entry.count))
        .collect();
    assert_eq!(
        actions,
        [("discard".to_owned(), 1), ("redrive".to_owned(), 2)]
    );
    let unknown = store
        .redrive(&subscription("nobody"), Selection::All, reason("x"))
        .await
        .unwrap_err();
    assert_eq!(unknown.kind, FaultKind::NotFound);
    assert_eq!(
        store.get(&sub, FailureId(99)).await.unwrap_err().kind,
        FaultKind::NotFound
    );
}

#[tokio::test(start_paused = true)]
async fn failures_of_another_engines_subscription_have_a_home_here() {
    let (engine, source) = parked().await;
    let store = store(&engine);
    let elsewhere = SubscriptionId::parse("billing@topic:kafka.orders").unwrap();
    assert_eq!(store.open(&elsewhere).await.unwrap(), Default::default());
    let note = CrashNote {
        life: InstanceId(3),
        explained: Vec::new(),
        changes: vec![(id(5), Change::Begin)],
    };
    let crash = store.note_crash(&elsewhere, note).await.unwrap();
    assert_eq!(crash.watched.len(), 1);
    let mut draft = source_draft();
    draft.facts.position = 17;
    let first = store.append(&elsewhere, vec![draft.clone()]).await.unwrap();
    assert_eq!(
        store.append(&elsewhere, vec![draft.clone()]).await.unwrap(),
        first,
        "appending again makes no second"
    );
    draft.facts.position = 18;
    assert_ne!(
        store.append(&elsewhere, vec![draft]).await.unwrap(),
        first,
        "the same id elsewhere is another failure"
    );
    assert_eq!(store.open(&elsewhere).await.unwrap().crash, crash);
    let groups = store.groups(None).await.unwrap();
    assert!(
        groups
            .iter()
            .any(|group| group.subscription == elsewhere && group.count == 2)
    );
    let destinations = engine.admin().unwrap().destinations().await.unwrap();
    assert_eq!(destinations.len(), 1, "and no topic of that name here");
    drop(source);
}

fn source_draft() -> FailureDraft {
    FailureDraft {
        key: Some(Bytes::from_static(b"o-9")),
        facts: FailureFacts {
            message_id: Some(id(9)),
            message_type: Some("placed".into()),
            cause: Cause::Permanent,
            group: "gone".into(),
            errors: vec!["gone".into()],
            attempts: 1,
            first_seen: Timestamp(1),
            failed_at: Timestamp(2),
            position: 1,
        },
        raw: Raw {
            key: None,
            headers: vec![(Bytes::from_static(b"\xff"), Bytes::new())],
            body: Bytes::from_static(b"raw"),
        },
    }
}

#[tokio::test(start_paused = true)]
async fn closing_wakes_whoever_waits_for_claims() {
    let (engine, _source) = parked().await;
    let store = store(&engine);
    let sub = subscription("inventory");
    let waits = tokio::spawn(async move { store.changed(&sub).await });
    tokio::task::yield_now().await;
    engine.close(Duration::from_secs(1)).await.unwrap();
    waits.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_parked_behind_a_message_that_was_lost() {
    let engine = memory();
    provision(&engine, &["inventory"]).await;
    let mut source = open(&engine, "inventory", 1).await;
    publish(&engine, (1..=4).map(|n| message("o-1", n)).collect()).await;
    let leased = ready(&mut source).await;
    let causes = [
        Cause::RetriesExhausted,
        Cause::Follower,
        Cause::Follower,
        Cause::Follower,
    ];
    let mut ops: Vec<SettleOp> = leased
        .into_iter()
        .zip(causes)
        .map(|(one, cause)| SettleOp {
            settle: Settle::Park(draft(&one, cause)),
            token: one.token,
        })
        .collect();
    // The lease of the second is one that was given out before.
    ops[1].token.generation += 1000;
    let results = source.settler().settle(ops).await;
    let lost: Vec<bool> = results.iter().map(Result::is_err).collect();
    assert_eq!(lost, [false, true, true, true]);
    for result in results.into_iter().skip(1) {
        assert_eq!(result.unwrap_err().fault.kind, FaultKind::LeaseLost);
    }
    let parked = store(&engine)
        .list(&subscription("inventory"), None, None, 10)
        .await
        .unwrap();
    assert_eq!(parked.len(), 1, "the first alone");
}
