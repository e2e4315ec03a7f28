//! The vocabulary and the contracts of Postrider.
//!
//! **Is**: the words every other crate speaks (message, envelope, engine, source, settle, fault, capability, plan,
//! topology, store, failure store, clock) and, under each trait, its full contract: what an implementation MUST and
//! MAY do, what happens when a future is dropped, and what is durable when a call returns.
//!
//! **Is not**: a runtime, an engine, a store or a policy engine. Nothing here does I/O, spawns, or reads a clock.
//!
//! Start with [`engine::Engine`] to write an engine, with [`store::TxStore`] to write a store, and with
//! [`failure::FailureStore`] to keep failures somewhere new.

pub mod browse;
pub mod capability;
pub mod carriage;
pub mod clock;
pub mod code;
pub mod codec;
pub mod crash;
pub mod engine;
pub mod envelope;
pub mod failure;
pub mod fault;
pub mod id;
pub mod message;
pub mod name;
pub mod plan;
pub mod planted;
pub mod policy;
pub mod settle;
pub mod source;
pub mod store;
pub mod subscription;
pub mod text;
pub mod topology;

pub use bytes::Bytes;

use std::future::Future;
use std::pin::Pin;

/// A boxed future, as the object-safe traits return it. The cost is amortised by batching.
pub type Fut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A boxed error that keeps its source.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;
