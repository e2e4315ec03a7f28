//! The metrics that exist: one constant each.

use super::{Kind, Metric};

macro_rules! metrics {
    ($($name:ident: $kind:ident $text:literal [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = $help] pub const $name: &Metric = &Metric {
            name: $text, kind: Kind::$kind, help: $help, labels: &[$($label),*],
        };)*

        /// All metrics of ours, in the order of the table in the module's text.
        pub const ALL: &[&Metric] = &[$($name),*];
    };
}

metrics! {
    PUBLISHED: Counter "postrider_published_total" ["destination"] "messages confirmed by the engine";
    PUBLISH_FAILURES: Counter "postrider_publish_failures_total" ["destination"] "messages the engine did not take";
    NO_SUBSCRIBER: Counter "postrider_no_subscriber_publishes_total" ["destination"] "messages confirmed that nobody subscribes to";
    HANDLED: Counter "postrider_handled_total" ["subscription"] "deliveries handled";
    FAILED: Counter "postrider_failed_total" ["subscription", "outcome"] "attempts that failed";
    RETRIED: Counter "postrider_retried_total" ["subscription"] "attempts after the first";
    DEAD: Counter "postrider_dead_total" ["subscription", "cause"] "failure records written, parked followers included";
    REDRIVEN: Counter "postrider_redriven_total" ["subscription"] "redriven records taken";
    DUPLICATES: Counter "postrider_duplicates_total" ["subscription"] "deliveries that the inbox had seen";
    EXPIRED: Counter "postrider_expired_total" ["subscription"] "deliveries whose deadline passed before the handler";
    UNHANDLED_TYPES: Counter "postrider_unhandled_types_total" ["subscription"] "deliveries of types without a handler, acknowledged";
    LEASES_LOST: Counter "postrider_leases_lost_total" ["subscription"] "deliveries that went to another member";
    LATE_REPLIES: Counter "postrider_late_replies_total" [] "replies after their request had ended";
    HANDLER_SECONDS: Histogram "postrider_handler_seconds" ["subscription"] "time in the handler";
    IN_FLIGHT: Gauge "postrider_in_flight" ["subscription"] "handlers running";
    HELD: Gauge "postrider_held" ["subscription"] "deliveries held";
    PAUSED: Gauge "postrider_paused" ["subscription"] "1 where consumption is paused";
    DEPTH: Gauge "postrider_depth" ["subscription"] "messages accepted and not settled";
    LAG_AGE: Gauge "postrider_lag_age_seconds" ["subscription"] "age of the oldest message not settled";
    OUTBOX_DEPTH: Gauge "postrider_outbox_depth" ["service"] "messages committed and not published";
    RELAY_PUBLISHED: Counter "postrider_relay_published_total" ["service"] "outbox rows published";
    RELAY_RETRIES: Counter "postrider_relay_retries_total" ["service"] "outbox rows to be tried again";
    RELAY_STUCK: Gauge "postrider_relay_stuck_keys" ["service"] "keys whose next outbox row the engine will never take";
}
