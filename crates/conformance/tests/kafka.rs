//! The cases on Apache Kafka, where `POSTRIDER_TEST_KAFKA_URL` says where one is (`kafka://127.0.0.1:9092`). Without it nothing is tested, and
//! the closing table of `cargo xtask test` says so.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used)]

#[path = "kafka/broker.rs"]
mod broker;
mod support;

use postrider_conformance::subjects::Kafka;

fn url() -> Option<String> {
    let url = std::env::var("POSTRIDER_TEST_KAFKA_URL").ok();
    let url = url.filter(|url| !url.is_empty());
    if url.is_none() {
        eprintln!("NOT TESTED: POSTRIDER_TEST_KAFKA_URL is not set");
    }
    url
}

fn kafka() -> Option<Kafka> {
    url().map(|url| Kafka::new(&url).unwrap())
}

crate::support::cases!(kafka());
