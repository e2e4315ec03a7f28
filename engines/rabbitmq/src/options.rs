//! What a connection is told: the options of its URL.

use std::time::Duration;

use crate::error::Error;

/// Options of a RabbitMQ engine; each is an option of its URL under the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Queues of an ordered subscription, and so the largest number of its members that work at once: 1 to 256, 8 unless told. Fixed per
    /// topic: all who publish to it or subscribe to it must say the same, which is checked when they connect to it.
    pub shards: u16,
    /// What the names of all exchanges and queues begin with: a name without `:`, at most 40 bytes; `postrider` unless told.
    pub prefix: String,
    /// How long the server lets a delivery be held: its `consumer_timeout`. 30 minutes unless told, as the server's own default.
    pub hold_max: Duration,
    /// The largest message, in bytes of headers and payload. 16 MiB unless told: the server's own limit (`max_message_size`) as it comes.
    pub message_bytes_max: usize,
    /// Seconds between heartbeats; a connection without a sign of life for two of them is given up. 1 to 600, 10 unless told.
    pub heartbeat_s: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shards: 8,
            prefix: "postrider".to_owned(),
            hold_max: Duration::from_secs(30 * 60),
            message_bytes_max: 16 << 20,
            heartbeat_s: 10,
        }
    }
}

/// The longest prefix, in bytes.
const PREFIX_BYTES_MAX: usize = 40;

impl Options {
    /// Sets the option of this name, as it stands in a URL.
    ///
    /// # Errors
    /// No such option, or not such a value; the error names what is allowed.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let wrong = |allowed: &str| Error::Options {
            reason: format!("the option {name} is `{value}`, use {allowed}"),
        };
        let number = |least: u64, most: u64, allowed: &str| {
            let number = value.parse::<u64>().ok();
            number
                .filter(|n| (least..=most).contains(n))
                .ok_or_else(|| wrong(allowed))
        };
        match name {
            "shards" => self.shards = number(1, 256, "1 to 256")? as u16,
            "prefix" => {
                let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                if value.is_empty() || value.len() > PREFIX_BYTES_MAX || !value.chars().all(allowed)
                {
                    return Err(wrong("1 to 40 characters of a-z A-Z 0-9 . _ -"));
                }
                self.prefix = value.to_owned();
            }
            "hold_max_s" => {
                let seconds = number(60, 30 * 24 * 3600, "60 to 2592000 seconds")?;
                self.hold_max = Duration::from_secs(seconds);
            }
            "message_bytes_max" => {
                let bytes = number(1, 512 << 20, "1 to 536870912 bytes")?;
                self.message_bytes_max = usize::try_from(bytes).map_err(|_| wrong("less"))?;
            }
            "heartbeat_s" => self.heartbeat_s = number(1, 600, "1 to 600 seconds")? as u16,
            other => {
                return Err(Error::Options {
                    reason: format!(
                        "RabbitMQ has no option `{other}`; it has shards, prefix, hold_max_s, message_bytes_max, heartbeat_s"
                    ),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        let mut options = Options::default();
        options.set("shards", "3").unwrap();
        options.set("prefix", "test-7").unwrap();
        options.set("hold_max_s", "90").unwrap();
        assert_eq!(options.shards, 3);
        assert_eq!(options.prefix, "test-7");
        assert_eq!(options.hold_max, Duration::from_secs(90));
        for (name, value) in [
            ("shards", "0"),
            ("shards", "257"),
            ("prefix", "a:b"),
            ("prefix", ""),
            ("hold_max_s", "-1"),
            ("heartbeat_s", "0"),
            ("durability", "os"),
        ] {
            let error = options.set(name, value).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
