#![allow(clippy::unwrap_used)]

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;
use postrider_core::code::Code;
use postrider_core::fault::HandlerError;
use postrider_macros::Message;
use serde::{Deserialize, Serialize};

use super::*;
use crate::context::{Host, Registry};
use crate::delivery::{Delivery, Ending};
use crate::effect::Publish;
use crate::erased::ErasedHandler as _;
use crate::extract::{Committed, Ctx, Db, Meta, State, Tx};
use crate::fake::{self, FakeEngine, FakeStore};

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "placed", key = order_id, crate = postrider_core)]
struct Placed {
    order_id: String,
}

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "shop.stock", type = "reserved", key = order_id, crate = postrider_core)]
struct Reserved {
    order_id: String,
}

fn refused(text: &'static str) -> HandlerError {
    HandlerError::Permanent(text.into())
}

fn reserve(order: Placed, tx: &mut Tx<FakeStore>) -> Result<Publish<Reserved>, HandlerError> {
    tx.push(order.order_id.clone());
    Ok(Publish(Reserved {
        order_id: order.order_id,
    }))
}

fn explode(_: Placed, _: &mut Tx<FakeStore>) {
    panic!("out of paper");
}

fn refuse(_: Placed, tx: &mut Tx<FakeStore>) -> Result<(), HandlerError> {
    tx.push("half done".into());
    Err(refused("no"))
}

async fn forward(order: Placed, State(prefix): State<&'static str>) -> Publish<Reserved> {
    Publish(Reserved {
        order_id: format!("{prefix}{}", order.order_id),
    })
}

async fn charge(order: Placed, State(calls): State<Arc<Calls>>, db: Db<FakeStore>) -> Committed {
    calls.0.fetch_add(1, Ordering::SeqCst);
    db.commit(move |tx| tx.push(format!("charged {}", order.order_id)))
        .await
}

#[derive(Default)]
struct Calls(std::sync::atomic::AtomicU32);

struct Bench {
    store: Arc<FakeStore>,
    calls: Arc<Calls>,
    host: Arc<Host>,
}

impl Bench {
    async fn new() -> Self {
        let (store, calls) = (FakeStore::new(), Arc::new(Calls::default()));
        let mut registry = Registry::default();
        assert!(registry.put_store(store.clone()));
        registry.put_state("x-");
        registry.put_state(calls.clone());
        let bus = fake::bus(&FakeEngine::new(1)).await.named("inventory");
        Self {
            store,
            calls,
            host: Arc::new(Host { registry, bus }),
        }
    }

    async fn run<M>(&self, handler: impl IntoHandler<M>, delivery: Delivery) -> Ending {
        let configured = handler.into_handler();
        configured.check(&self.host.registry).unwrap();
        configured.bind(self.host.clone()).call(delivery).await
    }

    fn rows(&self) -> Vec<String> {
        self.store.rows.lock().clone()
    }
}

/// The same message with another body.
fn forged() -> Delivery {
    let delivery = fake::delivery();
    let runtime = delivery.inner.runtime.clone();
    fake::delivery_of(fake::envelope(), r#"{"order_id":"o-2"}"#, runtime)
}

#[tokio::test]
async fn an_async_handler_gives_its_effects() {
    let bench = Bench::new().await;
    let Ending::Effects(sent) = bench.run(forward, fake::delivery()).await else {
        panic!("its effects are published by the driver");
    };
    assert_eq!(sent[0].envelope.key.as_ref().unwrap().display(), "x-o-1");
    assert_eq!(sent[0].envelope.source, "inventory");
}

#[tokio::test]
async fn a_transactional_handler_commits_rows_and_messages_once() {
    let bench = Bench::new().await;
    assert!(matches!(
        bench.run(reserve, fake::delivery()).await,
        Ending::Committed
    ));
    assert!(matches!(
        bench.run(reserve, fake::delivery()).await,
        Ending::Duplicate
    ));
    assert_eq!(bench.rows(), ["o-1"]);
    assert_eq!(bench.store.sent.lock().len(), 1);
    assert!(matches!(
        bench.run(reserve, forged()).await,
        Ending::Conflict
    ));
}

#[tokio::test]
async fn a_group_that_runs_again_commits_the_same_message() {
    let bench = Bench::new().await;
    bench.store.runs.store(3, Ordering::SeqCst);
    assert!(matches!(
        bench.run(reserve, fake::delivery()).await,
        Ending::Committed
    ));
    assert_eq!(bench.rows(), ["o-1"]);
    let again = Bench::new().await;
    again.run(reserve, fake::delivery()).await;
    let id = |b: &Bench| b.store.sent.lock()[0].envelope.id;
    assert_eq!(id(&bench), id(&again));
}

#[tokio::test]
async fn an_error_or_a_broken_fence_leaves_nothing_in_the_store() {
    let bench = Bench::new().await;
    let ending = bench.run(refuse, fake::delivery()).await;
    assert!(matches!(ending, Ending::Failed(HandlerError::Permanent(_))));
    let delivery = fake::delivery();
    delivery.inner.fence.break_off();
    assert!(matches!(bench.run(reserve, delivery).await, Ending::Fenced));
    assert!(bench.rows().is_empty());
}

#[tokio::test]
async fn a_panic_in_a_transaction_goes_on_where_the_driver_catches_it() {
    let bench = Bench::new().await;
    let run = AssertUnwindSafe(bench.run(explode, fake::delivery()));
    let panic = run.catch_unwind().await.unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"out of paper"));
    assert!(matches!(
        bench.run(reserve, fake::delivery()).await,
        Ending::Committed
    ));
}

#[tokio::test]
async fn a_message_that_the_inbox_knows_skips_the_handler_that_calls_outside() {
    let bench = Bench::new().await;
    assert!(matches!(
        bench.run(charge, fake::delivery()).await,
        Ending::Committed
    ));
    assert!(matches!(
        bench.run(charge, fake::delivery()).await,
        Ending::Duplicate
    ));
    assert!(matches!(
        bench.run(charge, forged()).await,
        Ending::Conflict
    ));
    assert_eq!(
        bench.calls.0.load(Ordering::SeqCst),
        1,
        "the outside world is asked once"
    );
    assert_eq!(bench.rows(), ["charged o-1"]);
}

#[tokio::test]
async fn what_cannot_be_read_never_reaches_the_handler() {
    let bench = Bench::new().await;
    let runtime = fake::delivery().inner.runtime.clone();
    let garbage = fake::delivery_of(fake::envelope(), "{", runtime.clone());
    assert!(matches!(
        bench.run(forward, garbage).await,
        Ending::Unreadable(_)
    ));
    let mut newer = fake::envelope();
    newer.version = 2;
    let newer = fake::delivery_of(newer, r#"{"order_id":"o-1"}"#, runtime);
    let Ending::Unreadable(error) = bench.run(reserve, newer).await else {
        panic!("a newer version is kept for a newer reader");
    };
    assert!(
        std::error::Error::source(&*error)
            .unwrap()
            .to_string()
            .contains("version 2")
    );
}

#[tokio::test]
async fn what_is_missing_is_said_at_the_start_with_the_handlers_name() {
    let registry = Registry::default();
    let code = |configured: Configured| {
        let error = configured.check(&registry).unwrap_err();
        assert!(error.what().contains("handler::tests::"), "{error}");
        error.code()
    };
    assert_eq!(code(forward.into_handler()), Code::STATE_MISSING);
    assert_eq!(code(reserve.into_handler()), Code::STORE_MISSING);
    assert_eq!(
        code(charge.timeout(Duration::from_secs(1))),
        Code::STATE_MISSING
    );
}

#[tokio::test(start_paused = true)]
async fn a_handler_over_its_time_is_cancelled_and_tried_again() {
    async fn hang(_: Placed) {
        std::future::pending().await
    }
    let bench = Bench::new().await;
    let ending = bench
        .run(hang.timeout(Duration::from_secs(3)), fake::delivery())
        .await;
    let Ending::Failed(HandlerError::Transient(error)) = ending else {
        panic!("a timeout is transient");
    };
    assert!(error.to_string().starts_with("PR-1302"), "{error}");
}

#[tokio::test]
async fn time_ids_and_randomness_are_the_same_in_every_run() {
    async fn draw(_: Placed, ctx: Ctx, meta: Meta) -> Vec<Publish<Reserved>> {
        assert_eq!(
            ctx.idempotency_key("charge"),
            None,
            "the message has no key"
        );
        let drawn = [
            ctx.new_id().to_string(),
            ctx.random().to_string(),
            ctx.now().to_string(),
        ];
        assert_eq!(meta.attempt(), 1);
        drawn.map(|order_id| Publish(Reserved { order_id })).into()
    }
    let bench = Bench::new().await;
    let mut runs = Vec::new();
    for _ in 0..2 {
        let Ending::Effects(sent) = bench.run(draw, fake::delivery()).await else {
            panic!("it cannot fail");
        };
        runs.push(sent.into_iter().map(|m| m.payload).collect::<Vec<_>>());
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0][0], runs[0][1]);
}
