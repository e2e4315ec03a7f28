//! How a service starts: check, plan, print, provision, open. Nothing is started where one of these fails.

use std::any::TypeId;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use postrider_core::capability::Durability;
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
use super::running::{Drivers, Running};
use super::subscription::{Subscription, group};
use crate::bus::Bus;
use crate::context::{Host, Registry};
use crate::driver::{self, DriverHandle, Setup};
use crate::erased::{ErasedHandler, Router, TakenTwice};
use crate::error::{Error, Result};
use crate::plan::{Facts, ServicePlan, SubscriptionPlan, needs};
use crate::relay::{self, RelaySetup, RelayShare};

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
    let wanted = Wanted {
        home,
        durability: service.durability,
    };
    let plan = plan(&name, &subscriptions, &service.registry, &wanted, &bus);
    let plan = if service.deny_emulation {
        plan.deny_emulation()
    } else {
        plan
    };
    plan.check()?;
    announce(&plan, service.announce);
    provision(topology(&subscriptions), &bus).await?;
    let stores = service.registry.stores().cloned().collect::<Vec<_>>();
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
    bus.serve_admin(service.announce);
    let relays = relay(&name, &stores, &bus);
    Ok(Running {
        plan,
        drivers,
        relays,
        stores: service.owned,
        _count: bus.count_service(),
        bus,
    })
}

/// A key is parked well before the engine takes its messages back, and before it keeps other keys from coming.
fn bound_holding(subscriptions: &mut [Subscription], bus: &Bus) {
    if let Some(held) = bus.info().capabilities.key_held_max {
        for subscription in subscriptions.iter_mut() {
            let limits = &mut subscription.policy.limits;
            limits.lane_messages_max = limits.lane_messages_max.min((held / 2).max(1));
        }
    }
    if let Some(engine) = bus.info().capabilities.hold_max {
        for subscription in subscriptions {
            let limits = &mut subscription.policy.limits;
            limits.hold_max = limits.hold_max.min(engine.mul_f32(0.8));
        }
    }
}

/// What the service says of all its subscriptions.
struct Wanted {
    /// Where its failures live.
    home: Option<String>,
    durability: Option<Durability>,
}

fn plan(
    service: &Name,
    subscriptions: &[Subscription],
    registry: &Registry,
    wanted: &Wanted,
    bus: &Bus,
) -> ServicePlan {
    let named = |kind: TypeId| {
        let info = registry.store_info(kind);
        info.map(|s| format!("{} ({})", s.product, s.location))
    };
    let commits_in = |subscription: &Subscription| {
        let stores = subscription.stores()?.into_iter();
        Some(stores.filter_map(named).collect::<Vec<_>>().join(" and "))
    };
    let one = |subscription: &Subscription| {
        let facts = Facts {
            kind: subscription.id.on.kind,
            policy: &subscription.policy,
            replays: subscription.replays,
            store: commits_in(subscription),
            failures: wanted.home.clone(),
            durability: wanted.durability.unwrap_or_else(|| bus.info().durability),
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
        stores: registry.stores().map(|s| s.info().clone()).collect(),
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

/// The relay of each store that has an outbox; one that another service of the bus started already goes on for both.
fn relay(service: &Name, stores: &[Arc<dyn Store>], bus: &Bus) -> Vec<RelayShare> {
    let runtime = bus.runtime();
    let outboxes = stores
        .iter()
        .filter_map(|store| Some((store.identity(), store.outbox()?)));
    let relays = outboxes.map(|(store, outbox)| {
        let start = |before| {
            let setup = RelaySetup {
                service: service.to_string(),
                outbox,
                publisher: runtime.publisher.clone(),
                clock: runtime.clock.clone(),
                entropy: runtime.entropy.clone(),
                recorder: runtime.recorder.clone(),
                probe: None,
            };
            relay::spawn(setup, before)
        };
        let relays = runtime.registry.relays();
        relays.share(store, service.as_str(), start)
    });
    relays.collect()
}

/// Where failures of the service go.
struct Home {
    store: Option<Arc<dyn FailureStore>>,
    in_engine: bool,
}

/// Opens each subscription and starts its driver. Where one cannot be opened, those before it are stopped again.
///
/// Cancel safety: dropped, those that were started are cut off.
async fn open(
    subscriptions: Vec<Subscription>,
    plan: &ServicePlan,
    host: &Arc<Host>,
    home: &Home,
) -> Result<Drivers> {
    let mut drivers = Drivers::default();
    for (subscription, planned) in subscriptions.into_iter().zip(&plan.subscriptions) {
        match open_one(subscription, planned, host, home).await {
            Ok(driver) => drivers.0.push(driver),
            Err(error) => {
                join_all(drivers.0.iter().map(|d| d.stop(Duration::ZERO))).await;
                return Err(error);
            }
        }
    }
    Ok(drivers)
}

async fn open_one(
    subscription: Subscription,
    planned: &SubscriptionPlan,
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
        plan: Some(planned.plan.clone()),
    }))
}
