//! The balance sheet: what a run of the demo is judged by.

mod audit;
mod text;

use serde::Serialize;

pub use audit::{Audit, Given, audit};
pub use text::{cents, grouped, render};

#[cfg(test)]
mod tests;

/// The balance sheet. All fields up to `analytics_difference` are computed from the provider's file, the six databases and the input;
/// the rest is of this run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sheet {
    /// Rows of the input.
    pub rows: u64,
    /// Distinct valid ids.
    pub accepted: u64,
    /// Rows that do not parse.
    pub rejected: u64,
    /// Later valid rows of an id.
    pub repeated: u64,
    /// Orders that were shipped.
    pub shipped: u64,
    /// Orders that were charged, could not be shipped, and were refunded.
    pub refunded: u64,
    /// Orders that ended without a charge.
    pub cancelled: u64,
    /// Accepted orders that have not ended.
    pub in_flight: u64,
    /// Orders whose card was declined.
    pub declined: u64,
    /// Orders for which there was no stock.
    pub out_of_stock: u64,
    /// Money.
    pub cents: Cents,
    /// Requests whose key the provider knew, so that nothing was executed.
    pub provider_replays: u64,
    /// Orders that have not ended and of which there is no message, parked key or failure record.
    pub lost: u64,
    /// Charges beyond the first of an order.
    pub double_charged: u64,
    /// Events whose sequence was not above the last of their key, over all subscriptions.
    pub out_of_order: u64,
    /// Over all articles: initial − reserved − shipped − left, each without its sign.
    pub stock_difference: i64,
    /// Events minus notifications.
    pub notifications_difference: i64,
    /// Events minus counted events, and cents minus counted cents, each without its sign.
    pub analytics_difference: i64,
    /// What is of this run.
    #[serde(flatten)]
    pub run: RunFacts,
    /// Whether the ledger balances.
    pub balanced: bool,
}

/// Money, in cents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cents {
    /// Charged at the provider.
    pub charged: u64,
    /// Of the orders that were shipped.
    pub shipped: u64,
    /// Refunded at the provider.
    pub refunded: u64,
    /// Charged and not refunded, of orders that have not ended.
    pub in_flight: u64,
}

/// What is known of this run alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RunFacts {
    /// Retries of handlers.
    pub retries: u64,
    /// Failure records that wait for a person.
    pub dead_letters: u64,
    /// Failures that were handed back to their handler.
    pub redriven: u64,
    /// Messages that came again and were suppressed.
    pub duplicates_suppressed: u64,
    /// How often the services were killed.
    pub kills: u64,
    /// Per kill: how long until the first message was handled again (or, where none was left, until the services were ready).
    pub recovery_ms: Vec<u64>,
    /// Orders that ended per second.
    pub orders_per_s: f64,
    /// The engine.
    pub engine: String,
    /// What a confirmed message survives.
    pub durability: String,
}

impl Sheet {
    /// Whether everything adds up: the orders, the money, and each number that must be zero is.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.faults().is_empty()
    }

    /// What does not add up, one line each.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut equal = |what: &str, left: u64, right: u64| {
            if left != right {
                faults.push(format!("{what}: {left} is not {right}"));
            }
        };
        let ended = self.shipped + self.refunded + self.cancelled + self.in_flight;
        equal("accepted orders", self.accepted, ended);
        equal(
            "rows",
            self.rows,
            self.accepted + self.rejected + self.repeated,
        );
        let kept = self.cents.shipped + self.cents.refunded + self.cents.in_flight;
        equal("charged cents", self.cents.charged, kept);
        equal("lost orders", self.lost, 0);
        equal("double charges", self.double_charged, 0);
        equal("events out of order", self.out_of_order, 0);
        for (what, difference) in [
            ("stock", self.stock_difference),
            ("notifications", self.notifications_difference),
            ("analytics", self.analytics_difference),
        ] {
            if difference != 0 {
                faults.push(format!("{what} differs by {difference}"));
            }
        }
        faults
    }
}
