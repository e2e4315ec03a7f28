#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const A: MemberId = MemberId(1);
const B: MemberId = MemberId(2);

/// A stream in memory: per offset its key (0: none), deliver-at and expiry; what is settled; back-offs that survived.
#[derive(Default)]
struct Fake {
    records: Vec<Meta>,
    settled: BTreeSet<Offset>,
    broken: Option<Offset>,
    looked_at: usize,
}

impl Fake {
    fn of(keys: &[u64]) -> Self {
        Fake {
            records: keys.iter().map(|key| meta(*key)).collect(),
            ..Fake::default()
        }
    }
}

fn meta(key: u64) -> Meta {
    Meta {
        key: (key > 0).then_some(KeyHash(key)),
        size: 100,
        deliver_at_ms: 0,
        expires_at_ms: 0,
    }
}

impl Feed for Fake {
    fn visible_end(&self) -> Offset {
        self.records.len() as u64
    }

    fn next_unsettled(&self, from: Offset) -> Offset {
        (from..)
            .find(|offset| !self.settled.contains(offset))
            .unwrap()
    }

    fn meta(&mut self, offset: Offset) -> Result<Option<Meta>, Error> {
        self.looked_at += 1;
        if self.broken == Some(offset) {
            return Err(Error::Malformed {
                what: "record batch",
                why: "its checksum is wrong",
            });
        }
        Ok(self.records.get(offset as usize).copied())
    }

    fn not_before_ms(&self, _offset: Offset) -> u64 {
        0
    }
}

fn dispatch() -> Dispatch {
    Dispatch::new(true, 1_000, 1, 0, 0)
}

fn at(ms: u64) -> Now {
    Now::from_millis(1_000_000 + ms, ms)
}

fn lease(
    dispatch: &mut Dispatch,
    feed: &mut Fake,
    member: MemberId,
    messages: usize,
    now: Now,
) -> Vec<Offset> {
    let room = Room {
        messages,
        bytes: usize::MAX,
        until_ms: now.mono_ms() + 1_000,
    };
    let outcome = dispatch.lease(member, room, now, feed).unwrap();
    outcome
        .picks
        .into_iter()
        .map(|(offset, _)| offset)
        .collect()
}

fn ack(dispatch: &mut Dispatch, feed: &mut Fake, offset: Offset) {
    feed.settled.insert(offset);
    dispatch.settle(offset);
}

#[test]
fn a_key_is_with_one_member_at_a_time_in_order_while_other_keys_pass() {
    let (mut dispatch, mut feed) = (dispatch(), Fake::of(&[7, 8, 7, 9, 7]));
    assert_eq!(lease(&mut dispatch, &mut feed, A, 1, at(0)), [0]);
    assert_eq!(
        lease(&mut dispatch, &mut feed, B, 10, at(0)),
        [1, 3],
        "key 7 is with A"
    );
    assert_eq!(
        lease(&mut dispatch, &mut feed, A, 10, at(0)),
        [2, 4],
        "several of a key go to the same member, in order"
    );
    for offset in [0, 2, 4] {
        ack(&mut dispatch, &mut feed, offset);
    }
    feed.records.push(meta(7));
    assert_eq!(
        lease(&mut dispatch, &mut feed, B, 10, at(0)),
        [5],
        "the key is free again"
    );
}

#[test]
fn a_blocked_key_is_looked_at_once_however_often_others_ask() {
    let keys: Vec<u64> = std::iter::repeat_n(7, 500).collect();
    let (mut dispatch, mut feed) = (dispatch(), Fake::of(&keys));
    assert_eq!(lease(&mut dispatch, &mut feed, A, 1, at(0)), [0]);
    assert!(lease(&mut dispatch, &mut feed, B, 10, at(0)).is_empty());
    let looked_at = feed.looked_at;
    for _ in 0..50 {
        assert!(lease(&mut dispatch, &mut feed, B, 10, at(0)).is_empty());
    }
    assert_eq!(feed.looked_at, looked_at);
}

#[test]
fn the_look_ahead_is_bounded() {
    let mut keys = vec![7; 200];
    keys.push(8);
    let (mut dispatch, mut feed) = (Dispatch::new(true, 50, 1, 0, 0), Fake::of(&keys));
    assert_eq!(lease(&mut dispatch, &mut feed, A, 1, at(0)), [0]);
    assert!(lease(&mut dispatch, &mut feed, B, 10, at(0)).is_empty());
    assert_eq!(dispatch.waiting_len(), 50);
    dispatch.set_look_ahead(500);
    assert_eq!(lease(&mut dispatch, &mut feed, B, 10, at(0)), [200]);
}

#[test]
fn a_returned_message_holds_its_key_until_it_goes_again_and_no_other() {
    let (mut dispatch, mut feed) = (dispatch(), Fake::of(&[7, 7, 8]));
    assert_eq!(lease(&mut dispatch, &mut feed, A, 1, at(0)), [0]);
    dispatch.give_back(0, Some(500));
    assert_eq!(lease(&mut dispatch, &mut feed, B, 10, at(0)), [2]);
    dispatch.unblock(0, 499);
    assert!(lease(&mut dispatch, &mut feed, B, 10, at(499)).is_empty());
    dispatch.unblock(0, 500);
    assert_eq!(lease(&mut dispatch, &mut feed, B, 10, at(500)), [0, 1]);
}

#[test]
fn a_lease_ends_after_its_time_not_before_and_not_if_it_was_extended() {
    let (mut dispatch, mut feed) = (dispatch(), Fake::of(&[7, 7, 8]));
    let room = Room {
        messages: 10,
        bytes: usize::MAX,
        until_ms: 1_000,
    };
    let picks = dispatch.lease(A, room, at(0), &mut feed).unwrap().picks;
    assert!(dispatch.extend(2, picks[2].1, 5_000));
    assert!(!dispatch.extend(1, LeaseToken(99), 5_000), "not its token");
    assert!(dispatch.expire(999).is_empty());
    assert_eq!(dispatch.expire(1_050), [0, 1]);
    assert_eq!(lease(&mut dispatch, &mut feed, B, 10, at(1_050)), [0, 1]);
    assert_eq!(dispatch.expire(5_050), [0, 1, 2], "all over by then");
    assert_eq!(
        (dispatch.in_flight_len(), dispatch.next_deadline_ms()),
        (0, None)
    );
}

#[test]
fn the_bytes_asked_for_bound_what_is_handed_out_but_one_always_fits() {
    let (mut dispatch, mut feed) = (dispatch(), Fake::of(&[0, 0, 0, 0]));
    let room = |bytes| Room {
        messages: 10,
        bytes,
        until_ms: 1_000,
    };
    assert_eq!(
        dispatch
            .lease(A, room(250), at(0), &mut feed)
            .unwrap()
            .picks
            .len(),
        2
    );
    assert_eq!(
        dispatch
            .lease(A, room(1), at(0), &mut feed)
            .unwrap()
            .picks
            .len(),
        1
    );
}

#[test]
fn expired_messages_are_put_aside_and_delayed_ones_come_when_they_are_due() {
    let (mut dispatch, mut feed) = (dispatch(), Fake::of(&[7, 7, 8]));
    feed.records[0].expires_at_ms = 1_000_000;
    feed.records[2].deliver_at_ms = 1_000_300;
    let room = Room {
        messages: 10,
        bytes: usize::MAX,
        until_ms: 1_000,
    };
    let outcome = dispatch.lease(A, room, at(0), &mut feed).unwrap();
    assert_eq!(
        (outcome.expired.as_slice(), outcome.delayed.as_slice()),
        (&[0][..], &[(1_000_300, 2)][..])
    );
    assert_eq!(outcome.picks.len(), 1);
    dispatch.delay_over(0, 2);
    assert!(
        lease(&mut dispatch, &mut feed, A, 10, at(300)).is_empty(),
        "a timer from before a seek"
    );
    dispatch.delay_over(1, 2);
    assert_eq!(lease(&mut dispatch, &mut feed, A, 10, at(300)), [2]);
}

#[test]
fn an_unreadable_record_gives_what_is_before_it_and_then_the_error() {
    let (mut dispatch, mut feed) = (dispatch(), Fake::of(&[0, 0, 0]));
    feed.broken = Some(1);
    assert_eq!(lease(&mut dispatch, &mut feed, A, 10, at(0)), [0]);
    let room = Room {
        messages: 10,
        bytes: usize::MAX,
        until_ms: 1_000,
    };
    assert!(dispatch.lease(A, room, at(0), &mut feed).is_err());
    feed.broken = None;
    assert_eq!(lease(&mut dispatch, &mut feed, A, 10, at(0)), [1, 2]);
}

#[test]
fn unordered_messages_are_each_on_their_own() {
    let (mut dispatch, mut feed) = (Dispatch::new(false, 100, 1, 0, 0), Fake::of(&[7, 7, 7]));
    assert_eq!(lease(&mut dispatch, &mut feed, A, 1, at(0)), [0]);
    assert_eq!(lease(&mut dispatch, &mut feed, B, 1, at(0)), [1]);
    dispatch.give_back(0, None);
    assert_eq!(lease(&mut dispatch, &mut feed, B, 9, at(0)), [0, 2]);
}

#[derive(Debug, Clone)]
enum Op {
    Publish(u64),
    Lease(u8, usize),
    Ack(usize),
    Return(usize, Option<u64>),
    Pass(u64),
    Release(u8),
    SettleElsewhere(u64),
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u64..6).prop_map(Op::Publish),
        4 => (0u8..3, 1usize..5).prop_map(|(member, n)| Op::Lease(member, n)),
        4 => any::<usize>().prop_map(Op::Ack),
        2 => (any::<usize>(), proptest::option::of(1u64..2_000)).prop_map(|(n, delay)| Op::Return(n, delay)),
        1 => (1u64..1_500).prop_map(Op::Pass),
        1 => (0u8..3).prop_map(Op::Release),
        1 => (0u64..60).prop_map(Op::SettleElsewhere),
    ]
}

/// The plain truth: who holds what, until when; who waits until when.
#[derive(Default)]
struct Model {
    held: BTreeMap<Offset, (MemberId, u64)>,
    blocked: BTreeMap<Offset, u64>,
}

impl Model {
    /// Whether `member` may have `offset` now.
    fn may(&self, feed: &Fake, offset: Offset, member: MemberId) -> bool {
        if feed.settled.contains(&offset)
            || self.held.contains_key(&offset)
            || self.blocked.contains_key(&offset)
        {
            return false;
        }
        let Some(key) = feed.records[offset as usize].key else {
            return true;
        };
        let same = |other: &Offset| {
            feed.records[*other as usize].key == Some(key) && !feed.settled.contains(other)
        };
        let earlier_waits = (0..offset)
            .filter(same)
            .any(|other| !self.held.contains_key(&other));
        let other_member = self
            .held
            .iter()
            .any(|(other, (holder, _))| same(other) && *holder != member);
        !earlier_waits && !other_member
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn it_agrees_with_a_plain_model(ops in proptest::collection::vec(any_op(), 1..120)) {
        let (mut dispatch, mut feed, mut model) = (dispatch(), Fake::default(), Model::default());
        let mut now = 0u64;
        for op in ops {
            let nth = |held: &BTreeMap<Offset, (MemberId, u64)>, n: usize| held.keys().nth(n % held.len().max(1)).copied();
            match op {
                Op::Publish(key) => feed.records.push(meta(key)),
                Op::Lease(member, messages) => {
                    let member = MemberId(u64::from(member));
                    let got = lease(&mut dispatch, &mut feed, member, messages, at(now));
                    for offset in &got {
                        prop_assert!(model.may(&feed, *offset, member), "{offset} to {member}");
                        model.held.insert(*offset, (member, now + 1_000));
                    }
                    if got.len() < messages {
                        let left: Vec<u64> = (0..feed.visible_end()).filter(|o| model.may(&feed, *o, member)).collect();
                        prop_assert!(left.is_empty(), "{left:?} could have gone to {member}");
                    }
                }
                Op::Ack(n) => if let Some(offset) = nth(&model.held, n) {
                    model.held.remove(&offset);
                    ack(&mut dispatch, &mut feed, offset);
                },
                Op::Return(n, delay) => if let Some(offset) = nth(&model.held, n) {
                    model.held.remove(&offset);
                    if let Some(delay) = delay {
                        model.blocked.insert(offset, now + delay);
                    }
                    dispatch.give_back(offset, delay.map(|delay| now + delay));
                },
                Op::Pass(ms) => {
                    now += ms;
                    let ended = dispatch.expire(now);
                    for offset in &ended {
                        let until = model.held.remove(offset).unwrap().1;
                        prop_assert!(until <= now);
                    }
                    prop_assert!(model.held.values().all(|(_, until)| until + DEADLINE_BUCKET_MS > now));
                    let due: Vec<_> = model.blocked.iter().filter(|(_, until)| **until <= now).map(|(o, _)| *o).collect();
                    for offset in due {
                        model.blocked.remove(&offset);
                        dispatch.unblock(offset, now);
                    }
                }
                Op::Release(member) => {
                    let held = dispatch.held_by(MemberId(u64::from(member)));
                    for offset in held {
                        prop_assert_eq!(model.held.remove(&offset).unwrap().0, MemberId(u64::from(member)));
                        dispatch.give_back(offset, None);
                    }
                }
                // As a cancel or an expiry does: only what is not in flight.
                Op::SettleElsewhere(offset) => if offset < feed.visible_end() && !model.held.contains_key(&offset) {
                    feed.settled.insert(offset);
                    model.blocked.remove(&offset);
                    dispatch.unblock(offset, u64::MAX);
                },
            }
            prop_assert_eq!(dispatch.in_flight_len(), model.held.len());
        }
        // Everything that is left comes out, each key in order, once all time has passed.
        now += 10_000;
        dispatch.expire(now);
        model.blocked.keys().for_each(|offset| dispatch.unblock(*offset, now));
        let mut out = Vec::new();
        loop {
            let got = lease(&mut dispatch, &mut feed, A, 3, at(now));
            if got.is_empty() {
                break;
            }
            for offset in got {
                out.push(offset);
                ack(&mut dispatch, &mut feed, offset);
            }
        }
        prop_assert_eq!(feed.settled.len() as u64, feed.visible_end());
        for key in 1..6 {
            let of_key: Vec<_> = out.iter().filter(|o| feed.records[**o as usize].key == Some(KeyHash(key))).collect();
            prop_assert!(of_key.is_sorted());
        }
        prop_assert!(dispatch.lanes.is_empty() && dispatch.loose.is_empty() && dispatch.owned.is_empty());
        prop_assert_eq!(dispatch.waiting, 0);
    }
}
