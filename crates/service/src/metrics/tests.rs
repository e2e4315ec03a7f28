#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use postrider_core::capability::Durability;
use postrider_core::engine::Receipt;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::name::Destination;

use super::*;

#[test]
fn the_prometheus_text_is_what_a_scraper_reads() {
    let metrics = Metrics::new();
    metrics.counter(HANDLED, &["a@topic:t"]).add(2);
    metrics.counter(HANDLED, &["a@topic:t"]).add(1);
    metrics.gauge(DEPTH, &["a@topic:t"]).set(7.0);
    metrics.gauge(LAG_AGE, &["a@topic:t"]).set(1.5);
    metrics.counter(LATE_REPLIES, &[]).add(1);
    let time = metrics.histogram(HANDLER_SECONDS, &["a@topic:t"]);
    for seconds in [0.0005, 0.003, 2.0, 1000.0] {
        time.record(seconds);
    }
    assert_eq!(metrics.text(), include_str!("golden.prom"));
}

#[test]
fn label_values_are_escaped() {
    let metrics = Metrics::new();
    metrics.counter(HANDLED, &["a\"b\\c\nd"]).add(1);
    assert!(
        metrics
            .text()
            .contains(r#"postrider_handled_total{subscription="a\"b\\c\nd"} 1"#)
    );
}

#[test]
fn every_name_is_documented_and_unique() {
    let text = include_str!("mod.rs");
    let mut seen = std::collections::BTreeSet::new();
    for metric in ALL {
        assert!(seen.insert(metric.name), "{} twice", metric.name);
        assert!(
            text.contains(&format!("`{}`", metric.name)),
            "{} not in the table",
            metric.name
        );
        assert_eq!(
            metric.name.ends_with("_total"),
            metric.kind == Kind::Counter,
            "{}",
            metric.name
        );
    }
}

#[test]
fn the_number_of_series_is_bounded() {
    let metrics = Metrics::new();
    for i in 0..SERIES_MAX + 5 {
        metrics.counter(HANDLED, &[&i.to_string()]).add(1);
    }
    assert_eq!(metrics.count(HANDLED, &["other"]), 5);
    assert_eq!(metrics.count(HANDLED, &["0"]), 1);
}

#[test]
fn a_publish_that_nobody_subscribes_to_is_counted() {
    let metrics = Arc::new(Metrics::new());
    let publishing = PublishMetrics::new(Arc::clone(&metrics) as Arc<dyn Recorder>);
    let topic = Destination::topic("t").unwrap();
    let receipt = |subscriptions| {
        Ok(Receipt {
            durability: Durability::Memory,
            position: None,
            duplicate: false,
            subscriptions,
        })
    };
    publishing.observe(&topic, &receipt(Some(1)));
    publishing.observe(&topic, &receipt(Some(0)));
    publishing.observe(&topic, &receipt(None));
    publishing.observe(
        &topic,
        &Err(Fault::new(FaultKind::Full, Advice::FixConfig, "full")),
    );
    assert_eq!(metrics.count(PUBLISHED, &["topic:t"]), 3);
    assert_eq!(metrics.count(NO_SUBSCRIBER, &["topic:t"]), 1);
    assert_eq!(metrics.count(PUBLISH_FAILURES, &["topic:t"]), 1);
}
