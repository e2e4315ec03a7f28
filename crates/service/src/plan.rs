//! The plan of a service: what each subscription needs and what the engine gives, printed in one block before anything starts.

use std::fmt::Write as _;

use postrider_core::capability::{Capability, Durability};
use postrider_core::code::Code;
use postrider_core::engine::EngineInfo;
use postrider_core::name::DestinationKind;
use postrider_core::plan::{Need, Plan, Verdict};
use postrider_core::policy::{Policy, WhenExhausted};
use postrider_core::store::StoreInfo;
use serde::Serialize;

use crate::error::{Error, Result};

/// What the needs of one subscription follow from.
pub(crate) struct Facts<'a> {
    pub(crate) kind: DestinationKind,
    pub(crate) policy: &'a Policy,
    pub(crate) replays: bool,
    /// The store that all its handlers commit in.
    pub(crate) store: Option<String>,
    /// Where its failure records live.
    pub(crate) failures: Option<String>,
    /// What a confirmed publish survives at least.
    pub(crate) durability: Durability,
}

/// What a subscription needs.
pub(crate) fn needs(facts: &Facts<'_>) -> Vec<Need> {
    let mut abilities = vec![Capability::ConfirmedPublish];
    if facts.kind == DestinationKind::Topic {
        abilities.push(Capability::FanOut);
    }
    if facts.policy.ordered {
        abilities.push(Capability::KeyOrder);
    }
    if facts.replays {
        abilities.push(Capability::Replay);
    }
    let abilities = abilities
        .into_iter()
        .map(|capability| Need::Ability { capability });
    let mut needs: Vec<Need> = abilities.collect();
    // Right after the confirmed publish, which it says the worth of.
    needs.insert(
        1,
        Need::Durability {
            at_least: facts.durability,
        },
    );
    if facts.policy.ordered {
        needs.push(Need::HoldUpTo {
            hold: facts.policy.limits.hold_max,
        });
    }
    needs.push(Need::EffectsOnce {
        store: facts.store.clone(),
    });
    needs.push(Need::FailureHome {
        store: facts.failures.clone(),
        gives_up_order: facts.policy.ordered
            && facts.policy.when_exhausted == WhenExhausted::DeadLetterAndContinue,
    });
    needs
}

/// One subscription in a service's plan.
#[derive(Clone, Debug, Serialize)]
pub struct SubscriptionPlan {
    /// What is needed and what is given.
    #[serde(flatten)]
    pub plan: Plan,
    /// The message types that have a handler.
    pub types: Vec<String>,
    /// What happens when a handler fails, and the bounds.
    pub policy: Policy,
}

/// What a service got: engine, store, and a plan per subscription.
#[derive(Clone, Debug, Serialize)]
pub struct ServicePlan {
    /// The service.
    pub service: String,
    /// The engine.
    pub engine: EngineInfo,
    /// Its stores.
    pub stores: Vec<StoreInfo>,
    /// Its subscriptions.
    pub subscriptions: Vec<SubscriptionPlan>,
}

impl ServicePlan {
    /// # Errors
    /// `PLAN_REFUSED`: a need is refused; the error names each.
    pub(crate) fn check(&self) -> Result {
        let mut refused = Vec::new();
        for one in &self.subscriptions {
            for row in one.plan.refused() {
                if let Verdict::Refused { why } = &row.verdict {
                    refused.push(format!(
                        "{} needs {}: {why}",
                        one.plan.subscription, row.need
                    ));
                }
            }
        }
        if refused.is_empty() {
            return Ok(());
        }
        Err(Error::new(Code::PLAN_REFUSED, refused.join("; ")))
    }

    pub(crate) fn deny_emulation(mut self) -> Self {
        for one in &mut self.subscriptions {
            one.plan = one.plan.clone().deny_emulation();
        }
        self
    }

    /// The block that is printed at the start: a line of the service and its engine, its stores, and a paragraph per subscription.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let engine = &self.engine;
        let durability = word(&engine.durability);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{} on {} {} ({}), {durability}",
            self.service, engine.product, engine.version, engine.location
        );
        for store in &self.stores {
            let _ = writeln!(
                text,
                "  store {} {} ({})",
                store.product, store.version, store.location
            );
        }
        for one in &self.subscriptions {
            let order = if one.policy.ordered {
                "ordered per key"
            } else {
                "unordered"
            };
            let types = one.types.join(", ");
            let concurrency = one.policy.limits.concurrency;
            let _ = writeln!(
                text,
                "  {}: {types}; {order}, {concurrency} at once; failed for good: {}",
                one.plan.subscription.on,
                failed(one.policy.when_exhausted)
            );
            let rows = one.plan.to_string();
            for row in rows.lines().skip(1) {
                let _ = writeln!(text, "  {row}");
            }
        }
        text
    }

    /// The same as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("a plan holds only text and numbers")
    }
}

const fn failed(when: WhenExhausted) -> &'static str {
    match when {
        WhenExhausted::ParkKey => "park the key",
        WhenExhausted::DeadLetterAndContinue => "dead-letter and continue",
        WhenExhausted::Stop => "stop",
    }
}

/// A unit variant as it stands in JSON, without quotes.
fn word(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_default();
    json.trim_matches('"').replace('_', " ")
}
