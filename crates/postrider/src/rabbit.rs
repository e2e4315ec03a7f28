//! `amqp://…` and `amqps://…`.

use std::sync::Arc;

use postrider_core::engine::Engine;
use postrider_core::fault::Fault;
use postrider_rabbitmq::{Options, RabbitEngine};
use postrider_service::Result;

use crate::url::EngineUrl;

pub(crate) async fn open(url: &EngineUrl<'_>) -> Result<Arc<dyn Engine>> {
    let mut options = Options::default();
    for (name, value) in &url.options {
        options.set(name, value).map_err(Fault::from)?;
    }
    let server = format!("{}:{}", url.scheme, url.rest);
    let engine = RabbitEngine::connect(&server, options).await;
    Ok(Arc::new(engine.map_err(Fault::from)?))
}
