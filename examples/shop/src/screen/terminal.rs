//! The terminal: alternate screen and raw mode, given back whatever happens.

use std::io::{self, Stdout, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::style::{Attribute, SetAttribute};
use crossterm::terminal::{self, ClearType};
use crossterm::{cursor, queue};
use tokio::sync::mpsc;

use super::frame::{View, frame};

/// What a person asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Kill the services.
    Kill,
    /// The next level of faults.
    Faults,
    /// Pause payment, or go on.
    Pause,
    /// Redrive all failures.
    Redrive,
    /// End.
    Quit,
    /// The window changed.
    Redraw,
}

static RAW: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();

/// The screen. Dropping it gives the terminal back; so does a panic in any thread.
pub struct Screen {
    out: Stdout,
    last: Vec<String>,
    size: (u16, u16),
    bold: bool,
    reading: Arc<AtomicBool>,
}

impl Screen {
    /// Takes the terminal over. Keys arrive in the channel.
    ///
    /// # Errors
    /// The terminal refuses; it is then as it was.
    pub fn open() -> io::Result<(Self, mpsc::Receiver<Key>)> {
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                before(panic);
            }));
        });
        terminal::enable_raw_mode()?;
        RAW.store(true, Ordering::SeqCst);
        let mut out = io::stdout();
        let entered =
            queue!(out, terminal::EnterAlternateScreen, cursor::Hide).and_then(|()| out.flush());
        if let Err(error) = entered {
            restore();
            return Err(error);
        }
        let reading = Arc::new(AtomicBool::new(true));
        let (keys, pressed) = mpsc::channel(16);
        let until = Arc::clone(&reading);
        std::thread::Builder::new()
            .name("keys".into())
            .spawn(move || read_keys(&keys, &until))?;
        let screen = Self {
            out,
            last: Vec::new(),
            size: (0, 0),
            bold: std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
            reading,
        };
        Ok((screen, pressed))
    }

    /// Draws the lines that changed, in one write.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn draw(&mut self, view: &View) -> io::Result<()> {
        let size = terminal::size().unwrap_or((80, 24));
        let mut buffer = Vec::new();
        if size != self.size {
            self.size = size;
            self.last.clear();
            queue!(buffer, terminal::Clear(ClearType::All))?;
        }
        let mut lines = frame(view, usize::from(size.0.max(20)));
        lines.truncate(usize::from(size.1));
        let rows = lines.len().max(self.last.len());
        for row in 0..rows {
            let line = lines.get(row).map_or("", String::as_str);
            if self.last.get(row).map(String::as_str) == Some(line) {
                continue;
            }
            let at = u16::try_from(row).unwrap_or(u16::MAX);
            queue!(buffer, cursor::MoveTo(0, at))?;
            let (head, rest) = match line.char_indices().nth(12) {
                Some((cut, _)) if self.bold && !line.starts_with(' ') => line.split_at(cut),
                _ => ("", line),
            };
            if !head.is_empty() {
                queue!(buffer, SetAttribute(Attribute::Bold))?;
                buffer.extend_from_slice(head.as_bytes());
                queue!(buffer, SetAttribute(Attribute::Reset))?;
            }
            buffer.extend_from_slice(rest.as_bytes());
            queue!(buffer, terminal::Clear(ClearType::UntilNewLine))?;
        }
        self.last = lines;
        if buffer.is_empty() {
            return Ok(());
        }
        self.out.write_all(&buffer)?;
        self.out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.reading.store(false, Ordering::SeqCst);
        restore();
    }
}

fn restore() {
    if RAW.swap(false, Ordering::SeqCst) {
        let mut out = io::stdout();
        let _ = queue!(out, cursor::Show, terminal::LeaveAlternateScreen);
        let _ = out.flush();
        let _ = terminal::disable_raw_mode();
    }
}

fn read_keys(keys: &mpsc::Sender<Key>, reading: &AtomicBool) {
    while reading.load(Ordering::SeqCst) && !keys.is_closed() {
        match event::poll(Duration::from_millis(100)) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(_) => return,
        }
        let key = match event::read() {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    KeyCode::Char('c' | 'd') if control => Some(Key::Quit),
                    KeyCode::Char('k' | 'K') => Some(Key::Kill),
                    KeyCode::Char('f' | 'F') => Some(Key::Faults),
                    KeyCode::Char('p' | 'P') => Some(Key::Pause),
                    KeyCode::Char('r' | 'R') => Some(Key::Redrive),
                    KeyCode::Char('q' | 'Q') | KeyCode::Esc => Some(Key::Quit),
                    _ => None,
                }
            }
            Ok(Event::Resize(..)) => Some(Key::Redraw),
            Ok(_) => None,
            Err(_) => return,
        };
        // A full channel means that earlier keys still wait: this one is dropped, as a person would expect.
        if let Some(key) = key {
            let _ = keys.try_send(key);
        }
    }
}
