//! A test kit for services: an app on `memory:` under virtual time.
//!
//! ```
//! use postrider::prelude::*;
//! use postrider_testkit::App;
//!
//! #[derive(Message, Serialize, Deserialize)]
//! #[message(topic = "shop.order", type = "placed", key = order_id)]
//! struct OrderPlaced { order_id: String }
//!
//! #[derive(Debug, PartialEq, Message, Serialize, Deserialize)]
//! #[message(topic = "shop.mail", type = "sent", key = order_id)]
//! struct MailSent { order_id: String }
//!
//! async fn mail(order: OrderPlaced) -> Publish<MailSent> {
//!     Publish(MailSent { order_id: order.order_id })
//! }
//!
//! postrider_testkit::run(async {
//!     let app = App::start([Service::new("mailer").on(mail)]).await?;
//!     app.given(OrderPlaced { order_id: "o-1".into() }).await?;
//!     app.settle().await;
//!     assert_eq!(app.published::<MailSent>(), [MailSent { order_id: "o-1".into() }]);
//!     app.stop().await
//! }).unwrap();
//! ```
//!
//! **Is**: the production path, bus, plan, driver, kernel and log included, with two things exchanged: the disk is memory, and time passes
//! only when everything waits for it, so that an hour of backoff costs nothing.
//!
//! **Is not** a mock of the framework, and not for engines across a network: they have a conformance suite.
//!
//! Time is tokio's paused clock: write `#[tokio::test(start_paused = true)]`, or use [`run`]. A handler that reads the system's clock, spawns threads or
//! opens sockets is outside of what the kit can hold still; take time and ids from `Ctx` and `Meta`.

mod app;
mod clock;
mod spy;

pub use app::{App, Stuck, StuckOutbox};
pub use clock::{SeededEntropy, VirtualClock};

/// Runs a test on a runtime of its own with one thread and virtual time.
///
/// # Panics
/// The operating system refuses a runtime.
pub fn run<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime with one thread can be made")
        .block_on(test)
}
