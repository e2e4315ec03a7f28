//! `postrider top`: rates, lag, failures and slow handlers, live on the terminal.

mod screen;
mod view;

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use postrider::SubscriptionId;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::client::{Client, Place, of_subscription};
use crate::end::{EXIT_CODES, Exit, Failure, Result, Stop};
use crate::output::print;
use crate::text::duration;
use screen::Screen;
use view::View;

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider top                          of ./data; q ends, p pauses or resumes, arrows choose
  postrider top --dir ./shop/log --every 500ms
  postrider top --once                   one look as text, also where there is no terminal", after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// How often it looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    every: Duration,
    /// Look twice, write what the screen would show as text, and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    place: Place,
}

/// The shortest pause between two looks.
const EVERY_MIN: Duration = Duration::from_millis(100);
/// The width of the text of `--once`.
const TEXT_WIDTH: u16 = 80;

pub(crate) async fn run(arguments: Arguments) -> Result {
    let client = arguments.place.running()?;
    let every = arguments.every.max(EVERY_MIN);
    let mut view = View::default();
    view.take(&look(&client).await?, Instant::now());
    if arguments.once {
        tokio::time::sleep(every).await;
        view.take(&look(&client).await?, Instant::now());
        print(&screen::text(&view, TEXT_WIDTH))?;
        return Ok(Exit::Ok);
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        let what = "top draws on a terminal, and there is none";
        return Err(Failure::usage(what)
            .remedy("--once writes one look as text; `postrider sub ls --watch` and `-o json` are for programs")
            .into());
    }
    let mut screen = Screen::open().map_err(broken)?;
    let ended = live(&client, every, &mut view, &mut screen).await;
    // The terminal is as it was before anything is written to it.
    drop(screen);
    ended
}

fn look(client: &Client) -> impl Future<Output = Result<Value>> {
    client.get("/v1/snapshot")
}

fn broken(error: std::io::Error) -> Stop {
    let what = "the terminal cannot be drawn on";
    Failure::new(Exit::Failed, postrider::Code::CLI_FAILED, what)
        .why(error.to_string())
        .into()
}

async fn live(client: &Client, every: Duration, view: &mut View, screen: &mut Screen) -> Result {
    let mut events = events();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        screen.draw(view).map_err(broken)?;
        tokio::select! {
            _ = ticks.tick() => refresh(client, view).await,
            event = events.recv() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                    if !pressed(client, view, key).await {
                        return Ok(Exit::Ok);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(broken(error)),
                None => return Ok(Exit::Ok),
            },
        }
    }
}

/// What is typed, read on a thread of its own. It ends with the process: nothing is lost with it.
fn events() -> mpsc::Receiver<std::io::Result<Event>> {
    let (send, events) = mpsc::channel(16);
    std::thread::spawn(move || {
        loop {
            let event = event::read();
            let broken = event.is_err();
            if send.blocking_send(event).is_err() || broken {
                return;
            }
        }
    });
    events
}

/// Where nobody answers, the screen says so and shows what was seen last.
async fn refresh(client: &Client, view: &mut View) {
    match look(client).await {
        Ok(snapshot) => view.take(&snapshot, Instant::now()),
        Err(Stop::Failed(failure)) => view.say(failure.what()),
        Err(Stop::PipeClosed) => {}
    }
}

/// What a key does. `false`: it ends.
async fn pressed(client: &Client, view: &mut View, key: KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('c') if control => return false,
        KeyCode::Up | KeyCode::Char('k') => view.choose(-1),
        KeyCode::Down | KeyCode::Char('j') => view.choose(1),
        KeyCode::PageUp => view.choose(-10),
        KeyCode::PageDown => view.choose(10),
        KeyCode::Char('p') => toggle(client, view).await,
        _ => {}
    }
    true
}

/// Pauses what is chosen, or has it go on.
async fn toggle(client: &Client, view: &mut View) {
    let Some((id, is_paused)) = view.chosen() else {
        return;
    };
    let Ok(id) = SubscriptionId::parse(&id) else {
        return;
    };
    let verb = if is_paused { "resume" } else { "pause" };
    let told = client
        .post(&of_subscription(&id, &format!("/{verb}")), &json!({}))
        .await;
    match told {
        Ok(_) => view.say(&format!("{verb}d {id}")),
        Err(Stop::Failed(failure)) => view.say(failure.what()),
        Err(Stop::PipeClosed) => {}
    }
    refresh(client, view).await;
}
