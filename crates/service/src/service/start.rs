//! How a service starts: check, plan, print, provision, open. Nothing is started where one of these fails.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use postrider_core::code::Code;
use postrider_core::failure::FailureStore;
use postrider_core::id::InstanceId;
use postrider_core::name::Name;
use postrider_core::plan::Plan;
use postrider_core::policy::Policy;
use postrider_core::store::Store;
use postrider_core::subscription::SubscriptionSpec;
use postrider_core::topology::{DestinationSpec, SubscriptionNeed, Topology};

use super::Service;
use super::running::Running;
use super::subscription::{Subscription, group};
use crate::bus::Bus;
use crate::context::{Host, Registry};
use crate::driver::{self, DriverHandle, Setup};
use crate::erased::{ErasedHandler, Router, TakenTwice};
use crate::error::{Error, Result};
use crate::plan::{Facts, ServicePlan, SubscriptionPlan, needs};
use crate::relay::{self, RelayHandle, RelaySetup};

pub(super) async fn start(service: Service, bus: &Bus) -> Result<Running> {
    if let Some(fault) = service.faults.into_iter().next() {
        return Err(fault);
    }
    let name = Name::new(service.name.clone())?;
    let bus = bus.named(service.name.clone());
    for handler in &service.handlers {
        handler.check(&service.registry)?;
    }
    let mut subscriptions = group(&name, service.handlers)?;
    bound_holding(&mut subscriptions, &bus);
    let home = match (&service.failures, bus.failure_store()) {
        (Some(_), _) => Some("the service's failure store".to_owned()),
        (None, Some(_)) => Some(format!("the engine ({})", bus.info().location)),
        (None, None) => None,
    };
    let plan = plan(&name, &subscriptions, &service.registry, home, &bus);
    let plan = if service.deny_emulation {
        plan.deny_emulation()
    } else {
        plan
    };
    plan.check()?;
    announce(&plan, service.announce);
    provision(topology(&subscriptions), &bus).await?;
    let stores = service.registry.stores().to_vec();
    let host = Arc::new(Host {
        registry: service.registry,
        bus: bus.clone(),
    });
    let home = Home {
        in_engine: service.failures.is_none(),
        store: service.failures.or_else(|| bus.failure_store()),
    };
    let drivers = open(subscriptions, &plan, &host, &home).await?;
    #[cfg(all(feature = "admin", unix))]
    bus.serve_admin();
    let relays = relay(&name, &stores, &bus);
    Ok(Running {
        plan,
        drivers,
        relays,
        stores: service.owned,
        count: bus.count_service(),
        bus,
    })
}

/// A key is parked well before the engine takes its messages back.
fn bound_holding(subscriptions: &mut [Subscription], bus: &Bus) {
    if let Some(engine) = bus.info().capabilities.hold_max {
        for subscription in subscriptions {
            let limits = &mut subscription.policy.limits;
            limits.hold_max = limits.hold_max.min(engine.mul_f32(0.8));
        }
    }
}

fn plan(
    service: &Name,
    subscriptions: &[Subscription],
    registry: &Registry,
    home: Option<String>,
    bus: &Bus,
) -> ServicePlan {
    let stores: Vec<_> = registry.stores().iter().map(|s| s.info().clone()).collect();
    let store = stores
        .first()
        .map(|s| format!("{} ({})", s.product, s.location));
    let one = |subscription: &Subscription| {
        let facts = Facts {
            kind: subscription.id.on.kind,
            policy: &subscription.policy,
            replays: subscription.replays,
            store: store.clone().filter(|_| subscription.in_store()),
            failures: home.clone(),
        };
        SubscriptionPlan {
            plan: Plan::of(subscription.id.clone(), needs(&facts), bus.info()),
            types: subscription
                .types()
                .into_iter()
                .map(str::to_owned)
                .collect(),
            policy: subscription.policy.clone(),
        }
    };
    ServicePlan {
        service: service.to_string(),
        engine: bus.info().clone(),
        subscriptions: subscriptions.iter().map(one).collect(),
        stores,
    }
}

/// A user without a `tracing` subscriber must see the plan too.
fn announce(plan: &ServicePlan, to_stderr: bool) {
    let text = plan.text();
    tracing::info!(service = %plan.service, plan = %text, "plan");
    if to_stderr {
        eprint!("postrider: {text}");
    }
}

fn topology(subscriptions: &[Subscription]) -> Topology {
    let destination = |s: &Subscription| DestinationSpec {
        destination: s.id.on.clone(),
        durability: None,
        retain: Duration::ZERO,
    };
    let need = |s: &Subscription| SubscriptionNeed {
        id: s.id.clone(),
        ordered: s.policy.ordered,
        start: s.start,
    };
    Topology {
        destinations: subscriptions.iter().map(destination).collect(),
        subscriptions: subscriptions.iter().map(need).collect(),
    }
}

async fn provision(topology: Topology, bus: &Bus) -> Result {
    let mode = bus.options().provision;
    let diff = bus.engine().provision(&topology, mode).await?;
    if !diff.created.is_empty() {
        tracing::info!(created = ?diff.created, "provisioned");
    }
    Ok(())
}

/// Starts a relay for each store that has an outbox.
fn relay(service: &Name, stores: &[Arc<dyn Store>], bus: &Bus) -> Vec<RelayHandle> {
    let runtime = bus.runtime();
    let outboxes = stores.iter().filter_map(|store| store.outbox());
    let relays = outboxes.map(|outbox| {
        let relay = relay::spawn(RelaySetup {
            service: service.to_string(),
            outbox,
            publisher: runtime.publisher.clone(),
            clock: runtime.clock.clone(),
            entropy: runtime.entropy.clone(),
            recorder: runtime.recorder.clone(),
            probe: None,
        });
        runtime.registry.add_relay(service.as_str(), relay.clone());
        relay
    });
    relays.collect()
}

/// Where failures of the service go.
struct Home {
    store: Option<Arc<dyn FailureStore>>,
    in_engine: bool,
}

/// Opens each subscription and starts its driver. Where one cannot be opened, those before it are stopped again.
async fn open(
    subscriptions: Vec<Subscription>,
    plan: &ServicePlan,
    host: &Arc<Host>,
    home: &Home,
) -> Result<Vec<DriverHandle>> {
    let mut drivers: Vec<DriverHandle> = Vec::with_capacity(subscriptions.len());
    for (subscription, planned) in subscriptions.into_iter().zip(&plan.subscriptions) {
        match open_one(subscription, planned.plan.clone(), host, home).await {
            Ok(driver) => drivers.push(driver),
            Err(error) => {
                join_all(drivers.iter().map(|d| d.stop(Duration::ZERO))).await;
                return Err(error);
            }
        }
    }
    Ok(drivers)
}

async fn open_one(
    subscription: Subscription,
    plan: Plan,
    host: &Arc<Host>,
    home: &Home,
) -> Result<DriverHandle> {
    let runtime = host.bus.runtime();
    let spec = SubscriptionSpec {
        id: subscription.id,
        // ORDER: of its own, not the process's: two members of a service may share a bus, and a parked key is redriven by one of them.
        member: InstanceId(runtime.entropy.next_u64()),
        ordered: subscription.policy.ordered,
        start: subscription.start,
        lease: subscription.lease,
    };
    let bound = subscription.handlers.into_iter().map(|h| {
        let erased: Arc<dyn ErasedHandler> = Arc::new(h.bind(host.clone()));
        erased
    });
    let router = Router::new(bound).map_err(|TakenTwice(message_type)| {
        let what = format!("two handlers of `{}` take `{message_type}`", spec.id);
        Error::new(Code::HANDLER_DUPLICATE, what)
    })?;
    let policy = Policy {
        retries: router.retries().to_vec(),
        ..subscription.policy
    };
    let source = runtime.engine.open(&spec).await?;
    Ok(driver::spawn(Setup {
        runtime: runtime.clone(),
        spec,
        policy,
        router: Arc::new(router),
        source,
        failures: home.store.clone(),
        failures_in_engine: home.in_engine,
        plan: Some(plan),
    }))
}
