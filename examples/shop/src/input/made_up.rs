//! Orders made up from the seed: the n-th is always the same.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::row::Order;
use crate::seed::hash;

/// The `n`-th made-up order, from 1. One in a hundred costs nothing.
#[must_use]
pub fn made_up(seed: u64, n: u64) -> Order {
    let order_id = format!("order-{n:06}");
    let h = hash(seed, "made up", &order_id);
    // One each second since the beginning of 2026.
    let at = 1_767_225_600 + i64::try_from(n.min(1 << 32)).unwrap_or_default();
    let placed_at = OffsetDateTime::from_unix_timestamp(at)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok());
    Order {
        customer_id: format!("customer-{:04}", h % 5000),
        placed_at: placed_at.unwrap_or_else(|| "2026-01-01".to_owned()),
        quantity: 1 + ((h >> 16) % 5) as u32,
        cents: if (h >> 24).is_multiple_of(100) {
            0
        } else {
            499 + (h >> 32) % 25_000
        },
        order_id,
    }
}
