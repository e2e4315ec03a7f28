//! A dead letter is one step: whenever the power fails, the message is with its subscription or among its failures, never both, never neither.
//!
//! Waits are in virtual time (`start_paused`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use postrider::contract::clock::Timestamp;
use postrider::contract::engine::Engine as _;
use postrider::contract::envelope::{Envelope, Outgoing};
use postrider::contract::id::InstanceId;
use postrider::contract::name::Destination;
use postrider::contract::source::{Credit, Source};
use postrider::contract::subscription::SubscriptionSpec;
use postrider::embedded::{Embedded, Stepper};
use postrider::prelude::*;
use postrider::{BusOptions, MessageId};
use postrider_log::disk::SimDisk;

use super::clock::{LifeClock, Time};
use super::life::{id_of, options};
use super::run::runtime;
use super::services::{A, SERVICES, TOPICS, check_of};
use crate::dice::Dice;
use crate::garbled::Garbled;

const MESSAGES: u32 = 5;
/// An operation of the disk in which the power fails, after everything was confirmed.
const OPERATIONS_MAX: u64 = 24;

async fn refuse(_: A) -> Result<(), HandlerError> {
    Err(HandlerError::Permanent("never (a test)".into()))
}

/// One crash. `Err`: what was found.
pub fn crash(seed: u64) -> Result<(), String> {
    let dice = Dice::new(seed);
    let time = Arc::new(Time::default());
    let disk = SimDisk::new(seed);
    runtime().block_on(async {
        let clock = Arc::new(LifeClock::new(time.clone()));
        let (opened, limits) = options(clock.clone(), &disk);
        let (engine, stepper) = Embedded::stepped(opened, limits).unwrap();
        tokio::select! {
            biased;
            () = steps(stepper) => {}
            () = fail_all(Arc::new(engine), clock, &dice, &disk) => {}
        }
        disk.power_off_at(0);
    });
    let disk = disk.crash(dice.below(u64::MAX));
    time.over(Duration::from_secs(5), Duration::from_secs(1));
    runtime().block_on(async {
        let clock = Arc::new(LifeClock::new(time.clone()));
        let (opened, limits) = options(clock, &disk);
        let (engine, stepper) = Embedded::stepped(opened, limits).unwrap();
        tokio::select! {
            biased;
            () = steps(stepper) => Err("the engine ended".to_owned()),
            found = count(&engine) => found,
        }
    })
}

async fn steps(mut stepper: Stepper) {
    while stepper.step() {
        tokio::task::yield_now().await;
        stepper.wanted().await;
    }
}

/// Publishes, and a service fails all of it for good; the power fails meanwhile.
async fn fail_all(engine: Arc<Embedded>, clock: Arc<LifeClock>, dice: &Dice, disk: &SimDisk) {
    let bus = BusOptions {
        source: "sim".into(),
        clock,
        entropy: Arc::new(dice.clone()),
        ..BusOptions::default()
    };
    let bus = Bus::from_engine(engine.clone(), bus).await.unwrap();
    let service = Service::new(SERVICES[0]).announce(false);
    let running = service.on(refuse).start(&bus).await.unwrap();
    let publisher = engine.publisher().await.unwrap();
    for n in 1..=MESSAGES {
        let key = format!("k{}", n % 3);
        let check = check_of(&key, n);
        let garbled = Garbled(false);
        let message = A {
            key,
            n,
            check,
            garbled,
        };
        let id = MessageId::parse_or_hash(&n.to_string());
        let mut envelope = Envelope::new(id, "sim".into(), A::TYPE.into(), Timestamp(1));
        envelope.key = message.key();
        let message = Outgoing {
            destination: Destination::topic(TOPICS[0]).unwrap(),
            payload: message.encode().unwrap(),
            envelope,
        };
        publisher.publish(vec![message]).await.remove(0).unwrap();
    }
    disk.power_off_at(disk.operations() + 1 + dice.below(OPERATIONS_MAX));
    tokio::time::sleep(Duration::from_secs(4)).await;
    drop(running);
}

/// Where each message is.
async fn count(engine: &Embedded) -> Result<(), String> {
    let id = id_of(0);
    let failures = engine.failures().unwrap();
    let records = failures.list(&id, None, None, 100).await.unwrap();
    let failed: Vec<MessageId> = records
        .iter()
        .filter_map(|record| record.draft.facts.message_id)
        .collect();
    let mut held = Vec::new();
    let spec = SubscriptionSpec::new(id, InstanceId(1));
    let Source::Lease(mut source) = engine.open(&spec).await.unwrap() else {
        return Err("a log source".to_owned());
    };
    let room = Credit {
        messages: 100,
        bytes: 1 << 20,
    };
    // Where nothing more comes, the time is over.
    while let Ok(Ok(leased)) = tokio::time::timeout(Duration::from_secs(1), source.next(room)).await
    {
        let ids = leased
            .iter()
            .filter_map(|one| one.record.content.as_ref().ok());
        held.extend(ids.map(|(envelope, _)| envelope.id));
    }
    let all: BTreeSet<MessageId> = failed.iter().chain(&held).copied().collect();
    if failed.len() + held.len() != MESSAGES as usize || all.len() != MESSAGES as usize {
        let (failed, held) = (failed.len(), held.len());
        return Err(format!(
            "of {MESSAGES} messages {failed} are failures and {held} are held, {} in all",
            all.len()
        ));
    }
    Ok(())
}
