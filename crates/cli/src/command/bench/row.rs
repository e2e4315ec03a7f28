//! One line of a result.

use serde_json::{Map, Value, json};

use super::Size;
use super::place::Place;
use super::rounds::Rounds;

/// Two figures of one kind and their ratio, and what else was measured.
#[derive(Debug)]
pub(super) struct Row {
    name: &'static str,
    unit: &'static str,
    ours: f64,
    theirs: f64,
    ratio: f64,
    also: Map<String, Value>,
}

impl Row {
    /// Two figures.
    pub(super) fn new(name: &'static str, unit: &'static str, ours: f64, theirs: f64) -> Self {
        Self {
            name,
            unit,
            ours,
            theirs,
            ratio: if theirs == 0.0 { 0.0 } else { ours / theirs },
            also: Map::new(),
        }
    }

    /// The medians of rounds that took turns; the ratio is the median of theirs.
    pub(super) fn of(name: &'static str, unit: &'static str, rounds: &Rounds) -> Self {
        let row = Self {
            ratio: rounds.ratio(),
            ..Self::new(name, unit, rounds.ours(), rounds.theirs())
        };
        row.also("rounds", rounds.count() as f64)
    }

    /// Something else that was measured. Its name ends with its unit.
    pub(super) fn also(mut self, name: &str, value: f64) -> Self {
        self.also.insert(name.to_owned(), json!(rounded(value)));
        self
    }

    /// As a program reads it.
    pub(super) fn json(&self, place: &Place, size: Size) -> Value {
        let mut object = Map::new();
        object.insert("name".into(), json!(self.name));
        object.insert("ours".into(), json!(rounded(self.ours)));
        object.insert("theirs".into(), json!(rounded(self.theirs)));
        object.insert("ratio".into(), json!(rounded(self.ratio)));
        object.insert("unit".into(), json!(self.unit));
        object.extend(self.also.clone());
        object.insert("size".into(), json!(size.pick("small", "full")));
        object.extend(place.json());
        Value::Object(object)
    }

    /// As a person reads it.
    pub(super) fn text(&self) -> String {
        let (ours, theirs) = (shown(self.ours), shown(self.theirs));
        let mut text = format!(
            "{:<22} {ours:>12} {theirs:>12} {:>8} {}\n",
            self.name,
            shown(self.ratio),
            self.unit
        );
        for (name, value) in &self.also {
            text += &format!("    {:<30} {}\n", name.replace('_', " "), value);
        }
        text
    }
}

/// The heads of the columns.
pub(super) fn head() -> String {
    format!(
        "{:<22} {:>12} {:>12} {:>8} unit\n",
        "name", "ours", "theirs", "ratio"
    )
}

/// Four digits that mean something, and every digit before the point.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let digits = (3 - value.abs().log10().floor() as i32).clamp(0, 6);
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

fn shown(value: f64) -> String {
    rounded(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_digits_are_kept_and_none_before_the_point_is_lost() {
        for (value, is) in [
            (123_456.7, "123457"),
            (12.3456, "12.35"),
            (0.012_345_6, "0.01235"),
            (0.0, "0"),
        ] {
            assert_eq!(shown(value), is);
        }
        assert_eq!(shown(f64::NAN), "0");
    }

    #[test]
    fn the_ratio_of_rounds_is_the_median_of_ratios() {
        let mut rounds = Rounds::default();
        for (ours, theirs) in [(8.0, 10.0), (90.0, 100.0), (7.0, 10.0)] {
            rounds.add(ours, theirs);
        }
        let row = Row::of("x", "msg/s", &rounds);
        assert_eq!((row.ours, row.theirs, row.ratio), (8.0, 10.0, 0.8));
    }
}
