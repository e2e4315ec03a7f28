//! The cases on Apache Kafka, where `POSTRIDER_TEST_KAFKA_URL` says where one is (`kafka://127.0.0.1:9092`). Without it nothing is tested, and
//! the closing table of `cargo xtask test` says so.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used)]

mod support;

use postrider_conformance::subjects::Kafka;

fn kafka() -> Option<Kafka> {
    let url = std::env::var("POSTRIDER_TEST_KAFKA_URL").ok();
    let Some(url) = url.filter(|url| !url.is_empty()) else {
        eprintln!("NOT TESTED: POSTRIDER_TEST_KAFKA_URL is not set");
        return None;
    };
    Some(Kafka::new(&url).unwrap())
}

crate::support::cases!(kafka());
