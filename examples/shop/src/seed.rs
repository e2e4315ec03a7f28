//! What the seed decides about an order. A pure function of (seed, order id), so that the provider, the services, a resumed run and
//! a test all agree, and so that the outcome of an order never depends on timing.

/// How many articles the shop sells; an order is for one of them.
pub const ARTICLES: usize = 20;

/// The article of which there is none.
pub const SOLD_OUT: &str = "sku-sold-out";

/// What becomes of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is paid and shipped.
    Ordinary,
    /// It is for an article of which there is none: cancelled, and refunded where it was charged.
    OutOfStock,
    /// The card is declined: cancelled, stock released.
    Declined,
    /// The customer cancels through a second channel, and that event is accepted first: the cancellation arrives before the charge.
    CancelledFirst,
}

/// 64 bits of (seed, purpose, id): FNV-1a, then the finalizer of SplitMix64. For decisions of the demo, never for secrets.
#[must_use]
pub fn hash(seed: u64, purpose: &str, id: &str) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in purpose.bytes().chain([0]).chain(id.bytes()) {
        h = (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

/// Whether something with this share (in thousandths) happens.
#[must_use]
pub fn happens(seed: u64, purpose: &str, id: &str, permille: u32) -> bool {
    hash(seed, purpose, id) % 1000 < u64::from(permille)
}

/// What becomes of the order: 3 % find no stock, 3 % are declined, 1 % are cancelled first. No order is two of these.
#[must_use]
pub fn fate(seed: u64, order_id: &str) -> Fate {
    match hash(seed, "fate", order_id) % 1000 {
        0..30 => Fate::OutOfStock,
        30..60 => Fate::Declined,
        60..70 => Fate::CancelledFirst,
        _ => Fate::Ordinary,
    }
}

/// Which article of the shop (below [`ARTICLES`]) the order is for; `None`: the one that is sold out.
#[must_use]
pub fn article(seed: u64, order_id: &str) -> Option<usize> {
    (fate(seed, order_id) != Fate::OutOfStock)
        .then(|| (hash(seed, "article", order_id) % ARTICLES as u64) as usize)
}

/// The article's name.
#[must_use]
pub fn sku(article: Option<usize>) -> String {
    article.map_or_else(|| SOLD_OUT.to_owned(), |n| format!("sku-{n:02}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_have_their_shares_and_depend_on_the_seed() {
        let mut count = [0_u32; 4];
        for n in 0..20_000 {
            count[fate(7, &format!("o-{n}")) as usize] += 1;
        }
        assert!(
            (450..750).contains(&count[Fate::OutOfStock as usize]),
            "{count:?}"
        );
        assert!(
            (450..750).contains(&count[Fate::Declined as usize]),
            "{count:?}"
        );
        assert!(
            (120..290).contains(&count[Fate::CancelledFirst as usize]),
            "{count:?}"
        );
        let differs = (0..2000).any(|n| fate(1, &n.to_string()) != fate(2, &n.to_string()));
        assert!(differs);
    }

    #[test]
    fn only_orders_without_stock_ask_for_the_sold_out_article() {
        for n in 0..2000 {
            let id = format!("order-{n}");
            assert_eq!(article(3, &id).is_none(), fate(3, &id) == Fate::OutOfStock);
        }
    }
}
