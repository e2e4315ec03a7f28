//! Commands: printed as one can type them, streamed line by line, ended at a limit.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// Lines read ahead of who takes them; a full channel makes the reader, and so the child, wait.
const LINES_AHEAD_MAX: usize = 1024;

/// A command to run.
#[derive(Clone, Debug)]
pub(crate) struct Cmd {
    program: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    dir: Option<PathBuf>,
    limit: Option<Duration>,
    stderr: Option<PathBuf>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    /// The limit passed and the whole process group was killed.
    pub(crate) killed: bool,
    /// From the start to the end.
    pub(crate) took: Duration,
}

impl Cmd {
    pub(crate) fn new(program: impl Into<String>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
            limit: None,
            stderr: None,
        }
    }

    /// `cargo` with arguments separated by spaces.
    pub(crate) fn cargo(args: &str) -> Self {
        Self::new("cargo").args(args.split_whitespace())
    }

    pub(crate) fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// After `limit` the child and its whole process group get SIGKILL. The child then has a group
    /// of its own, so a Ctrl-C at the terminal does not reach it.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Standard error is appended to this file instead of shown.
    pub(crate) fn stderr_to(mut self, path: impl Into<PathBuf>) -> Self {
        self.stderr = Some(path.into());
        self
    }

    /// Runs, hands over each line of standard output, and says how it ended.
    pub(crate) fn run(&self, mut on_line: impl FnMut(&str)) -> Result<Outcome> {
        let start = Instant::now();
        let mut child = self.spawn()?;
        let stdout = child.stdout.take().expect("stdout was asked for as a pipe");
        let lines = read_lines(stdout);
        let mut killed = false;
        loop {
            let next = match self.limit.filter(|_| !killed) {
                Some(limit) => lines.recv_timeout(limit.saturating_sub(start.elapsed())),
                None => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match next {
                Ok(line) => on_line(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                // The child is not reaped before `wait` below, so its number is still its own.
                Err(RecvTimeoutError::Timeout) => {
                    killed = true;
                    kill_process_group(Pid::from_child(&child), Signal::KILL)
                        .with_context(|| format!("cannot kill {self}"))?;
                }
            }
        }
        let status = child
            .wait()
            .with_context(|| format!("cannot wait for {self}"))?;
        Ok(Outcome {
            code: status.code(),
            killed,
            took: start.elapsed(),
        })
    }

    /// Runs with the output shown; anything but exit code 0 is an error.
    pub(crate) fn show(&self, mut on_line: impl FnMut(&str)) -> Result<()> {
        let outcome = self.run(|line| {
            println!("{line}");
            on_line(line);
        })?;
        self.check(&outcome)
    }

    /// Runs and returns standard output; anything but exit code 0 is an error.
    pub(crate) fn capture(&self) -> Result<String> {
        let mut output = String::new();
        let outcome = self.run(|line| {
            output.push_str(line);
            output.push('\n');
        })?;
        self.check(&outcome)?;
        Ok(output)
    }

    fn check(&self, outcome: &Outcome) -> Result<()> {
        match (outcome.killed, outcome.code) {
            (true, _) => bail!(
                "did not end within {:?}: {self}",
                self.limit.unwrap_or_default()
            ),
            (false, Some(0)) => Ok(()),
            (false, Some(code)) => bail!("exit code {code}: {self}"),
            (false, None) => bail!("ended by a signal: {self}"),
        }
    }

    fn spawn(&self) -> Result<Child> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        if self.limit.is_some() {
            command.process_group(0);
        }
        if let Some(path) = &self.stderr {
            let file = File::options().create(true).append(true).open(path);
            command.stderr(file.with_context(|| format!("cannot open {}", path.display()))?);
        }
        command
            .spawn()
            .with_context(|| format!("cannot start {self}"))
    }
}

/// Reads lines on a thread of their own, so that who takes them can watch a limit. The thread ends
/// with the pipe: when the last process that holds its other end is gone.
fn read_lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(LINES_AHEAD_MAX);
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while matches!(reader.read_until(b'\n', &mut bytes), Ok(size) if size > 0) {
            let line = String::from_utf8_lossy(&bytes)
                .trim_end_matches(['\n', '\r'])
                .to_owned();
            bytes.clear();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The command as one can type it in a shell, from the root of the repository.
impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(dir) = &self.dir {
            write!(f, "cd {} && ", quote(&dir.to_string_lossy()))?;
        }
        for (name, value) in &self.env {
            write!(f, "{name}={} ", quote(value))?;
        }
        write!(f, "{}", quote(&self.program))?;
        self.args
            .iter()
            .try_for_each(|arg| write!(f, " {}", quote(arg)))
    }
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_can_type_it() {
        let cmd = Cmd::cargo("doc --no-deps")
            .env("RUSTDOCFLAGS", "-D warnings")
            .args(["it's"]);
        assert_eq!(
            cmd.to_string(),
            r"RUSTDOCFLAGS='-D warnings' cargo doc --no-deps 'it'\''s'"
        );
    }

    #[test]
    fn a_command_past_its_limit_is_killed_with_its_children() {
        let cmd = Cmd::new("sh").args(["-c", "echo started; sleep 600 & sleep 600"]);
        let mut seen = Vec::new();
        let outcome = cmd
            .limit(Duration::from_millis(300))
            .run(|line| seen.push(line.to_owned()))
            .unwrap();
        // The pipe is closed only when the sleeper in the background is gone too.
        assert!(outcome.killed && outcome.code.is_none());
        assert_eq!(seen, ["started"]);
    }

    #[test]
    fn a_failing_command_names_its_exit_code() {
        let error = Cmd::new("sh").args(["-c", "exit 7"]).capture().unwrap_err();
        assert_eq!(error.to_string(), "exit code 7: sh -c 'exit 7'");
    }
}
