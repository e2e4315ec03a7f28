use std::sync::atomic::Ordering;
use std::time::Duration;

use postrider_core::fault::{Advice, Fault, FaultKind};

use super::*;
use crate::delivery::Delivery;
use crate::fake::{self, FakeEngine};
use crate::handler::raw;

/// A parked key is redriven by one member, and the failure store knows it by this number alone.
#[tokio::test]
async fn services_of_one_name_on_one_bus_are_two_members() {
    let engine = FakeEngine::new(1);
    let bus = fake::bus(&engine).await;
    let service = || {
        let audit = raw("topic:shop.order", |_: Delivery| async {});
        Service::new("audit").announce(false).on(audit)
    };
    let running = [
        service().start(&bus).await.unwrap(),
        service().start(&bus).await.unwrap(),
    ];
    let members = engine.members.lock().clone();
    assert_eq!(members.len(), 2);
    assert_ne!(members[0], members[1]);
    for running in running {
        running.stop(Duration::ZERO).await;
    }
}

fn audit() -> Service {
    let audit = raw("topic:shop.order", |_: Delivery| async {});
    Service::new("audit").announce(false).on(audit)
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_while_the_service_starts_ends_it_at_once() {
    let engine = FakeEngine::new(1);
    engine.is_away.store(true, Ordering::SeqCst);
    let bus = fake::bus(&engine).await;
    let signal = tokio::time::sleep(Duration::from_secs(1));
    let run = audit().run_until(bus.clone(), signal);
    let ended = tokio::time::timeout(Duration::from_secs(60), run).await;
    ended.expect("it waits for the engine").unwrap();
    assert_eq!(engine.members.lock().len(), 1, "it was starting");
    assert_eq!(engine.closes.load(Ordering::SeqCst), 1);
    // One that is there before the start keeps nothing from starting and stopping in order.
    let engine = FakeEngine::new(1);
    let bus = fake::bus(&engine).await;
    audit().run_until(bus, async {}).await.unwrap();
    assert_eq!(engine.members.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn why_a_subscription_stopped_is_said_and_not_that_the_bus_did_not_close() {
    let engine = FakeEngine::new(1);
    let fault = || Fault::new(FaultKind::Timeout, Advice::StopOwner, "not flushed in time");
    *engine.close_fault.lock() = Some(fault());
    engine.source_ends.notify_one();
    let bus = fake::bus(&engine).await;
    let error = audit().run_until(bus, std::future::pending()).await;
    let error = error.unwrap_err();
    assert!(error.what().contains("its source failed"), "{error}");
    assert_eq!(engine.closes.load(Ordering::SeqCst), 1);
    // Where nothing else is to be said, that is.
    *engine.close_fault.lock() = Some(fault());
    let bus = fake::bus(&engine).await;
    let error = audit().run_until(bus, async {}).await.unwrap_err();
    assert!(error.what().contains("not flushed in time"), "{error}");
}
