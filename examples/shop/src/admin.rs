//! A small client of the admin API: HTTP/1.1 and JSON on `DIR/log/admin.sock`. The demo's keys use it and nothing else.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::error::{ADMIN_NOT_RUNNING, Error, Result};

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// The longest path that every system takes for a Unix socket, in bytes.
const SOCKET_PATH_BYTES_MAX: usize = 100;

/// The admin API of a running engine directory.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    dir: PathBuf,
}

impl Admin {
    /// The admin API of this engine directory.
    #[must_use]
    pub(crate) const fn of(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Pauses a subscription.
    ///
    /// # Errors
    /// `PR-1601`: nobody answers; or what the API says.
    pub(crate) async fn pause(&self, subscription: &str) -> Result<()> {
        self.call(
            Method::POST,
            &format!("/v1/subscriptions/{subscription}/pause"),
            json!({}),
        )
        .await
        .map(drop)
    }

    /// Lets a paused subscription go on.
    ///
    /// # Errors
    /// As [`Admin::pause`].
    pub(crate) async fn resume(&self, subscription: &str) -> Result<()> {
        self.call(
            Method::POST,
            &format!("/v1/subscriptions/{subscription}/resume"),
            json!({}),
        )
        .await
        .map(drop)
    }

    /// Hands all failures of a subscription back to its handler.
    ///
    /// # Errors
    /// As [`Admin::pause`].
    pub(crate) async fn redrive_all(&self, subscription: &str) -> Result<()> {
        let all = json!({ "all": true, "reason": "asked for in the demo", "by": "demo" });
        let path = format!("/v1/subscriptions/{subscription}/redrive");
        self.call(Method::POST, &path, all).await.map(drop)
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Result<Value> {
        let failed =
            |e: String| Error::new(ADMIN_NOT_RUNNING, "the admin API does not answer").why(e);
        let exchange = async {
            let stream = connect(&self.dir)
                .await
                .map_err(|e| failed(e.to_string()))?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(|e| failed(e.to_string()))?;
            let driver = tokio::spawn(connection);
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", "localhost")
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(body.to_string())))
                .map_err(|e| failed(e.to_string()))?;
            let response = sender
                .send_request(request)
                .await
                .map_err(|e| failed(e.to_string()))?;
            let status = response.status();
            let bytes = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|e| failed(e.to_string()))?
                .to_bytes();
            driver.abort();
            answer(status, &bytes)
        };
        tokio::time::timeout(ANSWER_WITHIN, exchange)
            .await
            .unwrap_or_else(|_| Err(failed("no answer within 5 s".to_owned())))
    }
}

fn answer(status: StatusCode, body: &[u8]) -> Result<Value> {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    if status.is_success() {
        return Ok(value);
    }
    let said = value.to_string().chars().take(300).collect::<String>();
    Err(Error::new(
        ADMIN_NOT_RUNNING,
        format!("the admin API answered {status}"),
    )
    .why(said))
}

/// Connects to the socket in `dir`, also where its path is too long for a socket: then by way of the open directory.
async fn connect(dir: &Path) -> std::io::Result<UnixStream> {
    let direct = dir.join("admin.sock");
    if direct.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return UnixStream::connect(direct).await;
    }
    let open = std::fs::File::open(dir)?;
    UnixStream::connect(format!("/proc/self/fd/{}/admin.sock", open.as_raw_fd())).await
}
