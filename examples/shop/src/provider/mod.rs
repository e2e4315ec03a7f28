//! The payment provider: a stand-in for an external system. It lives in the supervisor's process, outlives every kill of the services, and
//! keeps its own append-only file. That file, and nothing in memory, is what the ledger believes about money.

mod book;
mod client;
mod server;
mod wire;

pub(crate) use book::read_entries;
pub use book::{Book, Totals};
pub use client::{CallError, Client};
pub use server::Server;
pub use wire::{Answer, Entry, Op};

#[cfg(test)]
mod tests;
