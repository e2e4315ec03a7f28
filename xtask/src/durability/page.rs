//! The page: tables from proofs, and the words around them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use crate::sh::Cmd;

const HEAD: &str = "# Durability

Written by `cargo xtask durability-report`; every figure was printed by a test in that run.

## What is claimed

| | |
|---|---|
| confirmed is kept | A publish whose receipt says `Flushed` survives `kill -9` and the failure of the power, whatever the disk does with what was not synced. |
| settled stays settled | An acknowledgement comes back after a crash only where it had not been synced, at most some 100 ms and a sync before it. |
| order | Per key nothing is skipped; after a crash a suffix is repeated, never more. |
| whole | Publish and settle, dead letter, park, and inbox, rows and outbox of a handler: all of it or nothing. |
| once | The effects of a transactional handler are there once, however often the message comes. |
| damage | A flipped bit is refused or does not matter; it is never served. A failed write or sync ends the engine; nothing is confirmed after it. |
";

const NOT_PROVEN: &str = "
## What is not proven

- No plug was pulled. The power cuts are simulated: writes that were not synced are lost, kept, torn at sectors and reordered, names are lost
  until their directory is synced. A disk that says that it synced and did not is not in it.
- The whole stack is simulated with a store in memory that has the contract of `stores/sqlite`. SQLite itself runs under `kill -9` and under
  planted bugs, and is trusted for its own recovery.
- The simulation steps the pump between the calls of others, never in the midst of one; what runs at the same instant on several threads is
  left to `kill -9` of the real binary.
- A flipped bit in the very last batch that was confirmed, where no later write or idle marker proves that batch, looks like a torn write after a
  crash: it is dropped, and never served, but not reported.
- Seeds are samples. What a bound says is that the bugs that were planted are found within it, not that there are no others.
";

/// What ran it.
pub(super) struct Machine {
    system: String,
    cores: usize,
    date: String,
    commit: String,
}

pub(super) fn machine() -> Machine {
    let say = |program: &str, args: &[&str]| {
        let said = Cmd::new(program).args(args.iter().copied()).capture();
        said.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
    };
    Machine {
        system: say("uname", &["-srm"]),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        date: say("date", &["-u", "+%Y-%m-%d"]),
        commit: say("git", &["rev-parse", "--short", "HEAD"]),
    }
}

pub(super) fn write(proofs: &[Value], machine: &Machine) -> String {
    let mut text = HEAD.to_owned();
    text.push_str(&in_all(proofs));
    let mut ran: Vec<&Value> = proofs.iter().collect();
    ran.retain(|proof| proof["name"] != "planted" && proof["name"] != "shrunk");
    ran.sort_by_key(|proof| word(proof, "name"));
    text.push_str("\n## What was run\n\n| test | what | figures |\n|---|---|---|\n");
    for proof in ran {
        row(
            &mut text,
            [word(proof, "name"), word(proof, "what"), figures(proof)],
        );
    }
    text.push_str(&bugs(proofs));
    text.push_str(NOT_PROVEN);
    let Machine {
        system,
        cores,
        date,
        commit,
    } = machine;
    let _ = write!(
        text,
        "\n## To repeat it\n\n```sh\ncargo xtask durability-report\ncargo xtask swarm --minutes 60      # other seeds, until the time is over\n```\n\n\
         {date}, commit {commit}, {system}, {cores} cores.\n"
    );
    text
}

/// Sums over the rows.
fn in_all(proofs: &[Value]) -> String {
    let sum = |names: &[&str], fields: &[&str]| -> u64 {
        let of = proofs.iter().filter(|proof| {
            let name = proof["name"].as_str().unwrap_or_default();
            names
                .iter()
                .any(|wanted| name.ends_with(wanted) || name.starts_with(wanted))
        });
        of.flat_map(|proof| fields.iter().filter_map(|field| proof[*field].as_u64()))
            .sum()
    };
    let cuts = ["crashes", "cuts", "power_cuts", "power_cuts_while_opening"];
    let (log, above) = planted(proofs);
    let rows = [
        (
            "seeds of the simulations",
            sum(&["_simulation"], &["seeds"]),
        ),
        ("simulated crashes and power cuts", sum(&[""], &cuts)),
        (
            "bits flipped in simulations",
            sum(&["_simulation"], &["flips", "flipped_bits"]),
        ),
        (
            "`kill -9` of real processes under load",
            sum(&["kills"], &["kills"]),
        ),
        ("inputs of the fuzz targets", sum(&["fuzz_"], &["inputs"])),
        ("bugs planted in the log, each found", log as u64),
        ("bugs planted above the log, each found", above as u64),
    ];
    let mut text = "\n## In all\n\n| | |\n|---|---:|\n".to_owned();
    for (what, count) in rows {
        row(&mut text, [what.to_owned(), count.to_string()]);
    }
    text
}

/// How many bugs were planted in the log, and above it. One may be found in two ways.
pub(super) fn planted(proofs: &[Value]) -> (usize, usize) {
    let planted = proofs.iter().filter(|proof| proof["name"] == "planted");
    let bugs: BTreeSet<(bool, String)> = planted
        .map(|proof| {
            let by = word(proof, "by");
            let in_log = matches!(by.as_str(), "Wal simulation" | "Log simulation");
            (in_log, word(proof, "bug"))
        })
        .collect();
    let log = bugs.iter().filter(|(in_log, _)| *in_log).count();
    (log, bugs.len() - log)
}

fn bugs(proofs: &[Value]) -> String {
    let of = |name: &'static str| proofs.iter().filter(move |proof| proof["name"] == name);
    let mut text = "\n## Bugs planted\n\nEach is one line in the code, there only in tests (`planted.rs` of `crates/log` and `crates/core`). Without a bug the \
                    same seeds pass.\n\n| bug | found by | in seeds | bound |\n|---|---|---:|---:|\n"
        .to_owned();
    for proof in of("planted") {
        let cells = ["bug", "by", "found_in_seeds", "within"].map(|name| word(proof, name));
        row(&mut text, cells);
    }
    text.push_str(
        "\nThe story of a seed that fails is shrunk to the operations that it needs:\n\n| bug | operations | left |\n|---|---:|---:|\n",
    );
    for proof in of("shrunk") {
        let cells = ["bug", "operations", "left"].map(|name| word(proof, name));
        row(&mut text, cells);
    }
    text
}

fn row<const N: usize>(text: &mut String, cells: [String; N]) {
    let cells = cells.map(|cell| cell.replace('|', "\\|"));
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn word(proof: &Value, name: &str) -> String {
    match &proof[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Everything but name and text.
fn figures(proof: &Value) -> String {
    let fields = proof.as_object().into_iter().flatten();
    let numbers = fields.filter(|(name, _)| !matches!(name.as_str(), "name" | "what"));
    let numbers =
        numbers.map(|(name, _)| format!("{} {}", word(proof, name), name.replace('_', " ")));
    numbers.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_proof_is_a_row() {
        let proofs = [
            r#"{"name":"a","what":"b|c","seeds":3}"#,
            r#"{"name":"planted","bug":"X","found_in_seeds":1,"within":2,"by":"s"}"#,
            r#"{"name":"planted","bug":"X","found_in_seeds":1,"within":2,"by":"another way"}"#,
            r#"{"name":"planted","bug":"X","found_in_seeds":1,"within":2,"by":"Log simulation"}"#,
            r#"{"name":"x_simulation","seeds":3,"flips":7,"crashes":20,"power_cuts":1,"kills":9}"#,
            r#"{"name":"y_simulation","seeds":4,"flipped_bits":1}"#,
            r#"{"name":"kills","kills":100}"#,
            r#"{"name":"kills_of_everything","kills":5}"#,
            r#"{"name":"fuzz_a","inputs":6}"#,
            r#"{"name":"shrunk","bug":"Y","operations":90,"left":3}"#,
        ];
        let proofs = proofs.map(|proof| serde_json::from_str(proof).unwrap());
        let machine = Machine {
            system: "Linux".into(),
            cores: 2,
            date: "2026-01-01".into(),
            commit: "abc".into(),
        };
        let page = write(&proofs, &machine);
        assert!(page.contains("| a | b\\|c | 3 seeds |"), "{page}");
        assert!(page.contains("| X | s | 1 | 2 |"), "{page}");
        assert!(page.contains("| Y | 90 | 3 |"), "{page}");
        for sum in [
            "| seeds of the simulations | 7 |",
            "| simulated crashes and power cuts | 21 |",
            "| bits flipped in simulations | 8 |",
            "| `kill -9` of real processes under load | 105 |",
            "| inputs of the fuzz targets | 6 |",
            "| bugs planted in the log, each found | 1 |",
            "| bugs planted above the log, each found | 1 |",
        ] {
            assert!(page.contains(sum), "{sum}: {page}");
        }
    }
}
