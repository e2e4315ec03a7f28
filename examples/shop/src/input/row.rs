//! One row of the order file: what makes it valid.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use time::format_description::well_known::{Iso8601, Rfc3339};
use time::{Date, OffsetDateTime};

/// The longest id, in bytes: a message key can carry it.
const ID_BYTES_MAX: usize = 1024;
/// The largest quantity of one order.
const QUANTITY_MAX: u32 = 10_000;
/// The largest amount of one order, in cents.
const CENTS_MAX: u64 = 100_000_000;

/// A valid order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its identity.
    pub order_id: String,
    /// Who ordered.
    pub customer_id: String,
    /// When, as the input says it.
    pub placed_at: String,
    /// How many of its article, 1 to [`QUANTITY_MAX`].
    pub quantity: u32,
    /// The order's total, 0 to [`CENTS_MAX`].
    pub cents: u64,
}

/// The five fields of a row, as they stand in the file.
pub(super) struct Fields<'a> {
    pub(super) order_id: &'a [u8],
    pub(super) customer_id: &'a [u8],
    pub(super) placed_at: &'a [u8],
    pub(super) quantity: &'a [u8],
    pub(super) amount: &'a [u8],
}

impl Fields<'_> {
    /// The order, or why the row is rejected.
    pub(super) fn parse(&self) -> Result<Order, Cow<'static, str>> {
        let placed_at = text("placed_at", self.placed_at)?;
        check_time(placed_at)?;
        Ok(Order {
            order_id: id("order_id", self.order_id)?.to_owned(),
            customer_id: id("customer_id", self.customer_id)?.to_owned(),
            placed_at: placed_at.to_owned(),
            quantity: quantity(text("quantity", self.quantity)?)?,
            cents: cents(text("amount", self.amount)?)?,
        })
    }
}

fn text<'a>(column: &str, bytes: &'a [u8]) -> Result<&'a str, Cow<'static, str>> {
    std::str::from_utf8(bytes)
        .map(str::trim)
        .map_err(|_| format!("{column} is not UTF-8 text").into())
}

fn id<'a>(column: &str, bytes: &'a [u8]) -> Result<&'a str, Cow<'static, str>> {
    let id = text(column, bytes)?;
    if id.is_empty() {
        return Err(format!("{column} is empty").into());
    }
    if id.len() > ID_BYTES_MAX {
        return Err(format!("{column} is longer than {ID_BYTES_MAX} bytes").into());
    }
    Ok(id)
}

fn check_time(text: &str) -> Result<(), Cow<'static, str>> {
    let is_date = || text.len() == 10 && Date::parse(text, &Iso8601::DATE).is_ok();
    let is_time = || {
        // RFC 3339 §5.6 lets a space stand for the T.
        let with_t = match text.as_bytes().get(10) {
            Some(b' ') => Cow::Owned(format!(
                "{}T{}",
                text.get(..10).unwrap_or_default(),
                text.get(11..).unwrap_or_default()
            )),
            _ => Cow::Borrowed(text),
        };
        OffsetDateTime::parse(&with_t, &Rfc3339).is_ok()
    };
    if is_date() || is_time() {
        Ok(())
    } else {
        Err("placed_at is neither a date (2026-01-31) nor an RFC 3339 time".into())
    }
}

fn quantity(text: &str) -> Result<u32, Cow<'static, str>> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse::<u32>()
        .ok()
        .filter(|n| digits && (1..=QUANTITY_MAX).contains(n))
        .ok_or(Cow::Borrowed(
            "quantity is not a whole number from 1 to 10000",
        ))
}

/// Cents, exactly: no floating point touches money.
fn cents(text: &str) -> Result<u64, Cow<'static, str>> {
    let wrong = Cow::Borrowed("amount is not a decimal from 0 to 1000000 with at most two places");
    let (whole, places) = text.split_once('.').unwrap_or((text, "00"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(places) || places.len() > 2 {
        return Err(wrong);
    }
    let scale = if places.len() == 1 { 10 } else { 1 };
    let total = whole.parse::<u64>().ok().and_then(|whole| {
        whole
            .checked_mul(100)?
            .checked_add(places.parse::<u64>().ok()? * scale)
    });
    total.filter(|c| *c <= CENTS_MAX).ok_or(wrong)
}
