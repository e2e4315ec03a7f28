//! A client of the admin API: HTTP/1.1 and JSON on the socket of a running engine directory, one connection per request; where nothing runs, the
//! same API in this process.
//!
//! The demo's keys have a client of their own in `examples/shop`: an example is no home for the command line's, and this one turns each answer
//! into an exit code, which the demo has no use for.

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use postrider::{Code, SubscriptionId};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::end::{Exit, Failure, Result, Stop};
use crate::stopped::{Stopped, is_engine_directory};

/// The name of the socket within the engine's directory.
const SOCKET: &str = "admin.sock";
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// The longest path that every system takes for a Unix socket, in bytes.
const SOCKET_PATH_BYTES_MAX: usize = 100;
/// The directory that is looked at where none is named.
const DIR_DEFAULT: &str = "./data";

/// Which directory is meant.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Place {
    /// The engine directory, of a running process or of none [default: ./data where it is one]
    #[arg(
        long,
        value_name = "DIR",
        env = "POSTRIDER_DIR",
        hide_env_values = true
    )]
    dir: Option<PathBuf>,
}

impl Place {
    /// This directory, or the default one.
    pub(crate) fn at(dir: Option<PathBuf>) -> Self {
        Self { dir }
    }

    /// The admin API of that directory, be it running or not. Nothing is asked yet.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client {
            dir: self.directory()?,
            must_run: false,
            stopped: Arc::default(),
        })
    }

    /// The admin API of that directory, which must be running.
    pub(crate) fn running(&self) -> Result<Client> {
        Ok(Client {
            must_run: true,
            ..self.client()?
        })
    }

    /// The engine directory that is meant.
    pub(crate) fn directory(&self) -> Result<PathBuf> {
        let is_one = |dir: &Path| dir.join(SOCKET).exists() || is_engine_directory(dir);
        // The demo keeps its engine in DIR/log.
        let inner = |dir: &Path| Some(dir.join("log")).filter(|inner| is_one(inner));
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => {
                let default = PathBuf::from(DIR_DEFAULT);
                if !is_one(&default) && inner(&default).is_none() {
                    let what = "no engine directory was named, and ./data is none";
                    return Err(Failure::new(Exit::Usage, Code::CLI_NO_DIRECTORY, what).into());
                }
                default
            }
        };
        Ok(match is_one(&dir) {
            true => dir,
            false => inner(&dir).unwrap_or(dir),
        })
    }
}

/// The admin API of an engine directory: that of the process that runs on it, or, where none does, of this command.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    dir: PathBuf,
    must_run: bool,
    stopped: Arc<Mutex<Option<Stopped>>>,
}

/// Whether a request changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Look,
    Change,
}

impl Client {
    /// Asks for what stands at this path.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.ask(Method::GET, path, Bytes::new(), Wish::Look, ANSWER_WITHIN)
            .await
    }

    /// Asks for something to be done.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.post_within(path, body, ANSWER_WITHIN).await
    }

    /// The same, where it may take longer.
    pub(crate) async fn post_within(
        &self,
        path: &str,
        body: &Value,
        within: Duration,
    ) -> Result<Value> {
        let body = body.to_string().into();
        self.ask(Method::POST, path, body, Wish::Change, within)
            .await
    }

    /// The same, however long it takes.
    pub(crate) async fn post_forever(&self, path: &str, body: &Value) -> Result<Value> {
        self.post_within(path, body, Duration::from_secs(7 * 24 * 3600))
            .await
    }

    /// Whether a process answers on the directory's socket.
    pub(crate) async fn is_answered(&self) -> bool {
        self.connect().await.is_ok()
    }

    /// Asks what would be done.
    pub(crate) async fn count(&self, path: &str, body: &Value) -> Result<Value> {
        let body = body.to_string().into();
        self.ask(Method::POST, path, body, Wish::Look, ANSWER_WITHIN)
            .await
    }

    /// Whether no process runs on the directory. Known once something was asked.
    pub(crate) async fn is_stopped(&self) -> bool {
        self.stopped.lock().await.is_some()
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        wish: Wish,
        within: Duration,
    ) -> Result<Value> {
        let stream = match self.is_stopped().await {
            true => None,
            false => match self.connect().await {
                Ok(stream) => Some(stream),
                Err(_) if !self.must_run && is_engine_directory(&self.dir) => None,
                Err(why) => return Err(self.unreachable(why.to_string())),
            },
        };
        let Some(stream) = stream else {
            return self.ask_stopped(method, path, body, wish).await;
        };
        let answer = tokio::time::timeout(within, exchange(stream, method, path, body));
        match answer.await {
            Ok(Ok((status, body))) => read(status, &body),
            Ok(Err(why)) => Err(self.unreachable(why)),
            Err(_) => {
                let what = format!(
                    "{} does not answer within {} s",
                    self.socket().display(),
                    within.as_secs()
                );
                Err(Failure::new(Exit::Timeout, Code::CLI_TIMEOUT, what).into())
            }
        }
    }

    /// Opens the directory, or opens it again where what is asked now is to be kept.
    async fn ask_stopped(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        wish: Wish,
    ) -> Result<Value> {
        let mut stopped = self.stopped.lock().await;
        let writes = wish == Wish::Change;
        if stopped.as_ref().is_none_or(|s| writes && !s.writes()) {
            // Its lock is given back before the next one is taken.
            drop(stopped.take());
            *stopped = Some(Stopped::open(&self.dir, writes).await?);
        }
        let Some(open) = stopped.as_ref() else {
            return Err(self.unreachable("it was not opened".to_owned()));
        };
        let answer = open.ask(method, path, body).await;
        let (status, body) = answer.map_err(|why| self.unreachable(why))?;
        read(status, &body)
    }

    /// Connects, also where the path is too long for a socket: then by way of the open directory.
    async fn connect(&self) -> io::Result<UnixStream> {
        let direct = self.socket();
        if direct.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return UnixStream::connect(direct).await;
        }
        let open = std::fs::File::open(&self.dir)?;
        UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", open.as_raw_fd())).await
    }

    fn socket(&self) -> PathBuf {
        self.dir.join(SOCKET)
    }

    fn unreachable(&self, why: String) -> Stop {
        let what = format!("nothing answers on {}", self.socket().display());
        let failure = Failure::new(Exit::Unreachable, Code::ADMIN_NOT_RUNNING, what);
        failure.why(why).into()
    }
}

async fn exchange(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: Bytes,
) -> std::result::Result<(StatusCode, Bytes), String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "postrider")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(|e| e.to_string())?;
    // Ends with the request: the sender is dropped after it.
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await;
    let response = response.map_err(|e| e.to_string())?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
    let body = body.await.map_err(|e| e.to_string())?.to_bytes();
    connection.abort();
    Ok((status, body))
}

/// What the API said: the answer, or its error with what, why and what to do.
fn read(status: StatusCode, body: &[u8]) -> Result<Value> {
    let answer: Option<Value> = serde_json::from_slice(body).ok();
    let text = |name: &str| {
        let field = answer.as_ref()?.get(name)?.as_str()?;
        Some(field.to_owned()).filter(|text| !text.is_empty())
    };
    match (&answer, text("code").as_deref().and_then(Code::parse)) {
        (Some(_), _) if status.is_success() => Ok(answer.unwrap_or_default()),
        (_, Some(code)) => {
            let mut failure = Failure::new(
                exit_of(status),
                code,
                text("what").unwrap_or_else(|| format!("the admin API answered {status}")),
            );
            if let Some(why) = text("why") {
                failure = failure.why(why);
            }
            if let Some(remedy) = text("remedy") {
                failure = failure.remedy(remedy);
            }
            Err(failure.into())
        }
        _ => {
            let what =
                format!("the admin API answered {status} with something that it does not say");
            let failure = Failure::new(Exit::Failed, Code::CLI_FAILED, what);
            Err(failure
                .why("what answers is another program or another version")
                .into())
        }
    }
}

fn exit_of(status: StatusCode) -> Exit {
    match status.as_u16() {
        404 => Exit::NotFound,
        409 | 412 => Exit::Conflict,
        400 | 405 | 413 => Exit::Usage,
        408 | 504 => Exit::Timeout,
        _ => Exit::Failed,
    }
}

/// The path of a topic or queue: its full name, or a bare one.
pub(crate) fn of_topic(destination: &str, rest: &str) -> String {
    format!("/v1/topics/{}{rest}", encoded(destination))
}

/// The path of a subscription.
pub(crate) fn of_subscription(id: &SubscriptionId, rest: &str) -> String {
    format!("/v1/subscriptions/{}{rest}", encoded(&id.to_string()))
}

/// Text as a part of a path or of a query.
pub(crate) fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(one).collect()
}

/// Reads a subscription's name on the command line.
pub(crate) fn subscription(text: &str) -> std::result::Result<SubscriptionId, String> {
    SubscriptionId::parse(text)
        .map_err(|error| format!("{error} (a subscription is written inventory@topic:shop.order)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_plain_is_encoded() {
        assert_eq!(encoded("a@topic:b.c d·"), "a%40topic%3Ab.c%20d%C2%B7");
    }

    #[test]
    fn an_answer_of_another_program_is_an_error_and_not_an_answer() {
        for (status, body) in [(200, "<html>"), (500, "{}"), (404, "")] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert!(read(status, body.as_bytes()).is_err(), "{status} {body}");
        }
    }
}
