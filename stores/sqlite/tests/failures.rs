//! The failure store's contract.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use postrider_core::crash::{Change, CrashNote};
use postrider_core::failure::{
    Cause, CrashState, FailureId, FailureRecord, FailureState, FailureStore, KeyState,
    RedriveOutcome, RedriveToken, Redriven, Selection,
};
use postrider_core::fault::FaultKind;
use postrider_core::id::InstanceId;
use postrider_core::name::SubscriptionId;
use postrider_sqlite::{Sqlite, SqliteFailures};
use proptest::prelude::*;
use support::*;

const ME: InstanceId = InstanceId(u64::MAX);
const OTHER: InstanceId = InstanceId(2);

fn store() -> SqliteFailures {
    Sqlite::in_memory().unwrap().failures()
}

fn key(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// Parks message `head` and the followers after it.
async fn park(
    store: &SqliteFailures,
    k: &'static str,
    head: u64,
    followers: &[u64],
) -> Vec<FailureId> {
    let mut drafts = vec![failure(head, false)];
    drafts.extend(followers.iter().map(|n| failure(*n, true)));
    store.park(&subscription(), key(k), drafts).await.unwrap()
}

async fn redrive_all(store: &SqliteFailures) -> u64 {
    store
        .redrive(&subscription(), Selection::All, reason())
        .await
        .unwrap()
}

async fn claim(store: &SqliteFailures, member: InstanceId, room: u32) -> Vec<Redriven> {
    store.claim(&subscription(), member, room).await.unwrap()
}

async fn finish(store: &SqliteFailures, token: RedriveToken, outcome: RedriveOutcome) -> KeyState {
    store.finish(&subscription(), token, outcome).await.unwrap()
}

async fn all(store: &SqliteFailures) -> Vec<FailureRecord> {
    store.list(&subscription(), None, None, 1000).await.unwrap()
}

fn ids(taken: &[Redriven]) -> Vec<u64> {
    taken.iter().map(|r| r.record.id.0).collect()
}

fn failed(n: u64) -> RedriveOutcome {
    RedriveOutcome::Failed(Box::new(failure(n, false).facts))
}

#[tokio::test]
async fn a_record_keeps_the_original_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.db");
    let store = SqliteFailures::open(&path).unwrap();
    let mut draft = failure(1, false);
    draft.key = Some(key("o-1"));
    draft.facts.position = u64::MAX;
    let mut unreadable = failure(2, false);
    unreadable.facts.message_id = None;
    unreadable.facts.cause = Cause::Unreadable;
    unreadable.raw.key = None;
    let appended = store
        .append(&subscription(), vec![draft.clone(), unreadable.clone()])
        .await
        .unwrap();
    drop(store);
    let store = SqliteFailures::open(&path).unwrap();
    let first = store.get(&subscription(), appended[0]).await.unwrap();
    assert_eq!(first.draft, draft);
    assert_eq!(
        (first.state, first.parked, first.redrives),
        (FailureState::Waiting, false, 0)
    );
    assert_eq!(first.subscription, subscription());
    let second = store.get(&subscription(), appended[1]).await.unwrap();
    assert_eq!(second.draft, unreadable);
    let page = store
        .list(&subscription(), Some("no such item"), Some(appended[0]), 10)
        .await;
    assert_eq!(page.unwrap().len(), 1);
}

#[tokio::test]
async fn appending_again_makes_no_second_record() {
    let store = store();
    let first = park(&store, "k", 1, &[2]).await;
    let again = park(&store, "k", 1, &[2, 3]).await;
    assert_eq!(first, again[..2]);
    let mut nameless = failure(9, false);
    nameless.facts.message_id = None;
    let mut other_shard = nameless.clone();
    other_shard.raw.body = Bytes::from_static(b"another");
    let drafts = vec![nameless.clone(), other_shard, nameless];
    let three = store.append(&subscription(), drafts).await.unwrap();
    assert_eq!(three[0], three[2]);
    assert_ne!(three[0], three[1]);
    assert_eq!(all(&store).await.len(), 5);
    // The same position and id of another subscription is another failure.
    let other = SubscriptionId::parse("audit@topic:shop.order").unwrap();
    store.append(&other, vec![failure(1, false)]).await.unwrap();
    assert_eq!(all(&store).await.len(), 5);
}

#[tokio::test]
async fn a_parked_key_is_redriven_whole_and_in_order() {
    let store = store();
    let k = park(&store, "k", 1, &[2, 3]).await;
    let l = park(&store, "l", 4, &[]).await;
    let later = store
        .park(&subscription(), key("k"), vec![failure(5, true)])
        .await
        .unwrap();
    let open = store.open(&subscription()).await.unwrap();
    assert_eq!(open.parked, [key("k"), key("l")]);
    // One follower is meant; its key goes with it, and no other.
    let marked = store
        .redrive(&subscription(), Selection::Ids(vec![k[1]]), reason())
        .await
        .unwrap();
    assert_eq!(marked, 4);
    let taken = claim(&store, ME, 2).await;
    assert_eq!(ids(&taken), [k[0].0, k[1].0]);
    assert_eq!(taken[0].record.draft.raw, failure(1, false).raw);
    assert!(taken[0].record.parked);
    // Another member gets nothing of a key that is held.
    assert!(claim(&store, OTHER, 10).await.is_empty());
    let rest = claim(&store, ME, 10).await;
    assert_eq!(ids(&rest), [k[2].0, later[0].0]);
    let mut states = Vec::new();
    for redriven in taken.into_iter().chain(rest) {
        states.push(finish(&store, redriven.token, RedriveOutcome::Done).await);
    }
    assert_eq!(
        states,
        [
            KeyState::Parked,
            KeyState::Parked,
            KeyState::Parked,
            KeyState::Free
        ]
    );
    assert_eq!(
        store.open(&subscription()).await.unwrap().parked,
        [key("l")]
    );
    assert_eq!(all(&store).await[0].id, l[0]);
}

#[tokio::test]
async fn a_follower_of_a_key_that_is_free_is_refused() {
    let store = store();
    let follower = || vec![failure(2, true)];
    let refused = store
        .park(&subscription(), key("k"), follower())
        .await
        .unwrap_err();
    assert_eq!(refused.kind, FaultKind::NotParked);
    park(&store, "k", 1, &[]).await;
    redrive_all(&store).await;
    let taken = claim(&store, ME, 10).await;
    // One that comes meanwhile joins, so that the key becomes free in the end.
    store
        .park(&subscription(), key("k"), follower())
        .await
        .unwrap();
    for redriven in taken {
        assert_eq!(
            finish(&store, redriven.token, RedriveOutcome::Done).await,
            KeyState::Parked
        );
    }
    for redriven in claim(&store, ME, 10).await {
        assert_eq!(
            finish(&store, redriven.token, RedriveOutcome::Done).await,
            KeyState::Free
        );
    }
    let refused = store
        .park(&subscription(), key("k"), vec![failure(3, true)])
        .await
        .unwrap_err();
    assert_eq!(refused.kind, FaultKind::NotParked);
    assert!(all(&store).await.is_empty());
}

#[tokio::test]
async fn one_that_fails_again_takes_the_rest_of_its_key_back() {
    let store = store();
    park(&store, "k", 1, &[2, 3]).await;
    redrive_all(&store).await;
    let mut taken = claim(&store, ME, 2).await;
    let second = taken.pop().unwrap();
    let first = taken.pop().unwrap();
    assert_eq!(
        finish(&store, first.token, failed(11)).await,
        KeyState::Parked
    );
    let now = all(&store).await;
    assert!(now.iter().all(|r| r.state == FailureState::Waiting));
    assert_eq!((now[0].redrives, now[0].draft.facts.failed_at.0), (1, 1011));
    assert!(claim(&store, ME, 10).await.is_empty());
    // Redriven at once: the second is still out, so the first waits for it to come back.
    redrive_all(&store).await;
    assert!(claim(&store, ME, 10).await.is_empty());
    assert_eq!(
        finish(&store, second.token, RedriveOutcome::Released).await,
        KeyState::Parked
    );
    let again = claim(&store, ME, 10).await;
    assert_eq!(again.len(), 3);
    assert!(ids(&again).is_sorted());
}

#[tokio::test]
async fn discard_keeps_followers_and_what_is_on_its_way() {
    let store = store();
    let k = park(&store, "k", 1, &[2]).await;
    let whose = subscription();
    let discard = |which| store.discard(&whose, which, reason());
    assert_eq!(discard(Selection::Ids(vec![k[0]])).await.unwrap(), 1);
    assert_eq!(
        store.open(&subscription()).await.unwrap().parked,
        [key("k")]
    );
    assert_eq!(redrive_all(&store).await, 1);
    assert_eq!(discard(Selection::All).await.unwrap(), 0);
    let taken = claim(&store, ME, 10).await;
    assert_eq!(ids(&taken), [k[1].0]);
    assert_eq!(discard(Selection::Key(key("k"))).await.unwrap(), 0);
    for redriven in taken {
        finish(&store, redriven.token, failed(2)).await;
    }
    assert_eq!(
        discard(Selection::Group("no such item".into()))
            .await
            .unwrap(),
        1
    );
    assert!(store.open(&subscription()).await.unwrap().parked.is_empty());
}

#[tokio::test]
async fn every_reason_is_kept() {
    let store = store();
    park(&store, "k", 1, &[2]).await;
    redrive_all(&store).await;
    for redriven in claim(&store, ME, 1).await {
        finish(&store, redriven.token, failed(1)).await;
    }
    let mut why = reason();
    why.text = "obsolete".into();
    store
        .discard(&subscription(), Selection::All, why.clone())
        .await
        .unwrap();
    let audit = store.audit(&subscription(), 10).await.unwrap();
    let said: Vec<_> = audit
        .iter()
        .map(|a| (&a.action[..], a.count, &a.reason))
        .collect();
    assert_eq!(said, [("discard", 2, &why), ("redrive", 2, &reason())]);
    assert_eq!(store.audit(&subscription(), 1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn whoever_asks_is_told_that_a_key_is_parked() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteFailures::open(dir.path().join("f.db")).unwrap();
    let key = |text: &'static str| bytes::Bytes::from_static(text.as_bytes());
    assert!(!store.is_parked(&subscription(), &key("k")));
    park(&store, "k", 1, &[]).await;
    assert!(store.is_parked(&subscription(), &key("k")));
    assert!(!store.is_parked(&subscription(), &key("l")));
    redrive_all(&store).await;
    assert!(store.is_parked(&subscription(), &key("k")));
    let claimed = claim(&store, ME, 10).await.remove(0);
    let done = RedriveOutcome::Done;
    store
        .finish(&subscription(), claimed.token, done)
        .await
        .unwrap();
    assert!(!store.is_parked(&subscription(), &key("k")));
}

#[tokio::test]
async fn claims_of_a_member_that_is_gone_are_handed_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.db");
    let store = SqliteFailures::open(&path).unwrap();
    park(&store, "k", 1, &[2]).await;
    redrive_all(&store).await;
    let lost = claim(&store, ME, 10).await;
    assert_eq!(lost.len(), 2);
    assert!(claim(&store, OTHER, 10).await.is_empty());
    // Gone within the process.
    store.release_claims(&subscription(), OTHER).await.unwrap();
    assert!(claim(&store, OTHER, 10).await.is_empty());
    store.release_claims(&subscription(), ME).await.unwrap();
    let taken = claim(&store, OTHER, 10).await;
    assert_eq!(ids(&taken), ids(&lost));
    for redriven in lost {
        let late = store
            .finish(&subscription(), redriven.token, RedriveOutcome::Done)
            .await;
        assert_eq!(late.unwrap_err().fault.kind, FaultKind::LeaseLost);
    }
    // Gone with its process.
    drop(store);
    let store = SqliteFailures::open(&path).unwrap();
    store.changed(&subscription()).await;
    let again = claim(&store, ME, 10).await;
    assert_eq!(ids(&again), ids(&taken));
    for redriven in taken {
        let late = store
            .finish(&subscription(), redriven.token, RedriveOutcome::Done)
            .await;
        assert_eq!(late.unwrap_err().fault.kind, FaultKind::LeaseLost);
    }
}

#[tokio::test]
async fn a_waiting_member_wakes_when_something_is_redriven() {
    let store = store();
    park(&store, "k", 1, &[]).await;
    let waiting = store.clone();
    let member = tokio::spawn(async move {
        loop {
            let taken = claim(&waiting, ME, 1).await;
            if !taken.is_empty() {
                return taken.len();
            }
            waiting.changed(&subscription()).await;
        }
    });
    tokio::task::yield_now().await;
    redrive_all(&store).await;
    assert_eq!(member.await.unwrap(), 1);
}

#[tokio::test]
async fn crash_states_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.db");
    let note = CrashNote {
        life: InstanceId(3),
        explained: Vec::new(),
        changes: vec![(id(1), Change::Begin), (id(2), Change::Begin)],
    };
    let store = SqliteFailures::open(&path).unwrap();
    assert_eq!(
        store.open(&subscription()).await.unwrap().crash,
        CrashState::default()
    );
    let state = store.note_crash(&subscription(), note).await.unwrap();
    assert_eq!(state.watched.len(), 2);
    drop(store);
    let store = SqliteFailures::open(&path).unwrap();
    assert_eq!(store.open(&subscription()).await.unwrap().crash, state);
    let next = CrashNote {
        life: InstanceId(4),
        explained: Vec::new(),
        changes: vec![(id(1), Change::Begin)],
    };
    let state = store.note_crash(&subscription(), next).await.unwrap();
    let deaths: Vec<u32> = state.watched.iter().map(|w| w.deaths).collect();
    assert_eq!(deaths, [0, 1], "the process before died with it");
}

#[tokio::test]
async fn groups_count_by_cause_and_text() {
    let store = store();
    park(&store, "k", 1, &[2, 3]).await;
    let other = SubscriptionId::parse("audit@topic:shop.order").unwrap();
    store.append(&other, vec![failure(1, false)]).await.unwrap();
    let mine = store.groups(Some(&subscription())).await.unwrap();
    let said: Vec<_> = mine
        .iter()
        .map(|g| (&g.group[..], g.cause, g.count))
        .collect();
    assert_eq!(
        said,
        [
            ("behind a parked key", Cause::Follower, 2),
            ("no such item", Cause::Permanent, 1)
        ]
    );
    assert_eq!((mine[0].first.0, mine[0].last.0), (1002, 1003));
    assert_eq!(store.groups(None).await.unwrap().len(), 3);
}

#[tokio::test]
async fn what_is_not_known_is_not_found() {
    let store = store();
    let s = subscription();
    let kinds = [
        store.get(&s, FailureId(1)).await.unwrap_err().kind,
        store.list(&s, None, None, 1).await.unwrap_err().kind,
        store
            .redrive(&s, Selection::All, reason())
            .await
            .unwrap_err()
            .kind,
        store
            .discard(&s, Selection::All, reason())
            .await
            .unwrap_err()
            .kind,
        store.audit(&s, 1).await.unwrap_err().kind,
    ];
    assert_eq!(kinds, [FaultKind::NotFound; 5]);
    store.open(&s).await.unwrap();
    assert!(all(&store).await.is_empty());
    assert_eq!(
        store.get(&s, FailureId(1)).await.unwrap_err().kind,
        FaultKind::NotFound
    );
}

#[derive(Clone, Debug)]
enum Op {
    Park { key: usize, follower: bool },
    Append,
    Redrive(Option<usize>),
    Discard(Option<usize>),
    Claim { member: u64, room: u32 },
    Finish { nth: usize, how: u8 },
    Forget(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..3_usize, any::<bool>()).prop_map(|(key, follower)| Op::Park { key, follower }),
        1 => Just(Op::Append),
        2 => proptest::option::of(0..3_usize).prop_map(Op::Redrive),
        1 => proptest::option::of(0..3_usize).prop_map(Op::Discard),
        4 => (0..2_u64, 1..4_u32).prop_map(|(member, room)| Op::Claim { member, room }),
        5 => (0..8_usize, 0..4_u8).prop_map(|(nth, how)| Op::Finish { nth, how }),
        1 => (0..2_u64).prop_map(Op::Forget),
    ]
}

const KEYS: [&str; 3] = ["a", "b", "c"];

/// What must hold, from what was told: a record is a number, the key that it is parked under, and whether it waits.
#[derive(Default)]
struct Model {
    records: BTreeMap<u64, (Option<usize>, bool)>,
    held: Vec<(u64, Redriven)>,
    next: u64,
}

impl Model {
    fn of_key(&self, key: usize) -> Vec<u64> {
        let mine = |r: &&u64| self.records[*r].0 == Some(key);
        self.records.keys().filter(mine).copied().collect()
    }

    fn selected(&self, key: Option<usize>) -> Vec<u64> {
        key.map_or_else(
            || self.records.keys().copied().collect(),
            |k| self.of_key(k),
        )
    }

    fn is_held(&self, id: u64) -> bool {
        self.held.iter().any(|(_, r)| r.record.id.0 == id)
    }

    fn selection(key: Option<usize>) -> Selection {
        key.map_or(Selection::All, |k| Selection::Key(key_of(k)))
    }

    async fn apply(&mut self, store: &SqliteFailures, op: Op) {
        let s = subscription();
        self.next += 1;
        match op {
            Op::Park { key, follower } => {
                let end = store
                    .park(&s, key_of(key), vec![failure(self.next, follower)])
                    .await;
                let before = self.of_key(key);
                match end {
                    Ok(ids) => {
                        assert!(
                            !follower || !before.is_empty(),
                            "a follower of a free key was kept"
                        );
                        let last_goes = before.last().is_some_and(|id| !self.records[id].1);
                        self.records
                            .insert(ids[0].0, (Some(key), !(follower && last_goes)));
                    }
                    Err(fault) => {
                        assert_eq!(fault.kind, FaultKind::NotParked);
                        assert!(follower && before.is_empty());
                    }
                }
            }
            Op::Append => {
                let ids = store
                    .append(&s, vec![failure(self.next, false)])
                    .await
                    .unwrap();
                self.records.insert(ids[0].0, (None, true));
            }
            Op::Redrive(key) => {
                let marked = store
                    .redrive(&s, Self::selection(key), reason())
                    .await
                    .unwrap();
                let mut count = 0;
                for id in self.selected(key) {
                    count += u64::from(std::mem::replace(
                        &mut self.records.get_mut(&id).unwrap().1,
                        false,
                    ));
                }
                assert_eq!(marked, count);
            }
            Op::Discard(key) => {
                let removed = store
                    .discard(&s, Self::selection(key), reason())
                    .await
                    .unwrap();
                let gone: Vec<u64> = self
                    .selected(key)
                    .into_iter()
                    .filter(|id| self.records[id].1 && !self.is_held(*id))
                    .collect();
                assert_eq!(removed, gone.len() as u64);
                self.records.retain(|id, _| !gone.contains(id));
            }
            Op::Claim { member, room } => {
                let taken = claim(store, InstanceId(member), room).await;
                assert!(taken.len() <= room as usize);
                for redriven in taken {
                    self.check_taken(member, &redriven);
                    self.held.push((member, redriven));
                }
            }
            Op::Finish { nth, how } => {
                if nth < self.held.len() {
                    let (_, redriven) = self.held.remove(nth);
                    self.finish(store, redriven, how).await;
                }
            }
            Op::Forget(member) => {
                let member = InstanceId(member);
                store.release_claims(&subscription(), member).await.unwrap();
                let member = member.0;
                self.held.retain(|(m, _)| *m != member);
            }
        }
    }

    /// Marked, held by nobody, and with its key: nothing before it is left behind, nothing after it is out.
    fn check_taken(&self, member: u64, redriven: &Redriven) {
        let id = redriven.record.id.0;
        let (key, waits) = self.records[&id];
        assert!(!waits && !self.is_held(id));
        let Some(key) = key else { return };
        for other in self.of_key(key) {
            let holder = self.held.iter().find(|(_, r)| r.record.id.0 == other);
            assert!(
                holder.is_none_or(|(m, _)| *m == member),
                "a key went to two members"
            );
            assert!(other >= id || holder.is_some(), "{id} passed {other}");
            assert!(other <= id || holder.is_none(), "{id} came behind {other}");
        }
    }

    async fn finish(&mut self, store: &SqliteFailures, redriven: Redriven, how: u8) {
        let id = redriven.record.id.0;
        let outcome = match how {
            0 | 1 => RedriveOutcome::Done,
            2 => failed(id),
            _ => RedriveOutcome::Released,
        };
        let key = self.records[&id].0;
        match &outcome {
            RedriveOutcome::Done => drop(self.records.remove(&id)),
            RedriveOutcome::Failed(_) => {
                let back = key.map_or_else(|| vec![id], |k| self.of_key(k));
                for id in back {
                    self.records.get_mut(&id).unwrap().1 = true;
                }
            }
            RedriveOutcome::Released => {}
        }
        let state = finish(store, redriven.token, outcome).await;
        let parked = key.is_some_and(|k| !self.of_key(k).is_empty());
        assert_eq!(state == KeyState::Parked, parked);
    }

    async fn check(&self, store: &SqliteFailures) {
        let stored: BTreeMap<u64, bool> = all(store)
            .await
            .iter()
            .map(|r| (r.id.0, r.state == FailureState::Waiting))
            .collect();
        let expected = self.records.iter().map(|(id, (_, waits))| (*id, *waits));
        assert_eq!(stored, expected.collect());
        let parked: BTreeSet<Bytes> = store
            .open(&subscription())
            .await
            .unwrap()
            .parked
            .into_iter()
            .collect();
        let expected = (0..3).filter(|k| !self.of_key(*k).is_empty()).map(key_of);
        assert_eq!(parked, expected.collect());
    }
}

fn key_of(index: usize) -> Bytes {
    key(KEYS[index])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_failure_store_behaves_as_its_model(ops in proptest::collection::vec(op(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = store();
            store.open(&subscription()).await.unwrap();
            let mut model = Model::default();
            for op in ops {
                model.apply(&store, op).await;
                model.check(&store).await;
            }
        });
    }
}

#[tokio::test]
async fn an_edited_failure_keeps_its_original_also_when_it_is_edited_or_fails_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.db");
    let store = SqliteFailures::open(&path).unwrap();
    let sub = subscription();
    let ids = store
        .append(&sub, vec![failure(1, false), failure(2, false)])
        .await
        .unwrap();
    let (one, other) = (ids[0], ids[1]);
    let before = store.get(&sub, one).await.unwrap().draft;
    assert_eq!(store.original(&sub, one).await.unwrap(), None);
    let headers = vec![(key("ce_type"), Bytes::from_static(b"\xfe"))];
    let body = Bytes::from_static(b"mended \xff");
    store
        .edit(
            &sub,
            one,
            headers.clone(),
            Bytes::from_static(b"a first try"),
            reason(),
        )
        .await
        .unwrap();
    let mut later = reason();
    later.by = "bob".into();
    store
        .edit(&sub, one, headers.clone(), body.clone(), later.clone())
        .await
        .unwrap();
    drop(store);
    let store = SqliteFailures::open(&path).unwrap();
    let edited = store.get(&sub, one).await.unwrap().draft;
    assert_eq!((&edited.raw.headers, &edited.raw.body), (&headers, &body));
    assert_eq!(
        (&edited.raw.key, &edited.facts),
        (&before.raw.key, &before.facts)
    );
    let original = store.original(&sub, one).await.unwrap().unwrap();
    assert_eq!((&original.raw, original.reason), (&before.raw, later));
    assert_eq!(store.original(&sub, other).await.unwrap(), None);
    // The same message again makes no second record, and does not undo the edit.
    let again = store.append(&sub, vec![failure(1, false)]).await.unwrap();
    assert_eq!(again, [one]);
    assert_eq!(store.get(&sub, one).await.unwrap().draft.raw.body, body);
    // On its way it is as it was edited, and cannot be edited.
    redrive_all(&store).await;
    let refused = store
        .edit(&sub, one, Vec::new(), Bytes::new(), reason())
        .await;
    assert_eq!(refused.unwrap_err().kind, FaultKind::Conflict);
    let mut taken = claim(&store, ME, 10).await;
    assert_eq!(taken[0].record.draft.raw.body, body);
    finish(&store, taken.remove(0).token, failed(1)).await;
    let original = store.original(&sub, one).await.unwrap().unwrap();
    assert_eq!(original.raw, before.raw);
    let actions: Vec<_> = store.audit(&sub, 10).await.unwrap();
    let actions: Vec<&str> = actions.iter().map(|a| a.action.as_str()).collect();
    assert_eq!(actions, ["redrive", "edit", "edit"]);
    // The original goes with its record.
    let ids = Selection::Ids(vec![one]);
    store.discard(&sub, ids, reason()).await.unwrap();
    let kept: i64 = store
        .store()
        .read(|db| db.query_row("SELECT count(*) FROM postrider_original", [], |r| r.get(0)))
        .await
        .unwrap();
    assert_eq!(kept, 0);
    let absent = store
        .edit(&sub, one, Vec::new(), Bytes::new(), reason())
        .await;
    assert_eq!(absent.unwrap_err().kind, FaultKind::NotFound);
    let huge = Bytes::from(vec![0; (16 << 20) + 1]);
    let refused = store.edit(&sub, other, Vec::new(), huge, reason()).await;
    assert_eq!(refused.unwrap_err().kind, FaultKind::TooLarge);
}
