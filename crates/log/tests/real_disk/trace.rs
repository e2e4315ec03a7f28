//! Reading what `strace -f -xx` wrote.

use std::collections::BTreeMap;
use std::path::Path;

use super::child::MARK;

/// The system calls that change a disk, and those by which one sees which file they are about.
pub(crate) const CALLS: &str = "trace=openat,open,creat,close,write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,sync,syncfs,\
sync_file_range,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,fallocate,ftruncate,truncate";

/// What happened, in the directory of the log; paths are relative to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// What the child said.
    Mark(String),
    Open {
        path: String,
        flags: String,
        failed: bool,
    },
    Write {
        path: String,
        at: u64,
        bytes: Vec<u8>,
    },
    /// `fdatasync`, or `fsync` of a directory.
    Sync {
        path: String,
        call: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
        failed: bool,
    },
    Mkdir {
        path: String,
    },
    Allocate {
        path: String,
        len: u64,
    },
    /// Any other call about a file of the directory.
    Other {
        call: String,
        path: String,
    },
}

/// The events of a trace, in order.
pub(crate) fn read(text: &str, root: &Path) -> Vec<Event> {
    let root = root.to_str().unwrap();
    let mut open: BTreeMap<u64, String> = BTreeMap::new();
    let mut unfinished: BTreeMap<&str, String> = BTreeMap::new();
    let mut events = Vec::new();
    for line in text.lines() {
        let (pid, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim_start();
        let whole = if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.insert(pid, begun.to_owned());
            continue;
        } else if rest.starts_with("<... ") {
            let begun = unfinished.remove(pid).unwrap_or_default();
            let end = rest.split_once(" resumed>").map_or("", |(_, end)| end);
            format!("{begun}{end}")
        } else {
            rest.to_owned()
        };
        let Some((call, arguments, result)) = parts(&whole) else {
            continue;
        };
        let call = Call {
            name: call,
            arguments,
            result,
        };
        events.extend(call.event(root, &mut open));
    }
    events
}

/// `name(arguments) = result`.
fn parts(line: &str) -> Option<(&str, Vec<String>, i64)> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(") ")?;
    let result = result.trim_start().strip_prefix('=')?.trim_start();
    let result = result.split(' ').next()?.parse().ok()?;
    // Strings are hexadecimal, so a comma is always one between arguments.
    let arguments = arguments.split(", ").map(str::to_owned).collect();
    Some((name, arguments, result))
}

/// The bytes of a string argument.
fn bytes(argument: &str) -> Vec<u8> {
    assert!(!argument.ends_with("..."), "strace cut a string short");
    let hex = argument.trim_matches('"').split("\\x").skip(1);
    hex.map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

struct Call<'a> {
    name: &'a str,
    arguments: Vec<String>,
    result: i64,
}

impl Call<'_> {
    fn number(&self, nth: usize) -> u64 {
        self.arguments[nth].parse().unwrap()
    }

    /// The path that this argument names, if it is in the directory.
    fn path(&self, nth: usize, root: &str) -> Option<String> {
        let path = String::from_utf8(bytes(&self.arguments[nth])).unwrap();
        let inside = path.strip_prefix(root)?;
        Some(inside.trim_start_matches('/').to_owned())
    }

    fn event(&self, root: &str, open: &mut BTreeMap<u64, String>) -> Option<Event> {
        let failed = self.result < 0;
        let fd = || open.get(&self.number(0)).cloned();
        match self.name {
            "openat" => {
                // A number that is given again is another file now.
                open.remove(&(self.result as u64));
                let path = self.path(1, root)?;
                if !failed {
                    open.insert(self.result as u64, path.clone());
                }
                let flags = self.arguments[2].clone();
                Some(Event::Open {
                    path,
                    flags,
                    failed,
                })
            }
            "close" => {
                open.remove(&self.number(0));
                None
            }
            "write" => match fd() {
                Some(path) => Some(self.other(path)),
                None => {
                    let text = String::from_utf8_lossy(&bytes(&self.arguments[1])).into_owned();
                    let mark = text.trim_end().strip_prefix(MARK)?;
                    Some(Event::Mark(mark.to_owned()))
                }
            },
            "pwrite64" => {
                let (path, bytes) = (fd()?, bytes(&self.arguments[1]));
                assert_eq!(self.result as usize, bytes.len(), "a short write");
                let at = self.number(3);
                Some(Event::Write { path, at, bytes })
            }
            "fdatasync" | "fsync" if !failed => {
                let (path, call) = (fd()?, self.name.to_owned());
                Some(Event::Sync { path, call })
            }
            "fallocate" if !failed => {
                let (path, len) = (fd()?, self.number(3));
                Some(Event::Allocate { path, len })
            }
            "rename" => {
                let (from, to) = (self.path(0, root)?, self.path(1, root)?);
                Some(Event::Rename { from, to })
            }
            "unlink" => {
                let path = self.path(0, root)?;
                Some(Event::Unlink { path, failed })
            }
            "mkdir" => {
                let path = self.path(0, root)?;
                Some(Event::Mkdir { path })
            }
            _ => {
                let named = (0..self.arguments.len())
                    .filter(|nth| self.arguments[*nth].starts_with('"'))
                    .find_map(|nth| self.path(nth, root));
                let number = || self.arguments[0].parse().ok();
                let path = named.or_else(|| open.get(&number()?).cloned())?;
                Some(self.other(path))
            }
        }
    }

    fn other(&self, path: String) -> Event {
        Event::Other {
            call: self.name.to_owned(),
            path,
        }
    }
}
