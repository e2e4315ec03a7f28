//! The provider moves money once per key, whatever happens to it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;

use super::wire::Request;
use super::*;
use crate::faults::{Dial, Level};
use crate::seed::{self, Fate};

fn request(op: Op, order: &str, cents: u64) -> Request {
    let verb = match op {
        Op::Charge => "charge",
        Op::Refund => "refund",
    };
    Request {
        id: 0,
        op,
        key: format!("{verb}:{order}"),
        order: order.to_owned(),
        cents,
    }
}

fn order_with(fate: Fate) -> String {
    (0..)
        .map(|n| format!("o-{n}"))
        .find(|id| seed::fate(1, id) == fate)
        .unwrap()
}

#[test]
fn a_known_key_moves_nothing_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("provider.jsonl");
    let mut book = Book::open(&path).unwrap();
    let two = [request(Op::Charge, "a", 500), request(Op::Charge, "a", 500)];
    assert_eq!(
        book.execute(&two, "t").unwrap(),
        [Answer::Done, Answer::Replayed]
    );
    drop(book);
    let mut book = Book::open(&path).unwrap();
    assert_eq!(book.execute(&two[..1], "t").unwrap(), [Answer::Replayed]);
    assert_eq!(
        book.execute(&[request(Op::Refund, "a", 500)], "t").unwrap(),
        [Answer::Done]
    );
    let totals = Totals {
        charged: 500,
        refunded: 500,
        replays: 2,
        double_charged: 0,
    };
    assert_eq!(book.totals(), totals);
    assert_eq!(Book::open(&path).unwrap().totals(), totals);
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 4);
}

#[test]
fn a_second_charge_of_one_order_under_another_key_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut book = Book::open(&dir.path().join("provider.jsonl")).unwrap();
    let mut second = request(Op::Charge, "a", 500);
    second.key = "charge:a:again".to_owned();
    let both = [request(Op::Charge, "a", 500), second];
    assert_eq!(
        book.execute(&both, "t").unwrap(),
        [Answer::Done, Answer::Done]
    );
    assert_eq!(book.totals().double_charged, 1);
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("provider.jsonl");
    let mut book = Book::open(&path).unwrap();
    let refund = [request(Op::Refund, "a", 500)];
    assert_eq!(book.execute(&refund, "t").unwrap(), [Answer::Refused]);
    book.execute(&[request(Op::Charge, "a", 500)], "t").unwrap();
    assert_eq!(
        book.execute(&[request(Op::Charge, "a", 501)], "t").unwrap(),
        [Answer::Refused]
    );
    assert_eq!(
        book.execute(&[request(Op::Refund, "a", 400)], "t").unwrap(),
        [Answer::Refused]
    );
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
}

#[test]
fn the_fields_of_a_line_are_the_documented_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("provider.jsonl");
    let mut book = Book::open(&path).unwrap();
    book.execute(&[request(Op::Charge, "a\"\n", 500)], "2026-01-01T00:00:00Z")
        .unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "{\"op\":\"charge\",\"key\":\"charge:a\\\"\\n\",\"order\":\"a\\\"\\n\",\"cents\":500,\"replayed\":false,\"at\":\"2026-01-01T00:00:00Z\"}\n"
    );
}

#[test]
fn a_torn_last_line_is_cut_at_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("provider.jsonl");
    let mut book = Book::open(&path).unwrap();
    book.execute(&[request(Op::Charge, "a", 1)], "t").unwrap();
    let first = fs::read(&path).unwrap();
    book.execute(&[request(Op::Charge, "b", 2)], "t").unwrap();
    let both = fs::read(&path).unwrap();
    for end in first.len()..both.len() {
        fs::write(&path, &both[..end]).unwrap();
        let mut book = Book::open(&path).unwrap();
        assert_eq!(book.totals().charged, 1, "cut at {end}");
        assert_eq!(fs::read(&path).unwrap(), first);
        assert_eq!(
            book.execute(&[request(Op::Charge, "b", 2)], "t").unwrap(),
            [Answer::Done]
        );
        assert_eq!(fs::read(&path).unwrap(), both);
    }
}

#[test]
fn damage_before_the_last_line_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("provider.jsonl");
    let mut book = Book::open(&path).unwrap();
    book.execute(&[request(Op::Charge, "a", 1)], "t").unwrap();
    let mut bytes = fs::read(&path).unwrap();
    fs::File::create(&path)
        .unwrap()
        .write_all(b"{\"op\":\n")
        .unwrap();
    let mut damaged = fs::read(&path).unwrap();
    damaged.append(&mut bytes);
    fs::write(&path, &damaged).unwrap();
    assert_eq!(Book::open(&path).err().unwrap().code, 1706);
    assert_eq!(fs::read(&path).unwrap(), damaged);
}

#[tokio::test]
async fn many_requests_share_one_connection_and_declines_leave_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 1, Dial::new(Level::None)).unwrap();
    let client = Client::new(server.socket().to_owned());
    let mut calls = Vec::new();
    for n in 0..300 {
        let client = client.clone();
        calls.push(tokio::spawn(async move {
            let order = format!("o-{n}");
            (
                seed::fate(1, &order),
                client.charge(&order, 100).await.unwrap(),
            )
        }));
    }
    let mut executed = 0;
    for call in calls {
        let (fate, answer) = call.await.unwrap();
        let declined = fate == Fate::Declined;
        assert_eq!(
            answer,
            if declined {
                Answer::Declined
            } else {
                Answer::Done
            }
        );
        executed += u64::from(!declined);
    }
    assert_eq!(server.totals().charged, 100 * executed);
    let lines = fs::read_to_string(dir.path().join("provider.jsonl")).unwrap();
    assert_eq!(lines.lines().count() as u64, executed);
}

#[tokio::test]
async fn a_client_is_answered_again_by_the_next_provider() {
    let dir = tempfile::tempdir().unwrap();
    let order = order_with(Fate::Ordinary);
    let server = Server::start(dir.path(), 1, Dial::new(Level::None)).unwrap();
    let client = Client::new(server.socket().to_owned());
    assert_eq!(client.charge(&order, 5).await.unwrap(), Answer::Done);
    // The file is what the next one knows; the connection of the first lives on in its task.
    let fresh = Client::new(server.socket().to_owned());
    drop(server);
    assert!(matches!(
        fresh.charge(&order, 5).await,
        Err(CallError::Unreachable(_))
    ));
    let _next = Server::start(dir.path(), 1, Dial::new(Level::None)).unwrap();
    assert_eq!(fresh.charge(&order, 5).await.unwrap(), Answer::Replayed);
}

#[tokio::test]
async fn under_faults_every_key_is_executed_once_and_answered_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 1, Dial::new(Level::Heavy)).unwrap();
    let client = Client::new(server.socket().to_owned());
    let mut refused = 0;
    for n in 0..60 {
        let order = format!("o-{n}");
        let mut tries = 0;
        while client.charge(&order, 100).await.unwrap() == Answer::Unavailable {
            tries += 1;
            refused += 1;
            assert!(tries <= 3, "{order} is refused for ever");
        }
    }
    assert!(refused > 0, "heavy faults refuse nothing");
    let mut once = std::collections::HashSet::new();
    book::read_entries(&dir.path().join("provider.jsonl"), |e| {
        assert!(e.replayed || once.insert(e.key));
    })
    .unwrap();
}

#[tokio::test]
async fn a_directory_too_deep_for_a_socket_still_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(120));
    fs::create_dir(&deep).unwrap();
    let server = Server::start(&deep, 1, Dial::new(Level::None)).unwrap();
    assert!(server.socket().as_os_str().len() <= 107);
    let client = Client::new(server.socket().to_owned());
    let order = order_with(Fate::Ordinary);
    assert_eq!(client.charge(&order, 5).await.unwrap(), Answer::Done);
}
