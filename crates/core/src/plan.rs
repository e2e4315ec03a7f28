//! The plan: what a subscription needs, and what the engine gives for each need. Refused means that the service does not start.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::capability::{Capabilities, Capability, Durability, Support};
use crate::engine::EngineInfo;
use crate::name::SubscriptionId;

/// One need of a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "need", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Need {
    /// An ability.
    Ability {
        /// Which.
        capability: Capability,
    },
    /// Confirmed messages survive at least this.
    Durability {
        /// What they survive.
        at_least: Durability,
    },
    /// A message may be held this long in all.
    HoldUpTo {
        /// How long.
        hold: Duration,
    },
    /// Messages are delayed up to this.
    DelayUpTo {
        /// How long.
        delay: Duration,
    },
    /// Messages are up to this large, encoded.
    SizeUpTo {
        /// Bytes.
        bytes: usize,
    },
    /// A handler's effects happen once: a store commits inbox, state and outgoing messages together.
    EffectsOnce {
        /// The store's scope where there is one.
        store: Option<String>,
    },
    /// What becomes of a message that failed for good.
    FailureHome {
        /// The failure store, where there is one.
        store: Option<String>,
        /// Whether failing for good gives up order for that key.
        gives_up_order: bool,
    },
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ability { capability } => write!(f, "{}", words(*capability)),
            Self::Durability { at_least } => f.write_str(survives(*at_least)),
            Self::HoldUpTo { hold } => write!(f, "hold up to {hold:?}"),
            Self::DelayUpTo { delay } => write!(f, "delay up to {delay:?}"),
            Self::SizeUpTo { bytes } => write!(f, "messages up to {bytes} bytes"),
            Self::EffectsOnce { .. } => f.write_str("effects once"),
            Self::FailureHome { .. } => f.write_str("failures kept"),
        }
    }
}

const fn survives(durability: Durability) -> &'static str {
    match durability {
        Durability::Memory => "confirmed messages live in memory only",
        Durability::Os => "confirmed messages survive the death of the process",
        Durability::Interval => {
            "confirmed messages survive the death of the process, and a power cut but for the last interval"
        }
        Durability::Replicated => "confirmed messages survive the loss of a minority of machines",
        Durability::Flushed => "confirmed messages survive a power cut",
        Durability::ReplicatedFlushed => {
            "confirmed messages survive a power cut and the loss of a minority of machines"
        }
    }
}

const fn words(capability: Capability) -> &'static str {
    match capability {
        Capability::ConfirmedPublish => "confirmed publish",
        Capability::KeyOrder => "order per key",
        Capability::CompetingConsumers => "competing consumers",
        Capability::FanOut => "fan-out",
        Capability::LeaseExtension => "lease extension",
        Capability::DelayedDelivery => "delayed delivery",
        Capability::CancelDelayed => "cancel a delayed message",
        Capability::Expiry => "expiry",
        Capability::Replay => "replay",
        Capability::PublishDedupe => "dedupe at publish",
        Capability::DelayedRetry => "retry after a delay in the engine",
        Capability::AtomicSettle => "publish and settle at once",
        Capability::AtomicDeadLetter => "dead letter at once",
        Capability::FailureStore => "failure store",
        Capability::RequestReply => "request-reply",
        Capability::ExpectedVersion => "expected version",
        Capability::Lag => "depth and lag",
        Capability::Backup => "backup while running",
    }
}

/// What an engine gives for one need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// As it is.
    Native,
    /// By other means.
    Emulated {
        /// How.
        how: String,
        /// At what cost.
        cost: String,
    },
    /// Not at all; the service does not start.
    Refused {
        /// Why.
        why: String,
    },
}

/// One row of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanRow {
    /// What is needed.
    #[serde(flatten)]
    pub need: Need,
    /// What is given.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What an engine gives one subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Whose plan it is. Written as text: `inventory@topic:shop.order`.
    #[serde(serialize_with = "as_text")]
    pub subscription: SubscriptionId,
    /// A row per need.
    pub rows: Vec<PlanRow>,
}

fn as_text<S: serde::Serializer>(id: &SubscriptionId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

impl Plan {
    /// Answers each need from what the engine states of itself.
    #[must_use]
    pub fn of(subscription: SubscriptionId, needs: Vec<Need>, engine: &EngineInfo) -> Self {
        let rows = needs
            .into_iter()
            .map(|need| PlanRow {
                verdict: answer(&need, &engine.capabilities, engine.durability),
                need,
            })
            .collect();
        Self { subscription, rows }
    }

    /// The rows that are refused.
    pub fn refused(&self) -> impl Iterator<Item = &PlanRow> {
        self.rows
            .iter()
            .filter(|r| matches!(r.verdict, Verdict::Refused { .. }))
    }

    /// The same plan where everything emulated is refused (`emulation = deny`).
    #[must_use]
    pub fn deny_emulation(mut self) -> Self {
        for row in &mut self.rows {
            if let Verdict::Emulated { how, .. } = &row.verdict {
                row.verdict = Verdict::Refused {
                    why: format!("only emulated ({how}), and emulation is denied"),
                };
            }
        }
        self
    }
}

fn answer(need: &Need, can: &Capabilities, durability: Durability) -> Verdict {
    let refused = |why: String| Verdict::Refused { why };
    match need {
        Need::Ability { capability } => match can.of(*capability) {
            Support::Native => Verdict::Native,
            Support::Emulated { how, cost } => Verdict::Emulated {
                how: (*how).into(),
                cost: (*cost).into(),
            },
            Support::Absent { why } => refused((*why).into()),
        },
        Need::Durability { at_least } if durability >= *at_least => Verdict::Native,
        Need::Durability { .. } => refused(format!(
            "the engine gives {durability:?} as it is configured"
        )),
        Need::HoldUpTo { hold } => {
            within(can.hold_max, *hold, "the engine takes a message back after")
        }
        Need::DelayUpTo { delay } => within(can.delay_max, *delay, "the engine delays at most"),
        Need::SizeUpTo { bytes } if *bytes <= can.message_bytes_max => Verdict::Native,
        Need::SizeUpTo { .. } => refused(format!(
            "the engine takes at most {} bytes",
            can.message_bytes_max
        )),
        Need::EffectsOnce { store: Some(store) } => Verdict::Emulated {
            how: format!("inbox, state and outbox in one commit of {store}"),
            cost: "one commit per delivery, and a relay".into(),
        },
        Need::EffectsOnce { store: None } => Verdict::Emulated {
            how: "at least once: the handler has no transaction".into(),
            cost: "effects may happen again after a crash".into(),
        },
        Need::FailureHome { store: None, .. } => Verdict::Emulated {
            how: "no failure store: hold, or dead-letter to the engine and continue".into(),
            cost: "no parking; attempts start anew after a crash".into(),
        },
        Need::FailureHome {
            store: Some(store),
            gives_up_order: true,
        } => Verdict::Emulated {
            how: format!("records in {store}; the key goes on"),
            cost: "gives up order for that key".into(),
        },
        Need::FailureHome {
            store: Some(_),
            gives_up_order: false,
        } => Verdict::Native,
    }
}

fn within(limit: Option<Duration>, wanted: Duration, text: &str) -> Verdict {
    match limit {
        Some(limit) if wanted > limit => Verdict::Refused {
            why: format!("{text} {limit:?}"),
        },
        _ => Verdict::Native,
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.subscription)?;
        for row in &self.rows {
            match &row.verdict {
                Verdict::Native => writeln!(f, "  native    {}", row.need)?,
                Verdict::Emulated { how, cost } => {
                    writeln!(f, "  emulated  {} — {how}; {cost}", row.need)?
                }
                Verdict::Refused { why } => writeln!(f, "  REFUSED   {} — {why}", row.need)?,
            }
        }
        Ok(())
    }
}
