//! Requests to the admin API of a running directory, over its socket: what a decoder, a route or a query does with whatever comes.

use std::cell::RefCell;
use std::time::Duration;

use postrider::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// The longest that one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "placed", key = order_id)]
struct OrderPlaced {
    order_id: String,
}

struct World {
    runtime: Runtime,
    dir: tempfile::TempDir,
    _keeps: Vec<Box<dyn std::any::Any>>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

async fn refuse(order: OrderPlaced) -> Result<(), HandlerError> {
    Err(HandlerError::Permanent(
        format!("no such item: {}", order.order_id).into(),
    ))
}

fn made() -> anyhow::Result<World> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let dir = tempfile::tempdir()?;
    let url = format!("embedded:{}", dir.path().display());
    let (bus, running) = runtime.block_on(async {
        let bus = Bus::connect(&url).await?;
        let running = Service::new("inventory")
            .announce(false)
            .on(refuse)
            .start(&bus)
            .await?;
        for n in 0..5 {
            let order_id = format!("o-{n}");
            bus.publish(OrderPlaced { order_id }).await?;
        }
        anyhow::Ok((bus, running))
    })?;
    Ok(World {
        runtime,
        dir,
        _keeps: vec![Box::new(running), Box::new(bus)],
    })
}

/// The bytes of one connection. The server must answer or close, and answer the next one.
pub fn run(input: &[u8]) {
    WORLD.with_borrow_mut(|world| {
        let world =
            world.get_or_insert_with(|| made().expect("a directory of its own can be served"));
        let socket = world.dir.path().join("admin.sock");
        world.runtime.block_on(async {
            let first = tokio::time::timeout(ANSWER_WITHIN, exchange(&socket, input)).await;
            assert!(
                first.is_ok(),
                "no end of the connection within {ANSWER_WITHIN:?}"
            );
            let next = exchange(
                &socket,
                b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            );
            let next = tokio::time::timeout(ANSWER_WITHIN, next).await;
            let answer = next
                .expect("it answers in time")
                .expect("the socket is there");
            assert!(
                answer.starts_with(b"HTTP/1.1 200"),
                "{}",
                String::from_utf8_lossy(&answer)
            );
        });
    });
}

/// Sends, closes its side, and reads to the end. A server that closes early is fine.
async fn exchange(socket: &std::path::Path, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).await?;
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    Ok(answer)
}

/// A request to each route.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let id = "inventory@topic:shop.order";
    let get = [
        ("status", "/v1/status".to_owned()),
        ("plan", "/v1/plan".to_owned()),
        ("topics", "/v1/topics".to_owned()),
        ("subscriptions", "/v1/subscriptions".to_owned()),
        ("subscription", format!("/v1/subscriptions/{id}")),
        (
            "groups",
            "/v1/failures?subscription=inventory%40topic%3Ashop.order".to_owned(),
        ),
        (
            "failures",
            format!("/v1/subscriptions/{id}/failures?limit=5&after=0&group=x"),
        ),
        ("failure", format!("/v1/subscriptions/{id}/failures/1")),
        ("audit", format!("/v1/subscriptions/{id}/audit?limit=3")),
        ("metrics", "/v1/metrics".to_owned()),
    ];
    let post = [
        ("pause", r#"{"by":"fuzz","reason":"to see"}"#),
        ("resume", r#"{"by":"fuzz","reason":"to see"}"#),
        ("redrive", r#"{"ids":[1,2],"by":"fuzz","reason":"to see"}"#),
        ("redrive", r#"{"key":"bzE=","by":"fuzz","reason":"to see"}"#),
        (
            "discard",
            r#"{"group":"no such item","by":"fuzz","reason":"to see"}"#,
        ),
        ("discard", r#"{"all":true,"by":"fuzz","reason":"to see"}"#),
    ];
    let mut seeds = Vec::new();
    for (name, path) in get {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        seeds.push((name.to_owned(), request.into_bytes()));
    }
    for (n, (name, body)) in post.into_iter().enumerate() {
        let request = format!(
            "POST /v1/subscriptions/{id}/{name} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        seeds.push((format!("{name}-{n}"), request.into_bytes()));
    }
    seeds
}
