use super::*;

/// Rule and line of each finding.
fn found(path: &str, text: &str) -> Vec<(&'static str, usize)> {
    scan(path, text)
        .iter()
        .map(|finding| (finding.rule.name(), finding.line))
        .collect()
}

fn function(name: &str, lines: usize) -> String {
    format!(
        "fn {name}(x: [u8; 4]) -> usize {{\n{}}}\n",
        "    step();\n".repeat(lines - 2)
    )
}

#[test]
fn a_long_function_is_found_and_one_at_the_limit_is_not() {
    let text = function("fits", 70) + &function("long", 71);
    assert_eq!(found("crates/core/src/a.rs", &text), [("fn-length", 71)]);
}

#[test]
fn braces_in_literals_and_comments_do_not_end_a_function() {
    let noise = "    let a = \"}\"; // }\n    let b = '}'; /* } /* } */ } */\n    \
                 let c = r#\"}\"}\"#; let d: &'static str = b\"}\\\"}\";\n";
    let text = format!("fn noisy() {{\n{}}}\n", noise.repeat(30));
    assert_eq!(found("crates/core/src/a.rs", &text), [("fn-length", 1)]);
}

#[test]
fn a_file_is_measured_without_its_tests() {
    let lines = "const A: u8 = 0;\n";
    let tests = format!(
        "#[cfg(test)]\n#[allow(unused)]\nmod tests {{\n{}}}\n",
        lines.repeat(500)
    );
    let fits = lines.repeat(800) + &tests;
    assert_eq!(found("crates/core/src/a.rs", &fits), []);
    assert_eq!(
        found("crates/core/src/a.rs", &(lines.repeat(801) + &tests)),
        [("file-length", 1)]
    );
    assert_eq!(found("crates/core/src/a/tests.rs", &lines.repeat(2000)), []);
}

#[test]
fn clocks_threads_and_files_are_found_where_decisions_are_made() {
    let text = "fn f() {\n    Instant::now();\n    SystemTime::now();\n    thread::spawn(f);\n    \
                std::fs::read(p);\n}\nuse std::{fs, io};\n";
    let planted: Vec<_> = [2, 3, 4, 5, 7].map(|line| ("sans-io", line)).into();
    assert_eq!(found("crates/kernel/src/a.rs", text), planted);
    assert_eq!(found("crates/log/src/disk.rs", text), planted);
    assert_eq!(found("crates/log/src/disk/file.rs", text), []);
    assert_eq!(found("crates/service/src/a.rs", text), []);
    assert_eq!(found("crates/log/tests/a.rs", text), []);
    assert_eq!(
        found(
            "crates/log/src/a.rs",
            "// Instant::now\nlet x = MyInstant::nowish;\n"
        ),
        []
    );
}

#[test]
fn leftovers_and_ignored_tests_are_found() {
    let mark = concat!("FIX", "ME");
    let text = format!(
        "fn f() {{\n    todo!()\n}}\n// {mark}: later\ndbg!(x);\n#[ignore = \"slow\"]\n/// ```rust,ignore\nlet s = \"todo!()\";\n"
    );
    let expected = [
        ("unfinished", 2),
        ("unfinished", 4),
        ("unfinished", 5),
        ("ignored-test", 6),
        ("ignored-test", 7),
    ];
    assert_eq!(found("crates/cli/src/a.rs", &text), expected);
}

#[test]
fn a_sleep_in_a_test_is_found_unless_time_is_paused() {
    let tokio = "fn f() {\n    tokio::time::sleep(d).await;\n}\n";
    assert_eq!(
        found("crates/service/tests/a.rs", tokio),
        [("sleep-in-test", 2)]
    );
    assert_eq!(found("crates/service/src/a.rs", tokio), []);
    let paused = format!(
        "#[tokio::test(start_paused = true)]\n{tokio}fn g() {{ std::thread::sleep(d); }}\n"
    );
    assert_eq!(
        found("crates/service/tests/a.rs", &paused),
        [("sleep-in-test", 5)]
    );
    let inside = format!("#[cfg(test)]\nmod tests {{\n{tokio}}}\n");
    assert_eq!(
        found("crates/service/src/a.rs", &inside),
        [("sleep-in-test", 4)]
    );
}

#[test]
fn blanks_at_the_end_of_a_line_are_found_in_any_text() {
    assert_eq!(
        found("README.md", "a\nb \n\t\n"),
        [("trailing-space", 2), ("trailing-space", 3)]
    );
}

#[test]
fn an_exception_holds_at_its_limit_and_may_not_grow_or_stay_loose() {
    let path = "crates/core/src/a.rs";
    let after = |lines: usize, limit: usize| {
        let list = format!("fn-length {path} long {limit} -- a table of the spec\n");
        let left = Exceptions::parse(&list)
            .unwrap()
            .apply(scan(path, &function("long", lines)));
        left.iter()
            .map(|finding| finding.rule.name())
            .collect::<Vec<_>>()
    };
    assert_eq!(after(80, 80), Vec::<&str>::new());
    assert_eq!(after(81, 80), ["fn-length"]);
    assert_eq!(after(79, 80), ["loose-exception"]);
    assert_eq!(after(60, 80), ["loose-exception"]);
}

#[test]
fn an_exception_without_a_reason_is_refused() {
    for line in [
        "fn-length a.rs f 80",
        "fn-length a.rs f 80 -- because",
        "fn-length a.rs 80 -- it is a table",
    ] {
        let error = Exceptions::parse(line).unwrap_err().to_string();
        assert!(
            error.starts_with("xtask/tidy-exceptions.txt:1: "),
            "{error}"
        );
    }
}

#[test]
fn a_link_to_a_file_that_is_not_there_is_found() {
    let text = "[a](b.md) [c](../here.md#part) [d](https://example.org/x) [e](#part)\n\
                ```\n[in code](nowhere.md)\n```\n[f](../gone.md)\n";
    let lines: Vec<_> = links::dead("docs/page.md", text, |to| {
        to == std::path::Path::new("here.md")
    })
    .iter()
    .map(|finding| (finding.line, finding.what.clone()))
    .collect();
    assert_eq!(
        lines,
        [
            (1, "`b.md` is not there".to_owned()),
            (5, "`../gone.md` is not there".to_owned())
        ]
    );
}
