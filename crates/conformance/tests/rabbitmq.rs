//! The cases on RabbitMQ, where `POSTRIDER_TEST_RABBITMQ_URL` says where one is (`amqp://guest:guest@127.0.0.1:5672/%2f`). Without it nothing is
//! tested, and the closing table of `cargo xtask test` says so.
#![cfg(feature = "rabbitmq")]
#![allow(clippy::unwrap_used)]

mod support;

use postrider_conformance::subjects::RabbitMq;

fn rabbitmq() -> Option<RabbitMq> {
    let url = std::env::var("POSTRIDER_TEST_RABBITMQ_URL").ok();
    let Some(url) = url.filter(|url| !url.is_empty()) else {
        eprintln!("NOT TESTED: POSTRIDER_TEST_RABBITMQ_URL is not set");
        return None;
    };
    Some(RabbitMq::new(&url).unwrap())
}

crate::support::cases!(rabbitmq());
