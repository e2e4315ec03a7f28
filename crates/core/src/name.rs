//! Names: of topics, queues, services, subscriptions. Checked once, where they enter.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::Text;

/// The longest name, in bytes. Every engine of the mission can carry it, prefixed.
pub const NAME_BYTES_MAX: usize = 200;

/// A name that every engine can carry: 1 to [`NAME_BYTES_MAX`] bytes of `a-z A-Z 0-9 . _ -`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(Text);

/// Why a text is not a [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{given}` is not a name: {why}; use 1 to {NAME_BYTES_MAX} characters of a-z A-Z 0-9 . _ - beginning with a letter or digit"
)]
pub struct NameError {
    given: String,
    why: &'static str,
}

impl Name {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// The text breaks the rule of [`Name`]; the error says where.
    pub fn new(text: impl Into<Text>) -> Result<Self, NameError> {
        let text = text.into();
        match fault_of(&text) {
            None => Ok(Self(text)),
            Some(why) => Err(NameError {
                given: text.chars().take(80).collect(),
                why,
            }),
        }
    }

    /// The name as a string slice.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn fault_of(text: &str) -> Option<&'static str> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    match text.as_bytes() {
        [] => Some("it is empty"),
        bytes if bytes.len() > NAME_BYTES_MAX => Some("it is too long"),
        [first, ..] if !first.is_ascii_alphanumeric() => Some("it begins with something else"),
        bytes if !bytes.iter().all(|c| allowed(*c)) => Some("it holds another character"),
        _ => None,
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Name::new(Text::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// What kind of place messages are sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationKind {
    /// Events of one subject, of many types; 0..n subscriptions each get all.
    Topic,
    /// Commands with one owner service.
    Queue,
    /// Replies to one process; gone with it.
    Inbox,
}

impl DestinationKind {
    /// The word used in text forms: `topic`, `queue`, `inbox`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Queue => "queue",
            Self::Inbox => "inbox",
        }
    }
}

/// Where a message goes: a topic, a queue or an inbox. Its text form is `topic:shop.order`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Destination {
    /// Topic, queue or inbox.
    pub kind: DestinationKind,
    /// Its name, unique within the kind.
    pub name: Name,
}

impl Destination {
    /// The topic of that name.
    ///
    /// # Errors
    /// The text is not a [`Name`].
    pub fn topic(name: impl Into<Text>) -> Result<Self, NameError> {
        Ok(Self {
            kind: DestinationKind::Topic,
            name: Name::new(name)?,
        })
    }

    /// The queue of that name.
    ///
    /// # Errors
    /// The text is not a [`Name`].
    pub fn queue(name: impl Into<Text>) -> Result<Self, NameError> {
        Ok(Self {
            kind: DestinationKind::Queue,
            name: Name::new(name)?,
        })
    }

    /// The inbox of that name.
    ///
    /// # Errors
    /// The text is not a [`Name`].
    pub fn inbox(name: impl Into<Text>) -> Result<Self, NameError> {
        Ok(Self {
            kind: DestinationKind::Inbox,
            name: Name::new(name)?,
        })
    }

    /// Reads the text form `kind:name`.
    ///
    /// # Errors
    /// The kind is unknown or the rest is not a [`Name`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match text.split_once(':') {
            Some(("topic", name)) => Self::topic(name),
            Some(("queue", name)) => Self::queue(name),
            Some(("inbox", name)) => Self::inbox(name),
            _ => Err(NameError {
                given: text.chars().take(80).collect(),
                why: "it does not begin with topic:, queue: or inbox:",
            }),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        f.write_str(":")?;
        f.write_str(self.name.as_str())
    }
}

/// A subscription's identity: one service on one topic or queue. Its text form is `inventory@topic:shop.order`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SubscriptionId {
    /// The service (consumer group).
    pub service: Name,
    /// The topic, queue or inbox that it is on.
    pub on: Destination,
}

impl SubscriptionId {
    /// Reads the text form `service@kind:name`.
    ///
    /// # Errors
    /// One of the two parts is not well formed.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let (service, on) = text.split_once('@').ok_or_else(|| NameError {
            given: text.chars().take(80).collect(),
            why: "a subscription is written service@topic:name",
        })?;
        Ok(Self {
            service: Name::new(service)?,
            on: Destination::parse(on)?,
        })
    }
}

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.service, self.on)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_where_they_enter() {
        for good in ["a", "shop.order", "0-x_Y", &"n".repeat(NAME_BYTES_MAX)] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".a",
            "a b",
            "a/b",
            "é",
            "a\0",
            &"n".repeat(NAME_BYTES_MAX + 1),
        ] {
            assert!(Name::new(bad).is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn subscriptions_and_destinations_survive_their_text_form() {
        let id = SubscriptionId::parse("inventory@topic:shop.order").unwrap();
        assert_eq!(id.to_string(), "inventory@topic:shop.order");
        assert!(SubscriptionId::parse("inventory").is_err());
        assert!(Destination::parse("exchange:x").is_err());
    }
}
