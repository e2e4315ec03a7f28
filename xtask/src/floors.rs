//! Who may import whom. The table below is the rule; `ARCHITECTURE.md` draws it.
//!
//! ```text
//!  6  fuzz ─▶ core, log, postrider, examples/shop
//!     cli ─▶ postrider, log, testkit, examples/shop        console
//!  5  testkit  conformance  examples/* ─▶ postrider        broker ─▶ log, core
//!  4  postrider ─▶ core, service, macros, engines/*, stores/*
//!  3  service ─▶ core, kernel
//!  2  kernel ─▶ core      engines/* ─▶ core      engines/embedded ─▶ core, log      stores/* ─▶ core
//!  1  core      log      macros                            (leaves: nothing of ours)
//! ```
//!
//! An arrow is an allowed import in `[dependencies]` and `[build-dependencies]`; nothing else is.
//! `[dev-dependencies]` may name the same and, beyond that: the tests of `service` may use `macros`, and those of `macros` `core`;
//! the tests of `postrider` and of the examples may use `testkit`, and those of `postrider` the simulated disk of `log`. Below the service no crate has an
//! async runtime anywhere in what it links (the engines and stores have one, for their drivers). No
//! crate is called common, types, util or shared: such a room has no subject, and fills with anything.
//! Nothing that a program is built of turns the feature `planted` on.

mod graph;
mod planted;
#[cfg(test)]
mod tests;

use anyhow::{Result, bail};

use crate::tally::Tally;
use crate::workspace::Workspace;
use graph::{Graph, Member};

const RULE: &str = "the table at the top of xtask/src/floors.rs; drawn in ARCHITECTURE.md";

/// What a crate of ours may import of ours. `engines/*` stands for every crate in that folder.
struct Floor {
    number: u8,
    may: &'static [&'static str],
    tests_may: &'static [&'static str],
}

/// Libraries that run or spawn futures, or own timers and sockets for them.
const ASYNC_RUNTIMES: [&str; 12] = [
    "tokio",
    "async-std",
    "smol",
    "async-io",
    "async-executor",
    "async-global-executor",
    "futures-executor",
    "glommio",
    "monoio",
    "compio",
    "embassy-executor",
    "mio",
];

/// Crates that decide and store: no runtime in their normal dependency closure.
const WITHOUT_RUNTIME: [&str; 4] = [
    "postrider-core",
    "postrider-log",
    "postrider-kernel",
    "postrider-macros",
];

const NAMES_WITHOUT_A_SUBJECT: [&str; 6] =
    ["common", "types", "util", "utils", "shared", "helpers"];

/// The rule for one member, by name first, then by folder. `None`: the crate has no place yet.
fn floor_of(member: &Member) -> Option<Floor> {
    let floor = |number, may, tests_may| {
        Some(Floor {
            number,
            may,
            tests_may,
        })
    };
    match member.name.as_str() {
        "postrider-core" | "postrider-log" => floor(1, &[], &[]),
        // What a derive writes can only be tested against the traits that it implements.
        "postrider-macros" => floor(1, &[], &["postrider-core"]),
        "postrider-kernel" => floor(2, &["postrider-core"], &[]),
        "postrider-embedded" => floor(2, &["postrider-core", "postrider-log"], &[]),
        "postrider-service" => floor(
            3,
            &["postrider-core", "postrider-kernel"],
            &["postrider-macros"],
        ),
        // The registry hands the contracts of `core` from the engines to the service.
        "postrider" => floor(
            4,
            &[
                "postrider-core",
                "postrider-service",
                "postrider-macros",
                "engines/*",
                "stores/*",
            ],
            // The simulated disk, on which the whole stack is tested.
            &["postrider-testkit", "postrider-log"],
        ),
        "postrider-testkit" | "postrider-conformance" => floor(5, &["postrider"], &[]),
        "postrider-broker" => floor(5, &["postrider-core", "postrider-log"], &[]),
        "postrider-console" => floor(6, &[], &[]),
        "postrider-cli" => floor(
            6,
            &["postrider", "postrider-log", "postrider-testkit", "shop"],
            &[],
        ),
        // Decoders of every floor.
        "postrider-fuzz" => floor(
            6,
            &["postrider-core", "postrider-log", "postrider", "shop"],
            &[],
        ),
        "xtask" => floor(7, &[], &[]),
        _ => match member.folder() {
            "engines" | "stores" => floor(2, &["postrider-core"], &[]),
            "examples" => floor(5, &["postrider"], &["postrider-testkit"]),
            _ => None,
        },
    }
}

pub(crate) fn run(workspace: &Workspace) -> Result<Tally> {
    let graph = Graph::read(workspace)?;
    let mut wrong = check(&graph);
    wrong.extend(planted::check(workspace));
    if wrong.is_empty() {
        println!(
            "floors: {} crates, every import is an arrow of the table",
            graph.members.len()
        );
        return Ok(Tally::default());
    }
    wrong.iter().for_each(|violation| println!("{violation}"));
    bail!("floors: {} wrong; the rule: {RULE}", wrong.len());
}

/// Every violation in the graph, as text for a person.
fn check(graph: &Graph) -> Vec<String> {
    let mut wrong = Vec::new();
    for member in &graph.members {
        check_name(member, &mut wrong);
        check_imports(graph, member, &mut wrong);
        check_runtime(graph, member, &mut wrong);
    }
    wrong
}

fn check_name(member: &Member, wrong: &mut Vec<String>) {
    let last = member.name.rsplit(['-', '_']).next().unwrap_or_default();
    if NAMES_WITHOUT_A_SUBJECT.contains(&last) {
        wrong.push(format!(
            "{}: a crate called {last} has no subject\n  do: name it after what it is about, or move each part to the crate that owns it",
            member.path,
        ));
    }
}

fn check_imports(graph: &Graph, member: &Member, wrong: &mut Vec<String>) {
    let Some(floor) = floor_of(member) else {
        wrong.push(format!(
            "{}: {} has no place in the table\n  do: give it a floor and its arrows in xtask/src/floors.rs, and in ARCHITECTURE.md",
            member.path, member.name,
        ));
        return;
    };
    let allowed = |list: &[&str], import: &str| {
        let folder = graph.member(import).map(Member::folder).unwrap_or_default();
        list.iter()
            .any(|may| *may == import || may.strip_suffix("/*") == Some(folder))
    };
    for import in &member.normal {
        if !allowed(floor.may, import) {
            wrong.push(refused(member, &floor, "imports", import));
        }
    }
    for import in &member.dev {
        if !allowed(floor.may, import) && !allowed(floor.tests_may, import) {
            wrong.push(refused(member, &floor, "imports for its tests", import));
        }
    }
}

fn refused(member: &Member, floor: &Floor, verb: &str, import: &str) -> String {
    let list = |names: &[&str]| match names {
        [] => "nothing of ours".to_owned(),
        _ => names.join(", "),
    };
    let tests = match floor.tests_may {
        [] => String::new(),
        names => format!("; its tests also {}", list(names)),
    };
    format!(
        "{}/Cargo.toml: {} {verb} {import}\n  why: {} stands on floor {} and may import {}{tests}\n  \
         do: move what is needed down to a floor that both may import, or pass it in as an argument",
        member.path,
        member.name,
        member.name,
        floor.number,
        list(floor.may),
    )
}

fn check_runtime(graph: &Graph, member: &Member, wrong: &mut Vec<String>) {
    if !WITHOUT_RUNTIME.contains(&member.name.as_str()) {
        return;
    }
    for way in graph.ways(&member.name, &ASYNC_RUNTIMES) {
        wrong.push(format!(
            "{}/Cargo.toml: an async runtime in what {} links: {}\n  why: it decides without I/O, clock or spawning, so that it can be simulated\n  \
             do: drop the dependency or its feature; a runtime comes in with `service` and above",
            member.path,
            member.name,
            way.join(" ─▶ "),
        ));
    }
}
