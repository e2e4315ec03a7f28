//! The handlers of one destination, and the policy that they agree on.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::time::Duration;

use postrider_core::code::Code;
use postrider_core::name::{Destination, DestinationKind, Name, SubscriptionId};
use postrider_core::policy::{Limits, Policy, WhenExhausted};
use postrider_core::source::SeekTo;
use postrider_core::subscription::SubscriptionSpec;

use crate::error::{Error, Result};
use crate::handler::{Configured, SubscriptionWishes};

/// One subscription of a service before it is opened.
pub(super) struct Subscription {
    pub(super) id: SubscriptionId,
    pub(super) handlers: Vec<Configured>,
    /// Its retries are filled in by the router.
    pub(super) policy: Policy,
    pub(super) start: SeekTo,
    /// Somebody asked for this start: then what the topic keeps must be readable.
    pub(super) replays: bool,
    pub(super) lease: Duration,
}

impl Subscription {
    /// The stores that its handlers commit their effects in, each once. `None`: one of them commits nowhere.
    pub(super) fn stores(&self) -> Option<Vec<TypeId>> {
        let mut stores = Vec::new();
        for handler in &self.handlers {
            let store = handler.description.store?;
            if !stores.contains(&store) {
                stores.push(store);
            }
        }
        Some(stores)
    }

    /// The types that have a handler, sorted; `…`: all others too.
    pub(super) fn types(&self) -> Vec<&'static str> {
        let name = |t: &'static str| if t.is_empty() { "…" } else { t };
        let types = self
            .handlers
            .iter()
            .map(|h| name(h.description.message_type));
        let mut types: Vec<_> = types.collect();
        types.sort_unstable();
        types
    }
}

/// Groups handlers by their destination.
///
/// # Errors
/// A name is malformed, two handlers take one type (`PR-1404`), or handlers of one destination contradict each other (`PR-1103`).
pub(super) fn group(service: &Name, handlers: Vec<Configured>) -> Result<Vec<Subscription>> {
    let mut by_destination: BTreeMap<Destination, Vec<Configured>> = BTreeMap::new();
    for mut handler in handlers {
        if handler.description.kind == DestinationKind::Inbox {
            return Err(takes_reply(&handler));
        }
        let nowhere = Error::new(Code::NAME_MALFORMED, "the handler's destination was taken");
        let destination = std::mem::replace(&mut handler.destination, Err(nowhere))?;
        by_destination.entry(destination).or_default().push(handler);
    }
    let merge = |(on, handlers)| {
        let service = service.clone();
        merge(SubscriptionId { service, on }, handlers)
    };
    by_destination.into_iter().map(merge).collect()
}

fn takes_reply(handler: &Configured) -> Error {
    let what = format!(
        "`{}` takes `{}`, which is a reply",
        handler.description.name, handler.description.message_type
    );
    Error::new(Code::CONFIG_CONTRADICTS, what)
        .why("a reply goes to the process that asked, not to a service")
        .remedy("take it from `bus.request(…)`, or make it an event or a command")
}

fn merge(id: SubscriptionId, handlers: Vec<Configured>) -> Result<Subscription> {
    no_type_twice(&id, &handlers)?;
    let agree = Agree {
        id: &id,
        handlers: &handlers,
    };
    let ordered = agree.order()?;
    let concurrency = agree.one("concurrency", |w| w.concurrency)?;
    let dead_letter = agree.one("dead_letter", |w| w.dead_letter)?;
    let start = agree.one("start_at", |w| w.start_at)?;
    let lease = agree.one("lease", |w| w.lease)?;
    let when_exhausted = match dead_letter {
        Some(choice) => WhenExhausted::from(choice),
        None if ordered => WhenExhausted::ParkKey,
        None => WhenExhausted::DeadLetterAndContinue,
    };
    if !ordered && when_exhausted == WhenExhausted::ParkKey {
        let what = format!("`{id}` is unordered, and parks a key");
        return Err(Error::new(Code::CONFIG_CONTRADICTS, what)
            .why("parking keeps a key in order; an unordered subscription has no order to keep")
            .remedy("say `DeadLetter::Continue`, or drop `.unordered()`"));
    }
    let mut limits = Limits::default();
    limits.concurrency = concurrency.unwrap_or(limits.concurrency).max(1);
    Ok(Subscription {
        policy: Policy {
            ordered,
            when_exhausted,
            limits,
            ..Policy::default()
        },
        start: start.unwrap_or(SeekTo::Earliest),
        replays: start.is_some_and(|s| s != SeekTo::Latest),
        lease: lease.unwrap_or(SubscriptionSpec::LEASE_DEFAULT),
        id,
        handlers,
    })
}

fn no_type_twice(id: &SubscriptionId, handlers: &[Configured]) -> Result {
    for (i, a) in handlers.iter().map(|h| h.description).enumerate() {
        let twin = handlers.iter().skip(i + 1).map(|h| h.description);
        if let Some(b) = twin.into_iter().find(|b| b.message_type == a.message_type) {
            let what = format!(
                "`{}` and `{}` both take `{}` of {}",
                a.name,
                b.name,
                if a.message_type.is_empty() {
                    "every type"
                } else {
                    a.message_type
                },
                id.on
            );
            return Err(Error::new(Code::HANDLER_DUPLICATE, what));
        }
    }
    Ok(())
}

/// What the handlers of one subscription say of it.
struct Agree<'a> {
    id: &'a SubscriptionId,
    handlers: &'a [Configured],
}

impl Agree<'_> {
    /// What was said of one setting; those who say nothing agree.
    fn one<T: Copy + PartialEq + std::fmt::Debug>(
        &self,
        setting: &str,
        get: impl Fn(&SubscriptionWishes) -> Option<T>,
    ) -> Result<Option<T>> {
        let mut said: Option<(T, &str)> = None;
        for handler in self.handlers {
            let Some(value) = get(&handler.wishes) else {
                continue;
            };
            match said {
                Some((before, who)) if before != value => {
                    return Err(self.contradiction(
                        format!("`{who}` says {setting} {before:?}"),
                        format!("`{}` says {value:?}", handler.description.name),
                    ));
                }
                _ => said = Some((value, handler.description.name)),
            }
        }
        Ok(said.map(|(value, _)| value))
    }

    /// Keyed messages are ordered unless all of their handlers give it up: order is not lost by one handler's word.
    fn order(&self) -> Result<bool> {
        let keyed = || self.handlers.iter().filter(|h| h.description.keyed);
        let keeps = keyed().find(|h| !h.wishes.unordered);
        let gives_up = self.handlers.iter().find(|h| h.wishes.unordered);
        match (keeps, gives_up) {
            (Some(keeps), Some(gives_up)) => Err(self.contradiction(
                format!("`{}` says unordered", gives_up.description.name),
                format!("`{}` has a key and keeps its order", keeps.description.name),
            )),
            (keeps, _) => Ok(keeps.is_some()),
        }
    }

    fn contradiction(&self, one: String, other: String) -> Error {
        Error::new(
            Code::CONFIG_CONTRADICTS,
            format!("{}: {one}, {other}", self.id),
        )
        .why("the handlers of a service on one topic or queue share one subscription")
        .remedy("say the same on both, or split the service")
    }
}

#[cfg(test)]
mod tests;
