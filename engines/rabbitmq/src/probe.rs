//! What the server says of itself: read from its first frame, since the driver keeps it to itself.

use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};
use lapin::tcp::{AMQPUriTcpExt as _, TLSConfig};
use lapin::types::{AMQPValue, FieldTable, parsing::parse_field_table};
use lapin::uri::AMQPUri;
use postrider_core::fault::{Advice, Fault, FaultKind};

/// Product and version, as the server wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) product: String,
    pub(crate) version: String,
}

impl Server {
    /// Whether this engine knows what to expect of it: RabbitMQ 4.0 and later. Before that, a single active consumer does not give way to one of a
    /// higher priority, by which members share the queues.
    pub(crate) fn is_known(&self) -> bool {
        let major = self.version.split('.').next().and_then(|m| m.parse().ok());
        self.product == "RabbitMQ" && major.is_some_and(|major: u32| major >= 4)
    }
}

const HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
/// The largest first frame that is read, in bytes.
const FRAME_BYTES_MAX: usize = 64 << 10;

/// Connects, reads `connection.start` and hangs up.
///
/// # Errors
/// `Unreachable`, or `Protocol` where something else answers.
pub(crate) async fn server(uri: &AMQPUri) -> Result<Server, Fault> {
    let io = |error: std::io::Error| {
        Fault::new(
            FaultKind::Unreachable,
            Advice::Reconnect,
            format!("it cannot be reached: {error}"),
        )
        .because(error)
    };
    let runtime = lapin::runtime::default_runtime()
        .map_err(|error| crate::error::fault("no runtime", &error))?;
    let mut stream = uri
        .connect_with_config_async(TLSConfig::default(), &runtime)
        .await
        .map_err(io)?;
    stream.write_all(HEADER).await.map_err(io)?;
    stream.flush().await.map_err(io)?;
    let mut head = [0; 7];
    stream.read_exact(&mut head).await.map_err(io)?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    if head[0] != 1 || size > FRAME_BYTES_MAX {
        return Err(not_amqp());
    }
    let mut payload = vec![0; size];
    stream.read_exact(&mut payload).await.map_err(io)?;
    read(&payload).ok_or_else(not_amqp)
}

fn not_amqp() -> Fault {
    let text = "what answers there does not speak AMQP 0-9-1: mind the port";
    Fault::new(FaultKind::Protocol, Advice::FixConfig, text)
}

/// `connection.start`: class 10, method 10, two bytes of version, then the table of the server's properties.
fn read(payload: &[u8]) -> Option<Server> {
    let table = payload.strip_prefix(&[0, 10, 0, 10])?.get(2..)?;
    let (_, table) = parse_field_table(table).ok()?;
    Some(Server {
        product: text(&table, "product")?,
        version: text(&table, "version")?,
    })
}

fn text(table: &FieldTable, name: &str) -> Option<String> {
    match table.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(product: &str, version: &str) -> Server {
        Server {
            product: product.into(),
            version: version.into(),
        }
    }

    #[test]
    fn only_servers_that_were_tried_are_known() {
        assert!(server("RabbitMQ", "4.0.5").is_known());
        assert!(server("RabbitMQ", "4.3.6").is_known());
        assert!(!server("RabbitMQ", "3.13.7").is_known());
        assert!(!server("LavinMQ", "4.0.0").is_known());
        assert!(!server("RabbitMQ", "").is_known());
    }

    #[test]
    fn the_first_frame_is_read_and_garbage_is_not() {
        let mut frame = vec![0, 10, 0, 10, 0, 9];
        let mut table = Vec::new();
        for (name, value) in [("product", "RabbitMQ"), ("version", "4.0.5")] {
            table.push(name.len() as u8);
            table.extend_from_slice(name.as_bytes());
            table.push(b'S');
            table.extend_from_slice(&(value.len() as u32).to_be_bytes());
            table.extend_from_slice(value.as_bytes());
        }
        frame.extend_from_slice(&(table.len() as u32).to_be_bytes());
        frame.extend_from_slice(&table);
        assert_eq!(read(&frame), Some(server("RabbitMQ", "4.0.5")));
        for end in 0..frame.len() {
            assert_eq!(read(&frame[..end]), None, "{end} bytes");
        }
    }
}
