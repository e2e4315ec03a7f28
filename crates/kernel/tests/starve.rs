//! A stuck key never stops another: one that fails without end, one that never returns, and a window full of blocked keys.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use postrider_core::clock::{Mono, Timestamp};
use postrider_core::id::MessageId;
use postrider_core::policy::{Policy, Retry};
use postrider_kernel::{Config, Incoming, Input, Kernel, Origin, Outcome, Output, Slot};

/// Runs `count` messages of `keys` keys, handed out round robin within the credit. Keys below `stuck` fail whenever they are handled; `hung` keys
/// above them never return. Gives how many messages were handled of each key, and how many steps it took.
fn run(policy: Policy, keys: u64, stuck: u64, hung: u64, count: u64) -> BTreeMap<u64, u64> {
    let mut kernel = Kernel::new(Config::lease(policy, None), 1);
    let (mut now, mut next, mut credit) = (Duration::ZERO, 0u64, 0u32);
    let (mut running, mut handled, mut forgotten) = (VecDeque::new(), BTreeMap::new(), 0u64);
    let mut inputs = VecDeque::from([Input::Opened { parked: Vec::new() }]);
    let mut idle = 0;
    while idle < 200 {
        now += Duration::from_millis(20);
        let input = inputs.pop_front().unwrap_or_else(|| {
            idle += 1;
            let room = u64::from(credit).min(count - next).min(16);
            credit -= room as u32;
            let batch = (next..next + room).map(|n| message(n, keys)).collect();
            next += room;
            Input::Messages(batch)
        });
        kernel.handle(Mono(now), input);
        while let Some(output) = kernel.poll_output() {
            match output {
                Output::Dispatch { slot, .. } => running.push_back(slot),
                Output::Ack(slots) | Output::Park { slots, .. } => {
                    inputs.push_back(Input::Settled(slots))
                }
                Output::Fail { slot, .. } => inputs.push_back(Input::Settled(vec![slot])),
                Output::Credit { source, .. } => credit = source.messages,
                Output::Forget(_) => forgotten += 1,
                Output::SetTimer(_) => {}
                other => panic!("not expected: {other:?}"),
            }
        }
        for slot in std::mem::take(&mut running) {
            let key = u64::from(slot.0) % keys;
            let outcome = if key < stuck {
                Outcome::Transient
            } else {
                Outcome::Done
            };
            if key >= stuck && key < stuck + hung {
                continue;
            }
            idle = 0;
            if outcome == Outcome::Done {
                *handled.entry(key).or_default() += 1;
            }
            inputs.push_back(Input::Finished { slot, outcome });
        }
    }
    assert_eq!(next, count, "the source was not stopped");
    assert!(forgotten <= count);
    handled
}

fn message(n: u64, keys: u64) -> Incoming {
    Incoming {
        slot: Slot(n as u32),
        origin: Origin::Lease { until: None },
        id: MessageId::parse_or_hash(&n.to_string()),
        key: Some(Bytes::from(format!("key {}", n % keys))),
        size: 100,
        retry: 0,
        deliveries: Some(0),
        key_parked: false,
        unreadable: false,
        skip: false,
        seen_at: Timestamp(0),
    }
}

fn policy() -> Policy {
    let retry = Retry::backoff(Duration::from_secs(3600)..Duration::from_secs(3600)).forever();
    let mut policy = Policy {
        retries: vec![retry],
        ..Policy::default()
    };
    policy.limits.concurrency = 8;
    policy.limits.window_messages_max = 256;
    policy.limits.lane_messages_max = 64;
    policy
}

fn others_are_handled(handled: &BTreeMap<u64, u64>, keys: u64, stuck: u64, each: u64) {
    for key in stuck..keys {
        assert_eq!(handled.get(&key), Some(&each), "key {key}");
    }
}

#[test]
fn a_key_that_fails_without_end_does_not_stop_another() {
    others_are_handled(&run(policy(), 10, 1, 0, 5000), 10, 1, 500);
}

#[test]
fn many_blocked_keys_do_not_fill_the_window() {
    // Sixty of a hundred keys are stuck for an hour: each is far below its own share, together they would be the whole window.
    others_are_handled(&run(policy(), 100, 60, 0, 20_000), 100, 60, 200);
}

#[test]
fn a_handler_that_never_returns_holds_its_key_alone() {
    let handled = run(policy(), 100, 0, 1, 2000);
    others_are_handled(&handled, 100, 1, 20);
    assert_eq!(handled.get(&0), None);
}
