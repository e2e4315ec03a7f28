//! Made-up orders as a CSV, with rows that repeat an id and rows that do not parse, and what the sheet
//! must say about them.

use crate::rng::Rng;

/// One row in so many repeats an earlier id; one in so many is bad.
const REPEAT_EVERY: u64 = 50;
const BAD_EVERY: u64 = 40;

/// What stands between an id that nobody else has and the end of a bad row, one way each.
const BAD_ROWS: [&str; 13] = [
    ",c-1,2026-01-02,1,",
    ",c-1,2026-01-02,1,-1.00",
    ",c-1,2026-01-02,1,1.234",
    ",c-1,2026-01-02,1,1000000.01",
    ",c-1,2026-01-02,1,ten",
    ",c-1,2026-01-02,0,5.00",
    ",c-1,2026-01-02,10001,5.00",
    ",c-1,2026-01-02,1.5,5.00",
    ",c-1,yesterday,1,5.00",
    ",c-1,2026-02-30,1,5.00",
    ",,2026-01-02,1,5.00",
    ",c-1",
    "",
];

/// A file of orders and the counts that follow from it.
pub(crate) struct Orders {
    pub(crate) csv: String,
    /// Rows after the header: accepted, repeated and rejected.
    pub(crate) rows: u64,
    pub(crate) accepted: u64,
    pub(crate) repeated: u64,
    pub(crate) rejected: u64,
}

impl Orders {
    /// `count` distinct valid orders, with repeated and bad rows between them. The same seed gives the
    /// same bytes.
    pub(crate) fn generate(count: u64, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let csv = "order_id,customer_id,placed_at,quantity,amount\n".to_owned();
        let mut orders = Self {
            csv,
            rows: 0,
            accepted: 0,
            repeated: 0,
            rejected: 0,
        };
        for number in 0..count {
            orders.row(&valid(number, &mut rng));
            orders.accepted += 1;
            if number % REPEAT_EVERY == 1 {
                let earlier = rng.range(0, number + 1);
                orders.row(&valid(earlier, &mut rng));
                orders.repeated += 1;
            }
            if number % BAD_EVERY == 0 {
                orders.row(&bad(number / BAD_EVERY));
                orders.rejected += 1;
            }
        }
        orders
    }

    fn row(&mut self, text: &str) {
        self.csv.push_str(text);
        self.csv.push('\n');
        self.rows += 1;
    }
}

fn valid(number: u64, rng: &mut Rng) -> String {
    let customer = match rng.range(0, 20) {
        0 => "\"Smith, John \"\"Jr\"\"\"".to_owned(),
        _ => format!("c-{}", rng.range(0, 2000)),
    };
    let (month, day) = (rng.range(1, 13), rng.range(1, 29));
    let date = format!("2026-{month:02}-{day:02}");
    let placed_at = match rng.range(0, 3) {
        0 => date,
        1 => format!("{date}T{:02}:30:00Z", rng.range(0, 24)),
        _ => format!("{date}T{:02}:30:00.25+02:00", rng.range(0, 24)),
    };
    let quantity = if rng.chance(1, 1000) {
        10_000
    } else {
        rng.range(1, 6)
    };
    let units = rng.range(1, 1000);
    let amount = match rng.range(0, 100) {
        0 => "0".to_owned(),
        1 => "1000000.00".to_owned(),
        2..10 => units.to_string(),
        10..20 => format!("{units}.{}", rng.range(0, 10)),
        _ => format!("{units}.{:02}", rng.range(0, 100)),
    };
    format!("order-{number:06},{customer},{placed_at},{quantity},{amount}")
}

fn bad(number: u64) -> String {
    let kind = usize::try_from(number % BAD_ROWS.len() as u64).expect("a small number");
    match BAD_ROWS[kind] {
        // The last kind has no id.
        "" => ",c-1,2026-01-02,1,5.00".to_owned(),
        rest => format!("bad-{number}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_add_up_to_the_rows_of_the_file() {
        let orders = Orders::generate(2_000, 7);
        assert_eq!(orders.accepted, 2_000);
        assert_eq!((orders.repeated, orders.rejected), (40, 50));
        assert_eq!(
            orders.accepted + orders.repeated + orders.rejected,
            orders.rows
        );
        assert_eq!(orders.csv.lines().count() as u64, orders.rows + 1);
        for bad in BAD_ROWS.iter().filter(|bad| !bad.is_empty()) {
            assert!(
                orders
                    .csv
                    .lines()
                    .any(|l| l.starts_with("bad-") && l.ends_with(bad)),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_seed_is_a_file() {
        assert_eq!(Orders::generate(500, 3).csv, Orders::generate(500, 3).csv);
        assert_ne!(Orders::generate(500, 3).csv, Orders::generate(500, 4).csv);
    }
}
