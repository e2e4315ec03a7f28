//! SIGTERM and Ctrl-C.

use tokio::sync::watch;

use crate::error::Result;

/// Counts the signals that ask the process to end, from now on.
///
/// # Errors
/// The operating system refuses to hand signals over.
pub(crate) fn watch() -> Result<watch::Receiver<u32>> {
    let (count, counted) = watch::channel(0);
    let mut signals = Signals::new()?;
    tokio::spawn(async move {
        while !count.is_closed() {
            tokio::select! {
                () = signals.next() => count.send_modify(|n| *n += 1),
                () = count.closed() => {}
            }
        }
    });
    Ok(counted)
}

/// Waits until so many signals came. Never, where signals cannot come any more.
pub(crate) async fn nth(signals: &mut watch::Receiver<u32>, n: u32) {
    if signals.wait_for(|count| *count >= n).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let outside = |e: std::io::Error| {
            crate::error::Error::new(postrider_core::code::Code::OUTSIDE, e.to_string())
        };
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(outside)?,
            interrupt: signal(SignalKind::interrupt()).map_err(outside)?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
