use std::time::Duration;

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
