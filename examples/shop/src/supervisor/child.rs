//! The child process in which the services run.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command as Process};
use tokio::sync::mpsc;

use crate::error::{Error, Result, SERVICES_DOWN};
use crate::protocol::{Command, Report, Setup};

/// Reports that wait for the supervisor.
const REPORTS_MAX: usize = 256;

/// What a child tells: which one, and what.
#[derive(Debug)]
pub(super) enum FromChild {
    /// It reports.
    Report(Box<Report>),
    /// Its process ended. Nothing follows.
    Exited(std::io::Result<ExitStatus>),
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Services {
    /// `None` once it was told to end by the end of its input.
    input: Option<ChildStdin>,
    kill: mpsc::Sender<()>,
    pub(super) events: mpsc::Receiver<FromChild>,
}

impl Services {
    /// Starts the services. What they write to standard error goes to `DIR/services.log`.
    ///
    /// # Errors
    /// The program could not be started again.
    pub(super) async fn start(setup: &Setup) -> Result<Self> {
        let failed = |e| Error::new(SERVICES_DOWN, "the services could not be started").because(e);
        let program = std::env::current_exe().map_err(failed)?;
        let log = setup.dir.join("services.log");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|e| Error::io("write", &log, e))?;
        let mut process = Process::new(program);
        if setup.engine.is_none() {
            // Paths within the directory stay short and plain, whatever the directory is called.
            process.current_dir(&setup.dir);
        }
        process
            // glibc keeps an arena per thread and gives little of it back: two hold the same in three quarters of the memory.
            .env("MALLOC_ARENA_MAX", "2")
            .arg("demo-child")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C at the terminal is for the supervisor, which drains the services.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = process.spawn().map_err(failed)?;
        let mut input = child.stdin.take();
        let line = serde_json::to_string(setup).map_err(|e| failed(e.into()))?;
        if let Some(input) = &mut input {
            input
                .write_all(format!("{line}\n").as_bytes())
                .await
                .map_err(failed)?;
        }
        let (events_in, events) = mpsc::channel(REPORTS_MAX);
        let (kill, killed) = mpsc::channel(1);
        tokio::spawn(follow(child, events_in, killed));
        Ok(Self {
            input,
            kill,
            events,
        })
    }

    /// Tells it something. A child that is gone hears nothing: its end is an event of its own.
    pub(super) async fn tell(&mut self, command: &Command) {
        let Ok(line) = serde_json::to_string(command) else {
            return;
        };
        if let Some(input) = &mut self.input {
            let _ = input.write_all(format!("{line}\n").as_bytes()).await;
        }
    }

    /// SIGKILL. The end is an event.
    pub(super) fn kill(&self) {
        let _ = self.kill.try_send(());
    }
}

async fn follow(mut child: Child, events: mpsc::Sender<FromChild>, mut killed: mpsc::Receiver<()>) {
    if let Some(output) = child.stdout.take() {
        let mut lines = BufReader::new(output).lines();
        loop {
            let line = tokio::select! {
                line = lines.next_line() => line,
                wanted = killed.recv() => {
                    if wanted.is_none() {
                        // The supervisor let go of it.
                        let _ = child.start_kill();
                        return;
                    }
                    let _ = child.start_kill();
                    continue;
                }
            };
            let Ok(Some(line)) = line else { break };
            match serde_json::from_str(&line) {
                Ok(report) => {
                    if events.send(FromChild::Report(report)).await.is_err() {
                        return;
                    }
                }
                Err(error) => tracing::debug!(%error, line, "not a report"),
            }
        }
    }
    let status = child.wait().await;
    let _ = events.send(FromChild::Exited(status)).await;
}

/// Where the engine of a run lives, if it is the embedded one.
pub(super) fn engine_dir(dir: &Path) -> std::path::PathBuf {
    dir.join(crate::protocol::ENGINE_DIR)
}
