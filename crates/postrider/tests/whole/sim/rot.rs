//! A disk on which one bit was flipped: it is refused, or what is read is what was written.

use std::sync::Arc;
use std::time::Duration;

use postrider::Message as _;
use postrider::contract::engine::Engine as _;
use postrider::contract::id::InstanceId;
use postrider::contract::source::{Credit, Source};
use postrider::contract::subscription::SubscriptionSpec;
use postrider::embedded::Embedded;
use postrider_log::disk::SimDisk;

use super::clock::LifeClock;
use super::ledger::{Life, Shared};
use super::life::{id_of, options};
use super::scenario::Fate;
use super::services::{A, check_of};
use crate::garbled::break_reader;

/// Flips a bit of a copy of the disk, and reads everything that the first service has not settled.
pub async fn look(world: &Shared, disk: &SimDisk) {
    let clock = Arc::new(LifeClock::new(world.time.clone()));
    world.begin_life(Life::new(Fate::Stop, clock.clone()));
    let disk = disk.kill();
    break_reader(false);
    let paths = disk.paths();
    let path = &paths[world.dice.below(paths.len() as u64) as usize];
    // Where something stands: the rest of a segment is zeros.
    let content = disk.content(path).unwrap_or_default();
    let written = content.iter().rposition(|byte| *byte != 0);
    let Some(last) = written else {
        break_reader(true);
        return;
    };
    let byte = world.dice.below(last as u64 + 1) as usize;
    disk.flip(path, byte, world.dice.below(8) as u8);
    let (options, limits) = options(clock, &disk);
    let opened = Embedded::stepped(options, limits);
    world.say(format!(
        "byte {byte} of {path} is flipped; refused: {}",
        opened.is_err()
    ));
    let Ok((engine, mut stepper)) = opened else {
        break_reader(true);
        return;
    };
    let steps = async {
        while stepper.step() {
            tokio::task::yield_now().await;
            stepper.wanted().await;
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(2), read(world, &engine));
    tokio::select! {
        biased;
        () = steps => {}
        // Where nothing more comes, the time is over.
        _ = read => {}
    }
    break_reader(true);
}

async fn read(world: &Shared, engine: &Embedded) {
    let spec = SubscriptionSpec::new(id_of(0), InstanceId(1));
    let Ok(Source::Lease(mut source)) = engine.open(&spec).await else {
        return;
    };
    let room = Credit {
        messages: 64,
        bytes: 1 << 20,
    };
    while let Ok(leased) = source.next(room).await {
        for one in leased {
            let Ok((envelope, payload)) = &one.record.content else {
                world.wrong("a flipped bit was served as a message that cannot be read");
                continue;
            };
            let right = A::decode(&envelope.content_type, payload).is_ok_and(|a| {
                let key = envelope.key.as_ref().map(|key| key.as_bytes().to_vec());
                a.check == check_of(&a.key, a.n) && key == Some(a.key.into_bytes())
            });
            if !right {
                world.wrong("a flipped bit was served");
            }
        }
    }
}
