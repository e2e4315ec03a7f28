//! An engine of fakes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_core::Fut;
use postrider_core::capability::{Capabilities, Capability, Durability, Support};
use postrider_core::engine::{
    Admin, DestinationDepth, Engine, EngineInfo, Publisher, SubscriptionDepth,
};
use postrider_core::failure::FailureStore;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::id::InstanceId;
use postrider_core::name::{Destination, SubscriptionId};
use postrider_core::source::Source;
use postrider_core::subscription::SubscriptionSpec;
use postrider_core::topology::{ProvisionMode, Topology, TopologyDiff};

pub struct FakeEngine {
    info: EngineInfo,
    publisher: Arc<dyn Publisher>,
    failures: Option<Arc<dyn FailureStore>>,
    /// Given out by `open`, the last first.
    pub sources: Mutex<Vec<Source>>,
}

impl FakeEngine {
    pub fn new(
        publisher: Arc<dyn Publisher>,
        failures: Option<Arc<dyn FailureStore>>,
        native: &[Capability],
    ) -> Self {
        let capabilities = native.iter().fold(Capabilities::none(1 << 20), |c, n| {
            c.with(*n, Support::Native)
        });
        let info = EngineInfo {
            scheme: "fake",
            product: "Fake".into(),
            version: "1".into(),
            location: "here".into(),
            durability: Durability::Memory,
            capabilities,
        };
        Self {
            info,
            publisher,
            failures,
            sources: Mutex::default(),
        }
    }
}

fn none<T: Send + 'static>() -> Fut<'static, Result<T, Fault>> {
    let fault = Fault::new(FaultKind::NotFound, Advice::FixConfig, "the fake has none");
    Box::pin(async { Err(fault) })
}

impl Engine for FakeEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }
    fn provision<'a>(
        &'a self,
        _: &'a Topology,
        _: ProvisionMode,
    ) -> Fut<'a, Result<TopologyDiff, Fault>> {
        Box::pin(async { Ok(TopologyDiff::default()) })
    }
    fn publisher(&self) -> Fut<'_, Result<Arc<dyn Publisher>, Fault>> {
        Box::pin(async { Ok(Arc::clone(&self.publisher)) })
    }
    fn open<'a>(&'a self, _: &'a SubscriptionSpec) -> Fut<'a, Result<Source, Fault>> {
        match self.sources.lock().pop() {
            Some(source) => Box::pin(async { Ok(source) }),
            None => none(),
        }
    }
    fn inbox(&self, _: InstanceId) -> Fut<'_, Result<(Destination, Source), Fault>> {
        none()
    }
    fn failures(&self) -> Option<Arc<dyn FailureStore>> {
        self.failures.clone()
    }
    fn admin(&self) -> Option<Arc<dyn Admin>> {
        Some(Arc::new(FakeAdmin))
    }
    fn close(&self, _: Duration) -> Fut<'_, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }
}

struct FakeAdmin;

impl Admin for FakeAdmin {
    fn destinations(&self) -> Fut<'_, Result<Vec<DestinationDepth>, Fault>> {
        let topic = DestinationDepth {
            destination: Destination::topic("shop.order").unwrap(),
            messages: 3,
            next_position: 7,
            subscriptions: vec![SubscriptionId::parse("inventory@topic:shop.order").unwrap()],
        };
        Box::pin(async { Ok(vec![topic]) })
    }
    fn depth<'a>(&'a self, _: &'a SubscriptionId) -> Fut<'a, Result<SubscriptionDepth, Fault>> {
        Box::pin(async {
            Ok(SubscriptionDepth {
                depth: 5,
                in_flight: 2,
                delayed: 1,
                oldest_age_ms: Some(1500),
            })
        })
    }
}
