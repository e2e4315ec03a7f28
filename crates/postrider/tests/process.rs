//! A service in a process of its own: signals, the admin socket, what a killed one leaves.
#![allow(clippy::unwrap_used)]
#![cfg(unix)]

use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use postrider::prelude::*;
use tokio::sync::Notify;

const CHILD: &str = "POSTRIDER_PROCESS_DIR";
const CHILD_PUBLISHES: &str = "POSTRIDER_PROCESS_PUBLISHES";
const WATCHDOG: Duration = Duration::from_secs(60);

#[derive(Message, Serialize, Deserialize, Debug)]
#[message(topic = "shop.order", type = "placed", key = order_id)]
struct Placed {
    order_id: String,
}

/// Says one line, at once.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

/// Handles until its standard input says that it may end.
async fn slow(order: Placed, State(may_end): State<Arc<Notify>>) {
    say(&format!("began {}", order.order_id));
    may_end.notified().await;
    say(&format!("handled {}", order.order_id));
}

/// The process that is told to end: a service as a user writes it, with one message in its handler.
#[test]
fn child() {
    let Ok(directory) = std::env::var(CHILD) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async move {
        let bus = Bus::connect(&format!("embedded:{directory}"))
            .await
            .unwrap();
        let may_end = Arc::new(Notify::new());
        if std::env::var(CHILD_PUBLISHES).is_ok() {
            // The subscription first: what nobody subscribes to is kept for nobody.
            let made = Service::new("shipping").announce(false).on(slow);
            let made = made.state(may_end.clone()).start(&bus).await.unwrap();
            made.stop(secs(1)).await;
            let order_id = "o-1".into();
            bus.publish(Placed { order_id }).await.unwrap();
        }
        let service = Service::new("shipping")
            .state(may_end.clone())
            .on(slow)
            // A wait of this length would be seen.
            .grace(hours(1));
        let told = may_end.clone();
        std::thread::spawn(move || {
            for _ in std::io::stdin().lines() {
                told.notify_one();
            }
        });
        // Whoever waits for its end is not left waiting.
        let run = tokio::time::timeout(WATCHDOG, service.run(bus));
        run.await.unwrap().unwrap();
        say("returned");
    });
}

struct Process {
    child: Running,
    lines: Lines<BufReader<ChildStdout>>,
}

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and need not be.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Starts it, and waits until its handler has begun.
    fn start(directory: &Path, publishes: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(CHILD, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if publishes {
            command.env(CHILD_PUBLISHES, "1");
        }
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let child = Running(child);
        let mut process = Self { child, lines };
        process.wait_for("began o-1");
        process
    }

    fn wait_for(&mut self, wanted: &str) {
        for line in self.lines.by_ref() {
            if line.unwrap() == wanted {
                return;
            }
        }
        panic!("it ended without `{wanted}`");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.0.id().to_string();
        let kill = format!("kill -{name} {pid}");
        let status = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(status.success());
    }

    fn may_end(&mut self) {
        let stdin = self.child.0.stdin.as_mut().unwrap();
        stdin.write_all(b"end\n").unwrap();
        stdin.flush().unwrap();
    }

    /// Its exit code, the rest of its standard output, its standard error.
    fn end(mut self) -> (Option<i32>, String, String) {
        let rest: Vec<String> = self.lines.by_ref().map(Result::unwrap).collect();
        let mut stderr = String::new();
        let mut pipe = self.child.0.stderr.take().unwrap();
        pipe.read_to_string(&mut stderr).unwrap();
        let status = self.child.0.wait().unwrap();
        (status.code(), rest.join("\n"), stderr)
    }
}

fn ends_after(signal: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), true);
    process.signal(signal);
    // The handler that runs is waited for.
    process.may_end();
    let (code, stdout, stderr) = process.end();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("handled o-1"), "{stdout}");
    assert!(stdout.contains("returned"), "{stdout}");
    assert!(
        stderr.contains("postrider: shipping: stopped, nothing left"),
        "{stderr}"
    );
    let plan = "postrider: shipping on ";
    assert!(stderr.contains(plan), "the plan was printed: {stderr}");
}

#[test]
fn sigterm_drains_says_what_was_left_and_ends_with_0() {
    ends_after("TERM");
}

#[test]
fn ctrl_c_drains_says_what_was_left_and_ends_with_0() {
    ends_after("INT");
}

#[test]
fn a_second_signal_does_not_wait_and_what_was_given_back_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), true);
    process.signal("INT");
    process.signal("TERM");
    let (code, stdout, stderr) = process.end();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stdout.contains("handled o-1"), "{stdout}");
    assert!(
        stderr.contains("postrider: shipping: stopped; 1 handlers cancelled"),
        "{stderr}"
    );
    // The same message, to the next process.
    let mut again = Process::start(dir.path(), false);
    again.may_end();
    again.wait_for("handled o-1");
    again.signal("TERM");
    let (code, _, stderr) = again.end();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("stopped, nothing left"), "{stderr}");
}

#[cfg(feature = "admin")]
mod admin {
    use super::*;

    /// What the admin API says of its state.
    fn status(socket: &Path) -> String {
        let mut stream = UnixStream::connect(socket).unwrap();
        let request = "GET /v1/status HTTP/1.1\r\nhost: postrider\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_running_service_serves_the_admin_api_and_a_killed_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        let mut killed = Process::start(dir.path(), true);
        let answer = status(&socket);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(r#""services":["shipping"]"#), "{answer}");
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "closed to others");
        killed.child.0.kill().unwrap();
        killed.child.0.wait().unwrap();
        assert!(socket.exists(), "a killed process leaves its socket");
        assert!(UnixStream::connect(&socket).is_err(), "and nobody listens");

        let mut process = Process::start(dir.path(), false);
        let answer = status(&socket);
        let pid = format!(r#""pid":{}"#, process.child.0.id());
        assert!(answer.contains(&pid), "{answer}");
        process.may_end();
        process.wait_for("handled o-1");
        process.signal("TERM");
        let (code, _, stderr) = process.end();
        assert_eq!(code, Some(0), "{stderr}");
        assert!(!socket.exists(), "it goes with the service");
    }
}
