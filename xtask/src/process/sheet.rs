//! The balance sheet that `postrider demo --ci --json` prints, and what must hold in it.
//!
//! The names are all here: when the sheet changes, this file does. Amounts are `cents_charged` and so
//! on, or `charged` inside an object `cents`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::orders::Orders;

/// Equal in every run on the same orders and seed, however often it was broken.
const SAME: [&str; 12] = [
    "rows",
    "accepted",
    "rejected",
    "repeated",
    "shipped",
    "refunded",
    "cancelled",
    "declined",
    "out_of_stock",
    "cents_charged",
    "cents_shipped",
    "cents_refunded",
];

/// Zero when every order has ended and nothing is wrong.
const ZERO: [&str; 8] = [
    "in_flight",
    "cents_in_flight",
    "lost",
    "double_charged",
    "out_of_order",
    "stock_difference",
    "notifications_difference",
    "analytics_difference",
];

/// From this many orders on, each of the ways an order can end must have been taken.
const ORDERS_FOR_ALL_ENDS: u64 = 1_000;

/// One balance sheet.
#[derive(Debug)]
pub(crate) struct Sheet(Value);

impl Sheet {
    /// Standard output of the demo: one JSON object and nothing else.
    pub(crate) fn parse(output: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(output).context("not one JSON object")?;
        ensure!(value.is_object(), "not a JSON object");
        Ok(Self(value))
    }

    fn field(&self, name: &str) -> Option<&Value> {
        let grouped = || {
            let (group, rest) = name.split_once('_')?;
            self.0.get(group)?.get(rest)
        };
        self.0.get(name).or_else(grouped)
    }

    /// A whole number of the sheet. Wide, so that no sum of cents can overflow.
    pub(crate) fn number(&self, name: &str) -> Result<i128> {
        let value = self
            .field(name)
            .with_context(|| format!("the sheet has no {name}"))?;
        let number = value
            .as_i64()
            .map(i128::from)
            .or_else(|| value.as_u64().map(i128::from));
        number.with_context(|| format!("{name} is {value}, not a whole number"))
    }

    /// A list of whole numbers.
    pub(crate) fn numbers(&self, name: &str) -> Result<Vec<u64>> {
        let list = self.field(name).and_then(Value::as_array);
        let list = list.with_context(|| format!("the sheet has no list {name}"))?;
        let number = |value: &Value| {
            let number = value.as_u64();
            number.with_context(|| format!("{name} has {value}, not a whole number"))
        };
        list.iter().map(number).collect()
    }

    /// Everything in this sheet that contradicts itself or the input.
    pub(crate) fn problems(&self, orders: &Orders) -> Vec<String> {
        let mut wrong = self
            .find(orders)
            .unwrap_or_else(|error| vec![format!("{error:#}")]);
        if self.0.get("balanced") != Some(&Value::Bool(true)) {
            wrong.push("balanced is not true".to_owned());
        }
        wrong
    }

    fn find(&self, orders: &Orders) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        let mut equal = |what: &str, is: i128, must: i128| {
            if is != must {
                wrong.push(format!("{what} is {is}, and must be {must}"));
            }
        };
        for (name, must) in [
            ("rows", orders.rows),
            ("accepted", orders.accepted),
            ("rejected", orders.rejected),
            ("repeated", orders.repeated),
        ] {
            equal(name, self.number(name)?, i128::from(must));
        }
        for name in ZERO {
            equal(name, self.number(name)?, 0);
        }
        let sum = |names: &[&str]| {
            names
                .iter()
                .map(|name| self.number(name))
                .sum::<Result<i128>>()
        };
        let ended = sum(&["shipped", "refunded", "cancelled", "in_flight"])?;
        equal(
            "shipped + refunded + cancelled + in_flight",
            ended,
            self.number("accepted")?,
        );
        let kept = sum(&["cents_shipped", "cents_refunded", "cents_in_flight"])?;
        equal(
            "cents shipped + refunded + in flight",
            kept,
            self.number("cents_charged")?,
        );
        if orders.accepted >= ORDERS_FOR_ALL_ENDS {
            for name in ["shipped", "declined", "out_of_stock"] {
                if self.number(name)? == 0 {
                    wrong.push(format!("{name} is 0: that way was not tested"));
                }
            }
        }
        Ok(wrong)
    }

    /// The provider's own file must tell the same: no charge or refund of an order was executed twice,
    /// and the sums are those of the sheet.
    pub(crate) fn against_provider(&self, path: &Path) -> Result<Vec<String>> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the provider's file {}", path.display()))?;
        let mut wrong = Vec::new();
        let mut executed = BTreeSet::new();
        let (mut charged, mut refunded, mut replays) = (0_i128, 0_i128, 0_i128);
        for (index, line) in text.lines().enumerate() {
            let place = || format!("provider.jsonl:{}", index + 1);
            let answer: Value = serde_json::from_str(line).with_context(place)?;
            let word = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default();
            if answer.get("replayed") == Some(&Value::Bool(true)) {
                replays += 1;
                continue;
            }
            // A card that was declined moved no money.
            if answer.get("declined") == Some(&Value::Bool(true)) {
                continue;
            }
            let (op, order) = (word("op"), word("order"));
            if !executed.insert((op.to_owned(), order.to_owned())) {
                wrong.push(format!("{}: a second {op} of {order}", place()));
            }
            let cents = answer
                .get("cents")
                .and_then(Value::as_i64)
                .with_context(place)?;
            match op {
                "charge" => charged += i128::from(cents),
                "refund" => refunded += i128::from(cents),
                _ => wrong.push(format!("{}: unknown op {op:?}", place())),
            }
        }
        for (name, sum) in [
            ("cents_charged", charged),
            ("cents_refunded", refunded),
            ("provider_replays", replays),
        ] {
            let says = self.number(name)?;
            if says != sum {
                wrong.push(format!(
                    "{name} is {says}, and {sum} by the provider's file"
                ));
            }
        }
        Ok(wrong)
    }

    /// An error that lists where this sheet is not the sheet of the unbroken run.
    pub(crate) fn same_as(&self, unbroken: &Self) -> Result<()> {
        let mut wrong = Vec::new();
        for name in SAME {
            let (is, must) = (self.number(name)?, unbroken.number(name)?);
            if is != must {
                wrong.push(format!("{name} is {is}, and {must} in the unbroken run"));
            }
        }
        ensure!(
            wrong.is_empty(),
            "not the sheet of the unbroken run:\n{}\n{self}",
            wrong.join("\n")
        );
        Ok(())
    }

    /// One line for a person; a name that is missing is left out.
    pub(crate) fn summary(&self) -> String {
        let names = [
            "shipped",
            "refunded",
            "cancelled",
            "retries",
            "kills",
            "orders_per_s",
        ];
        let said = names
            .iter()
            .filter_map(|name| Some(format!("{name} {}", self.field(name)?)));
        let recovery = self.numbers("recovery_ms").unwrap_or_default();
        let recovery = Spread::of(recovery).map(|s| format!("recovery {s} ms"));
        said.chain(recovery).collect::<Vec<_>>().join(", ")
    }
}

/// The least, the middle and the most of some numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    pub(crate) min: u64,
    pub(crate) median: u64,
    pub(crate) max: u64,
}

impl Spread {
    /// `None` of none.
    pub(crate) fn of(mut numbers: Vec<u64>) -> Option<Self> {
        numbers.sort_unstable();
        Some(Self {
            min: *numbers.first()?,
            median: *numbers.get(numbers.len() / 2)?,
            max: *numbers.last()?,
        })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min, median, max } = self;
        write!(f, "{min} to {max} (half of them at most {median})")
    }
}

impl fmt::Display for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

/// How many messages are set aside as killers, by what `postrider dlq groups -o json` says; `None` where it does not say that.
pub(crate) fn condemned(groups: &Value) -> Option<u64> {
    let count = |group: &Value| {
        let count = group.get("count")?.as_u64()?;
        let is_killer = group.get("cause")?.as_str()? == "crash_loop";
        Some(if is_killer { count } else { 0 })
    };
    groups.as_array()?.iter().map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn orders() -> Orders {
        Orders {
            csv: String::new(),
            rows: 13,
            accepted: 10,
            repeated: 1,
            rejected: 2,
        }
    }

    fn balanced() -> Value {
        json!({
            "rows": 13, "accepted": 10, "rejected": 2, "repeated": 1,
            "shipped": 7, "refunded": 1, "cancelled": 2, "in_flight": 0, "declined": 1, "out_of_stock": 2,
            "cents": { "charged": 800, "shipped": 700, "refunded": 100, "in_flight": 0 },
            "provider_replays": 1, "lost": 0, "double_charged": 0, "out_of_order": 0,
            "stock_difference": 0, "notifications_difference": 0, "analytics_difference": 0,
            "kills": 0, "balanced": true,
        })
    }

    fn changed(name: &str, value: Value) -> Sheet {
        let mut sheet = balanced();
        sheet[name] = value;
        Sheet(sheet)
    }

    #[test]
    fn a_balanced_sheet_has_no_problem() {
        assert_eq!(Sheet(balanced()).problems(&orders()), Vec::<String>::new());
    }

    #[test]
    fn every_planted_imbalance_is_found() {
        for name in [
            "rows",
            "accepted",
            "lost",
            "double_charged",
            "out_of_order",
            "shipped",
            "stock_difference",
        ] {
            let wrong = changed(name, json!(99)).problems(&orders());
            assert!(wrong.iter().any(|w| w.contains(name)), "{name}: {wrong:?}");
        }
        assert_eq!(
            changed("balanced", json!(false)).problems(&orders()).len(),
            1
        );
        let cents = json!({ "charged": 801, "shipped": 700, "refunded": 100, "in_flight": 0 });
        assert_eq!(changed("cents", cents).problems(&orders()).len(), 1);
        assert!(changed("lost", json!("none")).problems(&orders())[0].contains("lost"));
    }

    #[test]
    fn a_sheet_that_differs_from_the_unbroken_run_is_found() {
        let unbroken = Sheet(balanced());
        assert!(changed("retries", json!(4)).same_as(&unbroken).is_ok());
        let error = changed("refunded", json!(2))
            .same_as(&unbroken)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("refunded is 2, and 1 in the unbroken run"),
            "{error}"
        );
    }

    #[test]
    fn messages_that_are_set_aside_as_killers_are_counted() {
        let unreadable = json!({"cause": "unreadable", "count": 43});
        let killer = json!({"cause": "crash_loop", "count": 2});
        assert_eq!(condemned(&json!([])), Some(0));
        assert_eq!(condemned(&json!([unreadable])), Some(0));
        assert_eq!(condemned(&json!([unreadable, killer])), Some(2));
        assert_eq!(condemned(&json!([{"count": 1}])), None);
        assert_eq!(condemned(&json!({})), None);
    }

    #[test]
    fn recoveries_are_read_and_summed_up() {
        let sheet = changed("recovery_ms", json!([90, 40, 60]));
        let recoveries = sheet.numbers("recovery_ms").unwrap();
        let spread = Spread::of(recoveries).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (40, 60, 90));
        assert!(
            sheet
                .summary()
                .ends_with("recovery 40 to 90 (half of them at most 60) ms")
        );
        assert!(
            changed("recovery_ms", json!([-1]))
                .numbers("recovery_ms")
                .is_err()
        );
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn a_second_charge_in_the_provider_file_is_found() {
        let dir = std::env::temp_dir().join(format!("postrider-xtask-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("provider.jsonl");
        let line = |op: &str, order: &str, cents: u64, replayed: bool| {
            json!({ "op": op, "key": order, "order": order, "cents": cents, "replayed": replayed })
                .to_string()
                + "\n"
        };
        let sound = line("charge", "a", 700, false)
            + &line("charge", "b", 100, false)
            + &line("charge", "b", 100, true)
            + &line("refund", "b", 100, false);
        fs::write(&path, &sound).unwrap();
        assert_eq!(
            Sheet(balanced()).against_provider(&path).unwrap(),
            Vec::<String>::new()
        );
        fs::write(&path, sound + &line("charge", "a", 0, false)).unwrap();
        let wrong = Sheet(balanced()).against_provider(&path).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(wrong, ["provider.jsonl:5: a second charge of a"]);
    }
}
