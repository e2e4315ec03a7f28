use super::*;

/// A workspace in which every import is allowed.
fn sound() -> Graph {
    let member = |path: &str, name: &str, normal: &[&str], dev: &[&str]| Member {
        name: name.to_owned(),
        path: path.to_owned(),
        normal: normal.iter().map(|s| (*s).to_owned()).collect(),
        dev: dev.iter().map(|s| (*s).to_owned()).collect(),
    };
    let members = vec![
        member("crates/core", "postrider-core", &[], &[]),
        member("crates/log", "postrider-log", &[], &[]),
        member("crates/macros", "postrider-macros", &[], &[]),
        member(
            "crates/kernel",
            "postrider-kernel",
            &["postrider-core"],
            &[],
        ),
        member(
            "engines/embedded",
            "postrider-embedded",
            &["postrider-core", "postrider-log"],
            &[],
        ),
        member("engines/kafka", "postrider-kafka", &["postrider-core"], &[]),
        member(
            "stores/sqlite",
            "postrider-sqlite",
            &["postrider-core"],
            &[],
        ),
        member(
            "crates/service",
            "postrider-service",
            &["postrider-core", "postrider-kernel"],
            &["postrider-macros"],
        ),
        member(
            "crates/postrider",
            "postrider",
            &[
                "postrider-service",
                "postrider-embedded",
                "postrider-kafka",
                "postrider-sqlite",
            ],
            &["postrider-testkit"],
        ),
        member("crates/testkit", "postrider-testkit", &["postrider"], &[]),
        member(
            "examples/hello",
            "hello",
            &["postrider"],
            &["postrider-testkit"],
        ),
        member("crates/cli", "postrider-cli", &["postrider", "shop"], &[]),
        member("examples/shop", "shop", &["postrider"], &[]),
    ];
    let mut graph = Graph {
        members,
        ..Graph::default()
    };
    for member in &graph.members {
        graph
            .links
            .insert(member.name.clone(), member.normal.clone());
    }
    graph
}

/// What is found after a change to the sound workspace.
fn after(change: impl FnOnce(&mut Graph)) -> Vec<String> {
    let mut graph = sound();
    change(&mut graph);
    check(&graph)
}

fn import(graph: &mut Graph, from: &str, to: &str) {
    let member = graph.members.iter_mut().find(|m| m.name == from).unwrap();
    member.normal.insert(to.to_owned());
}

fn link(graph: &mut Graph, from: &str, to: &str) {
    graph
        .links
        .entry(from.to_owned())
        .or_default()
        .insert(to.to_owned());
}

#[test]
fn a_sound_workspace_has_no_violation() {
    assert_eq!(after(|_| {}), Vec::<String>::new());
}

#[test]
fn an_import_that_is_no_arrow_is_found() {
    for (from, to) in [
        ("postrider-core", "postrider-log"),
        ("postrider-kernel", "postrider-log"),
        ("postrider-service", "postrider-embedded"),
        ("postrider-service", "postrider-macros"),
        ("postrider-kafka", "postrider-log"),
        ("postrider-sqlite", "postrider-service"),
        ("postrider", "postrider-kernel"),
        ("postrider", "postrider-testkit"),
        ("hello", "postrider-core"),
        ("shop", "postrider-testkit"),
        ("postrider-cli", "postrider-kernel"),
    ] {
        let wrong = after(|graph| import(graph, from, to));
        assert_eq!(wrong.len(), 1, "{from} to {to}: {wrong:?}");
        assert!(
            wrong[0].contains(&format!("{from} imports {to}\n")),
            "{wrong:?}"
        );
    }
}

#[test]
fn an_import_for_tests_that_is_no_arrow_is_found() {
    let wrong = after(|graph| {
        let kernel = graph
            .members
            .iter_mut()
            .find(|m| m.name == "postrider-kernel")
            .unwrap();
        kernel.dev.insert("postrider-macros".to_owned());
    });
    assert_eq!(wrong.len(), 1);
    assert!(wrong[0].contains("postrider-kernel imports for its tests postrider-macros"));
}

#[test]
fn a_runtime_deep_under_the_log_is_found_with_the_way_to_it() {
    let wrong = after(|graph| {
        link(graph, "postrider-log", "polite");
        link(graph, "polite", "tokio");
        link(graph, "postrider-embedded", "tokio");
    });
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert!(wrong[0].contains("postrider-log ─▶ polite ─▶ tokio"));
}

#[test]
fn a_crate_without_a_place_or_a_subject_is_found() {
    let wrong = after(|graph| {
        graph.members[0].name = "postrider-util".to_owned();
        graph.members[0].path = "crates/util".to_owned();
    });
    assert!(
        wrong
            .iter()
            .any(|w| w.contains("crates/util: a crate called util has no subject"))
    );
    assert!(
        wrong
            .iter()
            .any(|w| w.contains("postrider-util has no place in the table"))
    );
}
