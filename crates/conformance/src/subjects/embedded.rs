//! The embedded engine, on a memory disk and in a directory.

use std::sync::Arc;

use postrider::contract::Fut;
use postrider::{Bus, Result, connect};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::subject::Subject;

/// The embedded engine. It lives in one process: all members share it.
pub struct Embedded {
    name: &'static str,
    url: String,
    bus: Arc<OnceCell<Bus>>,
    _directory: Option<TempDir>,
}

impl Embedded {
    /// `memory:`.
    #[must_use]
    pub fn in_memory() -> Self {
        Self {
            name: "memory",
            url: "memory:".into(),
            bus: Arc::default(),
            _directory: None,
        }
    }

    /// `embedded:` in a temporary directory.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn in_directory() -> std::io::Result<Self> {
        let directory = tempfile::tempdir()?;
        Ok(Self {
            name: "embedded",
            url: format!("embedded:{}", directory.path().display()),
            bus: Arc::default(),
            _directory: Some(directory),
        })
    }
}

impl Subject for Embedded {
    fn name(&self) -> &str {
        self.name
    }

    fn connect(&self) -> Fut<'static, Result<Bus>> {
        let (url, bus) = (self.url.clone(), self.bus.clone());
        Box::pin(async move {
            let bus = bus.get_or_try_init(|| async { connect(&url).await });
            bus.await.cloned()
        })
    }
}
