//! Reliable messaging for microservices: typed messages, plain async handlers, an embedded durable engine.
//!
//! ```no_run
//! use postrider::prelude::*;
//!
//! #[derive(Message, Serialize, Deserialize)]
//! #[message(topic = "shop.order", type = "placed", key = order_id)]
//! struct OrderPlaced { order_id: String, cents: u64 }
//!
//! async fn greet(order: OrderPlaced) { println!("order {}", order.order_id); }
//!
//! #[tokio::main]
//! async fn main() -> postrider::Result {
//!     Service::new("greeter").on(greet).run(Bus::connect("embedded:./data").await?).await
//! }
//! ```
//!
//! - **A handler is a function**: its message first, then what else it takes ([`extract`]); what it returns is what happens
//!   ([`effect`]). `Ok` is the acknowledgement.
//! - **Order per key** holds through retries, parking and redrive; [`HandlerExt`] says what happens when a handler fails.
//! - **Effects once**: a plain `fn` with `&mut Tx<Sqlite>` has its inbox row, its writes and its messages in one commit.
//! - **The engine is a URL** ([`connect()`]); the plan that is printed at the start says what it gives.
//!
//! **Is**: re-exports, the prelude, and the registry from URL scheme to engine. **Is not**: where anything is done; see `postrider-service`.
//!
//! | feature | brings | default |
//! |---|---|---|
//! | `embedded` | `embedded:DIR` and `memory:` | yes |
//! | `admin` | the admin API on `DIR/admin.sock` | yes |
//! | `kafka` | `kafka://…`: Apache Kafka; needs a C and a C++ compiler and make | no |
//! | `rabbitmq` | `amqp://…` and `amqps://…`: RabbitMQ; needs a C compiler | no |
//! | `sqlite` | the store `Sqlite`; needs a C compiler | no |

mod connect;
mod durations;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "embedded")]
mod local;
pub mod prelude;
#[cfg(feature = "rabbitmq")]
mod rabbit;
mod url;

pub use connect::{Connect, connect, connect_with};
pub use durations::{hours, millis, mins, secs};

pub use postrider_core::capability::{Capability, Durability};
pub use postrider_core::clock::{Clock, Entropy, Timestamp};
pub use postrider_core::code::{Code, Explanation, all as codes};
pub use postrider_core::codec::CodecError;
pub use postrider_core::engine::{Cancel, Engine, Receipt, Scheduled};
pub use postrider_core::envelope::{Envelope, Outgoing};
pub use postrider_core::fault::{Dependency, HandlerError, ToOutcome};
pub use postrider_core::id::MessageId;
pub use postrider_core::message::{Command, Event, Key, Message};
pub use postrider_core::name::{DestinationKind, SubscriptionId};
pub use postrider_core::policy::Retry;
pub use postrider_core::source::SeekTo;
pub use postrider_core::store::{Store, TxStore};
pub use postrider_core::text::Text;
pub use postrider_core::topology::ProvisionMode;
pub use postrider_macros::{Fault, Message};
#[doc(inline)]
pub use postrider_service::*;

pub use postrider_service::bus::When;
pub use postrider_service::delivery::{Delivery, Ending};
pub use postrider_service::effect::{After, Effects, Publish, Reply, Send};
pub use postrider_service::extract::{Committed, Ctx, Db, Headers, Meta, State, Tx};
pub use postrider_service::handler::{Configured, DeadLetter, HandlerExt, IntoHandler, raw};

/// The contracts, for whoever writes an engine, a store or a failure store.
pub use postrider_core as contract;
#[cfg(feature = "embedded")]
pub use postrider_embedded as embedded;
#[cfg(feature = "sqlite")]
pub use postrider_sqlite as sqlite;
#[cfg(feature = "sqlite")]
pub use postrider_sqlite::Sqlite;

/// What the derives name. Not for you.
#[doc(hidden)]
pub mod __private {
    pub use postrider_core as core;
}
