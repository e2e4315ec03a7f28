#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use postrider_core::clock::Timestamp;
use postrider_core::envelope::Envelope;
use postrider_core::fault::FaultKind;
use postrider_core::id::MessageId;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use super::*;
use crate::fake::FakeEngine;

/// Counts warnings.
struct Warnings(Arc<AtomicU32>);

impl<S: tracing::Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == tracing::Level::WARN {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn message(topic: &str, n: u64) -> Outgoing {
    let id = MessageId::v7(Timestamp(n), [n, n]);
    Outgoing {
        destination: Destination::topic(topic.to_owned()).unwrap(),
        envelope: Envelope::new(id, "test".into(), "placed".into(), Timestamp(n)),
        payload: Bytes::from(n.to_string()),
    }
}

async fn outlet(engine: &Arc<FakeEngine>) -> Outlet {
    let inner = engine.publisher().await.unwrap();
    Outlet::new(inner, engine.clone(), ProvisionMode::Create)
}

#[tokio::test]
async fn what_cannot_be_created_is_answered_each_time_and_said_once_and_others_go_on() {
    let count = Arc::new(AtomicU32::new(0));
    let subscriber = tracing_subscriber::registry().with(Warnings(count.clone()));
    let _guard = tracing::subscriber::set_default(subscriber);
    let engine = FakeEngine::new(1);
    let outlet = outlet(&engine).await;
    let denied = Destination::topic("denied").unwrap();
    engine.refused.lock().push(denied);
    for round in 0..3 {
        let messages = vec![
            message("good", round),
            message("denied", round),
            message("good", round),
        ];
        let results = outlet.publish(messages).await;
        assert!(results[0].is_ok() && results[2].is_ok());
        let fault = results[1].as_ref().unwrap_err();
        assert_eq!(fault.kind, FaultKind::Denied);
        assert_eq!(fault.effect, postrider_core::fault::Effect::NotApplied);
        assert!(fault.message.contains("you may not create it"), "{fault}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 1, "said once");
    assert_eq!(engine.published.lock().len(), 6);
    assert_eq!(
        engine.provisioned.lock().len(),
        1,
        "what is known is not made again"
    );

    let commit = outlet.commit(vec![message("denied", 9)], Vec::new()).await;
    let error = commit.unwrap_err();
    assert_eq!(error.fault.kind, FaultKind::Denied);
    assert_eq!(error.publish.len(), 1, "what went in comes back");

    // The cause is mended: the next publish goes, and another failure would be said again.
    engine.refused.lock().clear();
    assert!(outlet.publish(vec![message("denied", 4)]).await[0].is_ok());
    assert_eq!(count.load(Ordering::SeqCst), 1);
}
