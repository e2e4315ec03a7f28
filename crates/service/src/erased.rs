//! Generic outside, erased once inside: what the driver knows of a handler, and the table from message type to handler.

use std::collections::HashMap;
use std::sync::Arc;

use postrider_core::Fut;
use postrider_core::policy::Retry;
use postrider_core::text::Text;

use crate::delivery::{Delivery, Ending};

/// A handler with its layers, without its types.
pub(crate) trait ErasedHandler: Send + Sync + 'static {
    /// The type that it takes; empty: every type that no other handler takes.
    fn message_type(&self) -> &str;
    /// How its failures are tried again.
    fn retry(&self) -> Retry;
    /// Handles one delivery. The future MAY panic (the driver catches it) and MAY be dropped (the handler is then cancelled).
    fn call(&self, delivery: Delivery) -> Fut<'static, Ending>;
}

/// Where a message of one type goes.
#[derive(Clone)]
pub(crate) struct Route {
    /// Its handler.
    pub(crate) handler: Arc<dyn ErasedHandler>,
    /// Its retry rule: an index into [`Router::retries`], as the kernel's policy wants it.
    pub(crate) retry: u16,
}

/// The handlers of one subscription by message type.
#[derive(Clone)]
pub(crate) struct Router {
    routes: HashMap<Text, Route>,
    rest: Option<Route>,
    retries: Vec<Retry>,
}

/// Two handlers of one subscription take this type (empty: every type).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TakenTwice(pub(crate) String);

impl Router {
    /// The table of these handlers.
    ///
    /// # Errors
    /// Two of them take one type.
    pub(crate) fn new(
        handlers: impl IntoIterator<Item = Arc<dyn ErasedHandler>>,
    ) -> Result<Self, TakenTwice> {
        let mut router = Self {
            routes: HashMap::new(),
            rest: None,
            retries: Vec::new(),
        };
        for handler in handlers {
            router.add(handler)?;
        }
        if router.retries.is_empty() {
            router.retries.push(Retry::default());
        }
        Ok(router)
    }

    fn add(&mut self, handler: Arc<dyn ErasedHandler>) -> Result<(), TakenTwice> {
        let retry = self.retry_index(handler.retry());
        let message_type = handler.message_type().to_owned();
        let route = Route { handler, retry };
        let before = if message_type.is_empty() {
            self.rest.replace(route)
        } else {
            self.routes.insert(Text::from(message_type.as_str()), route)
        };
        match before {
            None => Ok(()),
            Some(_) => Err(TakenTwice(message_type)),
        }
    }

    /// Handlers with the same rule share it.
    fn retry_index(&mut self, retry: Retry) -> u16 {
        let index = self.retries.iter().position(|r| *r == retry);
        let index = index.unwrap_or_else(|| {
            self.retries.push(retry);
            self.retries.len() - 1
        });
        u16::try_from(index).expect("a subscription has fewer than 65536 handlers")
    }

    /// Who takes messages of this type; `None`: nobody here, so they are acknowledged.
    pub(crate) fn find(&self, message_type: &str) -> Option<&Route> {
        self.routes.get(message_type).or(self.rest.as_ref())
    }

    /// The retry rules, as the kernel's policy wants them; never empty.
    pub(crate) fn retries(&self) -> &[Retry] {
        &self.retries
    }

    /// The types that have a handler of their own, sorted.
    pub(crate) fn types(&self) -> Vec<&str> {
        let mut types: Vec<&str> = self.routes.keys().map(|t| &**t).collect();
        types.sort_unstable();
        types
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(&'static str, Retry);

    impl ErasedHandler for Fake {
        fn message_type(&self) -> &str {
            self.0
        }
        fn retry(&self) -> Retry {
            self.1
        }
        fn call(&self, _: Delivery) -> Fut<'static, Ending> {
            Box::pin(async { Ending::Committed })
        }
    }

    fn fake(message_type: &'static str, times: u32) -> Arc<dyn ErasedHandler> {
        Arc::new(Fake(message_type, Retry::default().times(times)))
    }

    #[test]
    fn a_type_finds_its_handler_and_its_retry_rule() {
        let router = Router::new([fake("placed", 3), fake("paid", 5), fake("shipped", 3)]).ok();
        let router = router.expect("the types differ");
        assert_eq!(router.retries().len(), 2, "equal rules are shared");
        let rule = |t: &str| {
            router
                .find(t)
                .map(|r| router.retries()[usize::from(r.retry)].times)
        };
        assert_eq!(
            (rule("placed"), rule("paid"), rule("shipped")),
            (Some(3), Some(5), Some(3))
        );
        assert_eq!(rule("refunded"), None);
        assert_eq!(router.types(), ["paid", "placed", "shipped"]);
    }

    #[test]
    fn a_raw_handler_takes_what_no_other_takes() {
        let router = Router::new([fake("placed", 3), fake("", 0)]).ok();
        let router = router.expect("the types differ");
        assert_eq!(
            router.find("placed").map(|r| r.handler.message_type()),
            Some("placed")
        );
        assert_eq!(
            router.find("other").map(|r| r.handler.message_type()),
            Some("")
        );
    }

    #[test]
    fn two_handlers_of_one_type_are_refused() {
        let taken = Router::new([fake("placed", 3), fake("placed", 3)]).err();
        assert_eq!(taken, Some(TakenTwice("placed".into())));
    }
}
