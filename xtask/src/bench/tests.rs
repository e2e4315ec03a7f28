use serde_json::json;

use super::page::{date, judged, write};
use super::read;
use super::targets::judge;

const ROWS: &str = r#"{"name":"durable.log","ours":250000,"theirs":300000,"ratio":0.83,"unit":"msg/s","messages_per_sync":128,"committer_in_write_and_sync_percent":55,"size":"full","dir":"/d","fsync":"fdatasync on ext4","machine":"2 × K6, 1 GiB"}
{"name":"ordered","ours":26000,"theirs":170,"ratio":152.9,"unit":"msg/s","keys":1000,"size":"full"}
"#;

#[test]
fn each_target_whose_row_was_measured_is_judged() {
    let rows = read(ROWS).expect("they are rows");
    let judged = judge(&rows);
    let verdicts: Vec<_> = judged.iter().map(|one| (one.row, one.reached)).collect();
    let expected = [
        ("durable.log", true),
        ("durable.log", true),
        ("durable.log", false),
        ("ordered", true),
    ];
    assert_eq!(verdicts, expected);
    // A field that a row lacks is not reached.
    let judged = judge(&[json!({ "name": "ordered" })]);
    assert!(!judged[0].reached && judged[0].is.is_none());
}

#[test]
fn a_line_that_is_no_row_is_refused() {
    assert!(read("{\"name\":\"x\"}").is_err());
    assert!(read("nothing").is_err());
}

#[test]
fn the_page_holds_figures_verdicts_machine_and_the_notes_of_the_page_before() {
    let rows = read(ROWS).expect("they are rows");
    let all = judge(&rows);
    let first = write(&rows, &all, "");
    assert!(first.contains("| `durable.log` | 250,000 | 300,000 | 0.83 | msg/s | committer in write and sync percent 55; messages per sync 128 |"), "{first}");
    assert!(
        first.contains(
            "| `ordered` | 1,000 keys, 5 ms each, ÷ one at a time | ≥ 150 | 152.9 | reached |"
        ),
        "{first}"
    );
    assert!(first.contains("≥ 60 | 55 | **falls short** |"), "{first}");
    assert!(first.contains("| machine | 2 × K6, 1 GiB |"), "{first}");
    let noted = first.replace(
        "<!-- notes: begin -->\n",
        "<!-- notes: begin -->\nThe disk is slow.\n",
    );
    let second = write(&rows, &all, &noted);
    assert!(
        second.contains("begin -->\nThe disk is slow.\n"),
        "{second}"
    );
    assert_eq!(write(&rows, &all, &second), second, "notes do not grow");
    assert!(judged(&all).contains("SHORT    durable.log"));
}

#[test]
fn days_have_dates() {
    for (day, is) in [
        (0, "1970-01-01"),
        (59, "1970-03-01"),
        (11_016, "2000-02-29"),
        (20_778, "2026-11-21"),
    ] {
        assert_eq!(date(day), is);
    }
}
