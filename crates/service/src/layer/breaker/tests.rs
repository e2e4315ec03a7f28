use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::time::advance;
use tower::service_fn;

use super::*;
use crate::fake;

/// A dependency that does what it is told, and counts.
#[derive(Clone, Default)]
struct Bank {
    mood: Arc<Mutex<Mood>>,
    calls: Arc<AtomicU32>,
}

#[derive(Clone, Copy, Default)]
enum Mood {
    #[default]
    Answers,
    Fails,
    Refuses,
    Slow,
    Hangs,
}

impl Bank {
    fn set(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    async fn answer(self) -> Result<Ending, Infallible> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mood = *self.mood.lock();
        Ok(match mood {
            Mood::Answers => Ending::Committed,
            Mood::Fails => Ending::Failed(HandlerError::Transient("down".into())),
            Mood::Refuses => Ending::Failed(HandlerError::Permanent("card declined".into())),
            Mood::Slow => {
                tokio::time::sleep(Duration::from_secs(6)).await;
                Ending::Committed
            }
            Mood::Hangs => std::future::pending().await,
        })
    }
}

fn behind(
    breaker: &Breaker,
    bank: &Bank,
) -> impl Service<Delivery, Response = Ending, Error = Infallible> {
    let bank = bank.clone();
    breaker.layer(service_fn(move |_| bank.clone().answer()))
}

fn small() -> Breaker {
    Breaker::new("bank").window(10, 4).probes(2)
}

async fn call(
    service: &mut impl Service<Delivery, Response = Ending, Error = Infallible>,
) -> Ending {
    service.call(fake::delivery()).await.unwrap()
}

fn is_unavailable(ending: &Ending) -> bool {
    matches!(ending, Ending::Failed(HandlerError::Unavailable(d, _)) if d.0 == "bank")
}

#[tokio::test(start_paused = true)]
async fn failures_open_it_and_good_probes_close_it() {
    let (bank, breaker) = (Bank::default(), small());
    let mut service = behind(&breaker, &bank);
    bank.set(Mood::Fails);
    for _ in 0..4 {
        assert!(!is_unavailable(&call(&mut service).await));
    }
    assert_eq!(breaker.state(), BreakerState::Open);
    assert!(is_unavailable(&call(&mut service).await));
    assert_eq!(
        bank.calls(),
        4,
        "an open breaker leaves the dependency alone"
    );

    advance(Duration::from_secs(15)).await;
    call(&mut service).await;
    assert_eq!(
        breaker.state(),
        BreakerState::Open,
        "one bad probe opens it again"
    );

    bank.set(Mood::Answers);
    advance(Duration::from_secs(15)).await;
    call(&mut service).await;
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    call(&mut service).await;
    assert_eq!(breaker.state(), BreakerState::Closed);
    for _ in 0..3 {
        call(&mut service).await;
    }
    assert_eq!(
        breaker.state(),
        BreakerState::Closed,
        "old failures are forgotten"
    );
}

#[tokio::test(start_paused = true)]
async fn permanent_errors_never_open_it() {
    let (bank, breaker) = (Bank::default(), small());
    let mut service = behind(&breaker, &bank);
    bank.set(Mood::Refuses);
    for _ in 0..50 {
        call(&mut service).await;
    }
    assert_eq!((breaker.state(), bank.calls()), (BreakerState::Closed, 50));
}

#[tokio::test(start_paused = true)]
async fn slow_calls_open_it_though_they_work() {
    let (bank, breaker) = (Bank::default(), small());
    let mut service = behind(&breaker, &bank);
    bank.set(Mood::Slow);
    for _ in 0..4 {
        assert!(matches!(call(&mut service).await, Ending::Committed));
    }
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_cancelled_after_they_were_slow_open_it() {
    let (bank, breaker) = (Bank::default(), small());
    let mut service = behind(&breaker, &bank);
    bank.set(Mood::Hangs);
    for _ in 0..4 {
        let run = service.call(fake::delivery());
        assert!(
            tokio::time::timeout(Duration::from_secs(7), run)
                .await
                .is_err()
        );
    }
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn half_open_lets_only_the_probes_through() {
    let (bank, breaker) = (Bank::default(), small());
    let mut service = behind(&breaker, &bank);
    bank.set(Mood::Fails);
    for _ in 0..4 {
        call(&mut service).await;
    }
    advance(Duration::from_secs(15)).await;
    bank.set(Mood::Hangs);
    let mut probes: Vec<_> = (0..2)
        .map(|_| Box::pin(service.call(fake::delivery())))
        .collect();
    for probe in &mut probes {
        assert!(futures_util::poll!(probe).is_pending());
    }
    assert!(is_unavailable(&call(&mut service).await));
    drop(probes);
    bank.set(Mood::Answers);
    assert!(
        !is_unavailable(&call(&mut service).await),
        "a dropped probe gives its place back"
    );
}
