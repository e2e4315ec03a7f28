//! What the author of an engine writes so that the suite can run on it.

use std::sync::Arc;
use std::time::Duration;

use postrider::contract::Fut;
use postrider::contract::failure::FailureStore;
use postrider::{Bus, Result};

use crate::Case;

/// One fresh, isolated namespace of an engine: nothing that another subject makes is seen in it. A subject is made for one case.
///
/// How a member is killed or started again is the suite's business: it is the same on every engine.
pub trait Subject: Send + Sync + 'static {
    /// Its name in reports: `memory`, `kafka`, ….
    fn name(&self) -> &str;

    /// Another connection to the namespace: what one more process of a service would have. An engine that lives in one process gives the same bus
    /// each time. It is
    /// awaited on the runtime on which the bus is used, which may be another one.
    ///
    /// # Errors
    /// The server cannot be reached, or the namespace not be made.
    fn connect(&self) -> Fut<'static, Result<Bus>>;

    /// The failure store that all members share; `None`: the engine keeps failures itself.
    fn failures(&self) -> Option<Arc<dyn FailureStore>> {
        None
    }

    /// The shortest lease that the engine honours with this server. Default: 2 s.
    fn lease(&self) -> Duration {
        Duration::from_secs(2)
    }

    /// Why a case cannot be asked of this engine. Default: all can.
    fn skip(&self, case: &Case) -> Option<String> {
        let _ = case;
        None
    }

    /// Removes from the server what was made in the namespace. Called after each case, also after one that failed.
    ///
    /// # Errors
    /// Something could not be removed.
    fn clear(&self) -> Fut<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}
