//! `embedded:DIR` and `memory:`.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use postrider_core::capability::Durability;
use postrider_core::engine::Engine;
use postrider_core::fault::Fault;
use postrider_embedded::{Embedded, MemoryOptions, Options};
use postrider_service::{BusOptions, Result};

use crate::url::{EngineUrl, duration, malformed};

/// Recovery reads and writes files: it does not stand in the way of the tasks of the caller's thread.
pub(crate) async fn open(url: &EngineUrl<'_>, bus: &BusOptions) -> Result<Arc<dyn Engine>> {
    // `embedded:///var/lib/shop` is the absolute path, as in file URLs.
    let directory = url.rest.strip_prefix("//").unwrap_or(url.rest);
    if directory.is_empty() {
        return Err(malformed("it names no directory, as in embedded:./data"));
    }
    let mut options = Options::default();
    options.clock = bus.clock.clone();
    for (name, value) in &url.options {
        match *name {
            "durability" => options.durability = durability(value)?,
            "message_bytes_max" => options.message_bytes_max = bytes(name, value)?,
            "disk_bytes_max" => options.disk_bytes_max = Some(bytes(name, value)?),
            "retain" => options.retain = Some(retain(value)?),
            "retain_bytes" => options.retain_bytes = Some(bytes(name, value)?),
            other => return Err(unknown_option("embedded", other)),
        }
    }
    let directory = directory.to_owned();
    let open = move || Embedded::open(directory, options);
    let opened = match tokio::task::spawn_blocking(open).await {
        Ok(opened) => opened?,
        Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
        Err(_) => return Err(Fault::closed("the runtime").into()),
    };
    Ok(Arc::new(opened))
}

pub(crate) fn memory(url: &EngineUrl<'_>, bus: &BusOptions) -> Result<Arc<dyn Engine>> {
    if !url.rest.is_empty() {
        return Err(malformed(
            "memory: has no directory; it is gone with the process",
        ));
    }
    let mut options = MemoryOptions::on(bus.clock.clone());
    for (name, value) in &url.options {
        match *name {
            "message_bytes_max" => options.message_bytes_max = bytes(name, value)?,
            "retain" => options.retain = Some(retain(value)?),
            "retain_bytes" => options.retain_bytes = Some(bytes(name, value)?),
            other => return Err(unknown_option("memory", other)),
        }
    }
    Ok(Arc::new(Embedded::memory(options)?))
}

fn durability(text: &str) -> Result<Durability> {
    Ok(match text {
        "flushed" => Durability::Flushed,
        "interval" => Durability::Interval,
        "os" => Durability::Os,
        "memory" => Durability::Memory,
        _ => {
            let why = "durability is flushed, interval, os or memory";
            return Err(malformed(why));
        }
    })
}

fn bytes<N: FromStr>(name: &str, text: &str) -> Result<N> {
    text.parse()
        .map_err(|_| malformed(format!("{name} is a number of bytes")))
}

fn retain(text: &str) -> Result<Duration> {
    duration(text).ok_or_else(|| malformed("retain is a time, as in retain=7d or retain=12h"))
}

fn unknown_option(scheme: &str, option: &str) -> postrider_service::Error {
    malformed(format!("{scheme}: has no option `{option}`"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use postrider_core::code::Code;

    use crate::connect;

    #[tokio::test]
    async fn both_forms_open_and_say_what_they_give() {
        let bus = connect("memory:?message_bytes_max=65536").await.unwrap();
        assert_eq!(bus.info().scheme, "memory");
        assert_eq!(bus.info().capabilities.message_bytes_max, 65536);
        let data = tempfile::tempdir().unwrap();
        let bus = connect(&format!(
            "embedded:{}?durability=os&disk_bytes_max=134217728",
            data.path().display()
        ))
        .await
        .unwrap();
        assert_eq!(bus.info().scheme, "embedded");
        assert_eq!(bus.info().durability, super::Durability::Os);
    }

    #[tokio::test]
    async fn mistakes_in_the_url_are_named() {
        for url in [
            "embedded:",
            "embedded:./x?durability=never",
            "embedded:./x?color=red",
            "embedded:./x?message_bytes_max=much",
            "embedded:./x?retain=7",
            "embedded:./x?retain_bytes=7d",
            "memory:./data",
            "memory:?durability=os",
        ] {
            let error = connect(url).await.err().unwrap();
            assert_eq!(error.code(), Code::URL_MALFORMED, "{url}: {error}");
        }
        assert!(!std::path::Path::new("./x").exists(), "nothing was made");
    }
}
