//! The admin API of a running engine directory: HTTP/1.1 and JSON on the Unix socket `DIR/admin.sock`, mode 0600. The command line, the demo's keys
//! and later the console use it and nothing else. Its page is `docs/guide/admin-api.md`.
//!
//! Whoever may open the socket may do everything: the file's mode is the access control. A body has at most [`BODY_BYTES_MAX`] bytes, a page at
//! most [`crate::failures::PAGE_MAX`] records, a shown payload at most [`PAYLOAD_BYTES_MAX`] bytes.

mod answer;
mod change;
mod json;
mod local;
mod messages;
mod routes;
mod snapshot;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postrider_core::clock::{Mono, Timestamp};
use postrider_core::code::Code;
use postrider_core::fault::{Advice, Fault, FaultKind};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::failures::Failures;
use crate::runtime::Runtime;

pub use local::Local;

/// The name of the socket within the engine's directory.
pub const SOCKET: &str = "admin.sock";
/// The largest body of a request, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// The largest payload that a failure is shown with, in bytes; of a larger one the beginning is shown.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// The largest body of a request that publishes, in bytes.
pub const PUBLISH_BYTES_MAX: usize = 24 << 20;

/// What the routes answer from.
struct Api {
    runtime: Arc<Runtime>,
    failures: Failures,
    started: Timestamp,
    began: Mono,
}

impl Api {
    fn new(runtime: Arc<Runtime>) -> Self {
        Self {
            failures: Failures::new(
                Arc::clone(&runtime.registry),
                runtime.engine.failures(),
                Arc::clone(&runtime.clock),
            ),
            started: runtime.clock.wall(),
            began: runtime.clock.mono(),
            runtime,
        }
    }
}

/// A running admin API. Dropping it stops it at once and removes the socket.
#[must_use = "dropping it stops the admin API"]
#[derive(Debug)]
pub struct AdminServer {
    path: PathBuf,
    stop: CancellationToken,
}

impl AdminServer {
    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop.cancel();
        // Nothing to do where it is gone already; a socket that stays is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whose directory the socket lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The engine's: it has one owner, by its lock, so a socket that is there already is stale and is replaced.
    Engine,
    /// One that the user named: a socket there may be another process's, and stays that process's while it answers.
    Named,
}

/// Serves the admin API in a directory.
///
/// # Errors
/// The socket cannot be made: another process answers on it, the path is longer than a socket's may be (about 100 bytes), or the directory is not
/// writable. The service runs without it.
pub(crate) fn serve(dir: &Path, place: Place, runtime: Arc<Runtime>) -> Result<AdminServer, Fault> {
    let path = dir.join(SOCKET);
    if place == Place::Named && UnixStream::connect(&path).is_ok() {
        let text = format!(
            "another process serves the admin API on {}; this one runs without it: name a directory for each process",
            path.display()
        );
        let fault = Fault::new(FaultKind::Config, Advice::FixConfig, text);
        return Err(fault.code(Code::ADMIN_NOT_RUNNING));
    }
    let listener = bind(&path).map_err(|error| {
        let text = format!(
            "the admin API cannot listen on {}: {error}; the service runs without it (a socket's path has at most about 100 bytes)",
            path.display()
        );
        Fault::new(FaultKind::Config, Advice::FixConfig, text)
            .code(Code::ADMIN_NOT_RUNNING)
            .because(error)
    })?;
    let stop = CancellationToken::new();
    let api = Arc::new(Api::new(runtime));
    let stopped = stop.clone();
    tokio::spawn(async move {
        let serving = axum::serve(listener, routes::router(api));
        tokio::select! {
            () = stopped.cancelled() => {}
            ended = serving => {
                if let Err(error) = ended {
                    tracing::warn!(target: "postrider", %error, "the admin API ended");
                }
            }
        }
    });
    Ok(AdminServer { path, stop })
}

/// Bound under another name, closed to others, and only then given its name: nobody finds it open, and a stale one is replaced in one step.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let fresh = path.with_extension("sock.new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

#[cfg(test)]
mod tests;
