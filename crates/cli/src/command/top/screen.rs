//! The terminal: what is drawn, and its state before and after.

use std::io;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Cell, Paragraph, Row as TableRow, StatefulWidget, Table, TableState, Widget,
};

use super::view::{Row, View};
use crate::text::{plain, span};

/// A terminal in raw mode on its other screen; as it was before once it is dropped.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<io::Stdout>>,
    colours: bool,
}

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        enable_raw_mode()?;
        let mut out = io::stdout();
        if let Err(error) = execute!(out, EnterAlternateScreen) {
            let _ = disable_raw_mode();
            return Err(error);
        }
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Ok(Self {
            terminal: Terminal::new(CrosstermBackend::new(out))?,
            colours: !no_color,
        })
    }

    pub(super) fn draw(&mut self, view: &View) -> io::Result<()> {
        let colours = self.colours;
        self.terminal
            .draw(|frame| draw(view, colours, frame.area(), frame.buffer_mut()))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing to be done where the terminal is gone.
        let _ = disable_raw_mode();
        let _ = execute!(io::stdout(), LeaveAlternateScreen);
        let _ = self.terminal.show_cursor();
    }
}

/// What the screen would show, as text without colours.
pub(super) fn text(view: &View, width: u16) -> String {
    let height = u16::try_from(view.rows.len())
        .unwrap_or(u16::MAX)
        .saturating_add(5);
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    draw(view, false, area, &mut buffer);
    let line = |y| {
        let cells = (0..width).map(|x| buffer[(x, y)].symbol());
        cells.collect::<String>().trim_end().to_owned()
    };
    // The last line says which keys there are.
    let mut lines: Vec<String> = (0..height.saturating_sub(1)).map(line).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines.join("\n") + "\n"
}

fn draw(view: &View, colours: bool, area: Rect, buffer: &mut Buffer) {
    let parts = [
        Constraint::Length(2),
        Constraint::Min(2),
        Constraint::Length(1),
        Constraint::Length(1),
    ];
    let [head, rows, detail, keys] = Layout::vertical(parts).areas(area);
    header(view).render(head, buffer);
    let mut state = TableState::default().with_selected(Some(view.at));
    StatefulWidget::render(table(view, colours, area.width), rows, buffer, &mut state);
    let chosen = view.rows.get(view.at).map_or_else(String::new, about);
    let detail_text = view.note.clone().unwrap_or(chosen);
    Line::from(plain(&detail_text)).render(detail, buffer);
    let dim = Style::new().add_modifier(Modifier::DIM);
    Line::styled("q quit  p pause/resume  ↑↓ choose", dim).render(keys, buffer);
}

fn header(view: &View) -> Paragraph<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let handled: f64 = view.rows.iter().map(|row| row.handled_per_s).sum();
    let failures: u64 = view.rows.iter().map(|row| row.failures).sum();
    let first = Line::from(vec![
        Span::styled(plain(&view.engine), bold),
        Span::raw(format!(
            "  {}  up {}",
            view.durability,
            span(view.uptime_ms)
        )),
    ]);
    let second = format!(
        "published {}/s  handled {}/s  kept {}  failures {failures}",
        rate(view.published_per_s),
        rate(handled),
        view.messages
    );
    Paragraph::new(vec![first, Line::from(second)])
}

/// Columns of numbers, and what is left for the name.
const WIDTHS: [u16; 7] = [7, 6, 7, 8, 4, 6, 7];

fn table(view: &View, colours: bool, width: u16) -> Table<'static> {
    let heads = [
        "SUBSCRIPTION",
        "OK/s",
        "FAIL/s",
        "DEPTH",
        "OLDEST",
        "RUN",
        "DEAD",
        "MEAN",
    ];
    let numbers: u16 = WIDTHS.iter().map(|width| width + 1).sum();
    let name_width = usize::from(width.saturating_sub(numbers).max(10));
    let rows = view.rows.iter().map(|row| cells(row, colours, name_width));
    let widths = [Constraint::Min(10)]
        .into_iter()
        .chain(WIDTHS.map(Constraint::Length));
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let heads = heads.iter().enumerate().map(|(at, head)| match at {
        0 => Cell::from(*head),
        at => right(head, WIDTHS[at - 1]),
    });
    Table::new(rows, widths)
        .header(TableRow::new(heads).style(bold))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .column_spacing(1)
}

fn right(text: &str, width: u16) -> Cell<'static> {
    Cell::from(format!("{text:>width$}", width = usize::from(width)))
}

fn cells(row: &Row, colours: bool, name_width: usize) -> TableRow<'static> {
    let mark = match row.phase.as_str() {
        "running" if row.waits_for.is_some() => "! ",
        "running" => "",
        "paused" => "‖ ",
        _ => "- ",
    };
    let values = [
        rate(row.handled_per_s),
        rate(row.failed_per_s),
        short(row.depth),
        row.age_ms.map_or_else(|| "-".to_owned(), span),
        short(row.running),
        short(row.failures),
        row.mean_ms.map_or_else(|| "-".to_owned(), time),
    ];
    let name = cut(&format!("{mark}{}", plain(&row.id)), name_width);
    let mut cells = vec![Cell::from(name)];
    let numbers = values.iter().zip(WIDTHS).enumerate();
    cells.extend(numbers.map(|(at, (value, width))| {
        let cell = right(value, width);
        let alarming = (at == 1 && row.failed_per_s > 0.0) || (at == 5 && row.failures > 0);
        match colours && alarming {
            true => cell.style(Style::new().fg(Color::Red)),
            false => cell,
        }
    }));
    TableRow::new(cells)
}

/// What the row of a subscription has no room for.
fn about(row: &Row) -> String {
    let mut out = format!("{}: {}", row.id, row.phase.replace('_', " "));
    if let Some(dependency) = &row.waits_for {
        out.push_str(&format!(", waits for {dependency}"));
    }
    if row.members > 1 {
        out.push_str(&format!(", {} members", row.members));
    }
    if let Some(p99) = row.p99_ms {
        out.push_str(&format!(", p99 within {}", time(p99)));
    }
    out
}

/// The text in so many columns: its end is what tells names apart, so that stays.
fn cut(text: &str, width: usize) -> String {
    let len = text.chars().count();
    if len <= width {
        return text.to_owned();
    }
    let (front, back) = (width.div_ceil(2) - 1, width / 2);
    let begin: String = text.chars().take(front).collect();
    let end: String = text.chars().skip(len - back).collect();
    format!("{begin}…{end}")
}

fn rate(per_s: f64) -> String {
    match per_s {
        r if r >= 10_000.0 => format!("{:.0}k", r / 1000.0),
        r if r >= 10.0 => format!("{r:.0}"),
        r if r > 0.0 => format!("{r:.1}"),
        _ => "0".to_owned(),
    }
}

fn short(n: u64) -> String {
    match n {
        n if n >= 10_000_000 => format!("{}M", n / 1_000_000),
        n if n >= 100_000 => format!("{}k", n / 1000),
        n => n.to_string(),
    }
}

fn time(ms: f64) -> String {
    match ms {
        ms if ms >= 10_000.0 => format!("{:.0}s", ms / 1000.0),
        ms if ms >= 10.0 => format!("{ms:.0}ms"),
        ms => format!("{ms:.1}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Instant;

    #[test]
    fn eighty_columns_hold_all_of_it() {
        let mut view = View::default();
        let member = |id: &str, phase: &str| {
            json!({"id": id, "phase": phase, "running": 64, "failures": 123_456, "waits_for": null,
                "depth": {"depth": 12_345_678, "oldest_age_ms": 7_440_000},
                "counts": {"handled": 0, "failed": 0}, "handler": {"count": 3, "seconds": 0.03, "buckets": []}})
        };
        let snapshot = json!({"engine": {"product": "Postrider embedded", "location": "./data", "durability": "flushed"},
            "uptime_ms": 61_000, "topics": [],
            "subscriptions": [member("payment@topic:shop.order", "paused"),
                member("a-service-with-a-very-long-name@topic:and.a.topic.with.one.too", "running")]});
        view.take(&snapshot, Instant::now());
        let text = text(&view, 80);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Postrider embedded ./data  flushed  up 1m 1s");
        assert_eq!(
            lines[1],
            "published 0/s  handled 0/s  kept 0  failures 246912"
        );
        assert!(
            lines.iter().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert_eq!(
            lines[2],
            "SUBSCRIPTION                    OK/s FAIL/s   DEPTH   OLDEST  RUN   DEAD    MEAN"
        );
        assert_eq!(
            lines[3],
            "‖ payment@topic:shop.order         0      0     12M    2h 4m   64   123k    10ms"
        );
        let name = "a-service-wit…c.with.one.too ";
        assert!(lines[4].starts_with(name), "{text}");
    }

    #[test]
    fn a_small_terminal_is_no_error() {
        let mut view = View::default();
        view.take(
            &json!({"subscriptions": [{"id": "a@topic:t"}]}),
            Instant::now(),
        );
        for (width, height) in [(0, 0), (1, 1), (20, 3), (300, 100)] {
            let area = Rect::new(0, 0, width, height);
            draw(&view, true, area, &mut Buffer::empty(area));
        }
    }
}
