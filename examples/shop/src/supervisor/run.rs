//! One run: what happens, and what is done about it.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::Outcome;
use super::child::{FromChild, Services, engine_dir};
use super::directory::{Prepared, engine_url};
use super::kills::KillPlan;
use super::show::Show;
use super::tally::Tally;
use crate::admin::Admin;
use crate::error::{Error, Result, SERVICES_DOWN};
use crate::faults::{Dial, Level};
use crate::options::Options;
use crate::protocol::{Command, Orders, Progress, Report, Setup};
use crate::provider::Server;
use crate::screen::{Key, View};

/// How often the state is looked at when nothing happens.
const TICK: Duration = Duration::from_millis(50);
/// How long a quit waits for the orders in flight, while they make progress.
const QUIT_WAITS: Duration = Duration::from_secs(10);
/// How long a stop of the services may take before they are killed.
const STOP_WITHIN: Duration = Duration::from_secs(8);
/// Ends of the services in a row that nobody asked for, before the run is given up.
const CRASHES_MAX: u32 = 5;
/// The subscription that `p` pauses.
const PAYMENT: &str = "payment@topic:shop.order";

/// Why the run comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Everything is done.
    Complete,
    /// A person asked for it.
    Asked,
    /// A signal asked for it.
    Signal,
    /// No order ended for too long.
    Deadline,
}

enum Phase {
    Running,
    /// No more orders are placed; those in flight may end.
    Draining(Instant, Ending),
    /// The services were told to stop.
    Stopping(Instant, Ending),
    Over(Ending),
}

enum Happened {
    Child(FromChild),
    Key(Key),
    Signal,
    Tick,
}

/// One run.
pub(super) struct Run {
    pub(super) options: Options,
    pub(super) prepared: Prepared,
    pub(super) server: Server,
    pub(super) tally: Tally,
    pub(super) started: Instant,
    pub(super) kills: u64,
    pub(super) recovery_ms: Vec<u64>,
    pub(super) engine: String,
    pub(super) durability: String,
    dial: Dial,
    setup: Setup,
    services: Services,
    admin: Admin,
    plan: Option<KillPlan>,
    show: Show,
    keys: mpsc::Receiver<Key>,
    status: String,
    paused: bool,
    killed_at: Option<Instant>,
    /// Killed, and its end not seen yet: what it still says is of before.
    is_dying: bool,
    handled_since_start: bool,
    reports_since_start: u32,
    crashes: u32,
    fatal: Option<Error>,
}

impl Run {
    /// Starts the provider and the services.
    ///
    /// # Errors
    /// The provider's file is damaged; the services could not be started.
    pub(super) async fn start(options: Options, prepared: Prepared) -> Result<Self> {
        let started = Instant::now();
        let dial = Dial::new(options.faults);
        let dir = prepared.dir.path.clone();
        let server = Server::start(&dir, options.seed, dial.clone())?;
        let default_rate =
            matches!(prepared.orders, Orders::MadeUp(_)).then_some(Options::RATE_DEFAULT);
        let engine = options.engine.as_deref();
        let engine = engine.map(|url| engine_url(&dir, url)).transpose()?;
        let setup = Setup {
            engine,
            seed: options.seed,
            orders: prepared.orders.clone(),
            rate: options.rate.or(default_rate),
            stock: prepared.stock,
            faults: options.faults,
            provider: server.socket().to_owned(),
            dir: dir.clone(),
        };
        let services = Services::start(&setup).await?;
        let (show, keys) = Show::open(&options);
        show.say(&format!("data {}", dir.display()));
        Ok(Self {
            admin: Admin::of(engine_dir(&dir)),
            tally: Tally::default(),
            kills: 0,
            recovery_ms: Vec::new(),
            engine: String::new(),
            durability: String::new(),
            plan: None,
            status: "waiting for the services to start".to_owned(),
            paused: false,
            killed_at: None,
            is_dying: false,
            handled_since_start: false,
            reports_since_start: 0,
            crashes: 0,
            fatal: None,
            options,
            prepared,
            server,
            started,
            dial,
            setup,
            services,
            show,
            keys,
        })
    }

    /// Runs until it is over, and prints the sheet.
    ///
    /// # Errors
    /// The services cannot be kept running; the sheet cannot be computed.
    pub(super) async fn until_over(mut self) -> Result<Outcome> {
        let failed = |e| Error::new(SERVICES_DOWN, "signals cannot be received").because(e);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut phase = Phase::Running;
        let ending = loop {
            let happened = self.wait(&mut interrupt, &mut terminate).await;
            phase = self.react(happened, phase).await?;
            if let Phase::Over(ending) = phase {
                break ending;
            }
            let view = self.view();
            self.show.update(&view, Instant::now());
        };
        self.finish(ending).await
    }

    async fn wait(&mut self, interrupt: &mut Signal, terminate: &mut Signal) -> Happened {
        tokio::select! {
            biased;
            _ = interrupt.recv() => Happened::Signal,
            _ = terminate.recv() => Happened::Signal,
            Some(key) = self.keys.recv() => Happened::Key(key),
            Some(event) = self.services.events.recv() => Happened::Child(event),
            () = tokio::time::sleep(TICK) => Happened::Tick,
        }
    }

    async fn react(&mut self, happened: Happened, phase: Phase) -> Result<Phase> {
        match happened {
            Happened::Child(FromChild::Report(report)) => self.note(*report),
            Happened::Child(FromChild::Exited(status)) => {
                if let Phase::Stopping(_, ending) = phase {
                    return Ok(Phase::Over(ending));
                }
                self.restart(status).await?;
            }
            Happened::Key(Key::Quit) => return self.quit(phase, Ending::Asked).await,
            Happened::Signal => return self.quit(phase, Ending::Signal).await,
            Happened::Key(key) => self.press(key).await,
            Happened::Tick => {}
        }
        self.advance(phase).await
    }

    fn note(&mut self, report: Report) {
        match report {
            Report::WaitingFor { what } => self.status = format!("waiting for {what}"),
            Report::Ready { engine, durability } => {
                self.engine = engine;
                self.durability = durability;
                self.status = "running".to_owned();
            }
            Report::Handled => {
                self.handled_since_start = true;
                self.crashes = 0;
                self.recovered();
            }
            Report::Progress(progress) => {
                self.reports_since_start += 1;
                if self.plan.is_none() {
                    self.plan = Some(self.plan_kills(&progress));
                }
                self.tally.note(*progress, Instant::now());
                if self.tally.is_quiet() {
                    // Nothing is left that could be handled: it is back all the same.
                    self.recovered();
                }
            }
            Report::Fatal {
                code,
                what,
                why,
                remedy,
            } => {
                let mut error = Error::new(code.unwrap_or(SERVICES_DOWN), what);
                (error.why, error.remedy) = (why, remedy);
                self.fatal = Some(error);
            }
        }
    }

    fn recovered(&mut self) {
        if self.is_dying {
            return;
        }
        if let Some(at) = self.killed_at.take() {
            let ms = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.recovery_ms.push(ms);
        }
    }

    fn plan_kills(&self, progress: &Progress) -> KillPlan {
        let rate = u64::from(self.setup.rate.unwrap_or(Options::RATE_DEFAULT));
        let expected = match (&self.prepared.scan, &self.prepared.orders) {
            (Some(scan), _) => scan.accepted,
            (None, Orders::MadeUp(Some(total))) => *total,
            (None, _) => progress.placed + rate * Options::MADE_UP_CI.as_secs(),
        };
        KillPlan::new(
            self.options.seed,
            self.options.kills,
            progress.ended(),
            expected,
        )
    }

    async fn restart(&mut self, status: std::io::Result<std::process::ExitStatus>) -> Result<()> {
        self.tally.next_life();
        if self.killed_at.is_none() {
            self.crashes += 1;
            let never_ran = self.engine.is_empty();
            if never_ran || self.crashes > CRASHES_MAX {
                let how = status.map_or_else(|e| e.to_string(), |s| s.to_string());
                let log = self.setup.dir.join("services.log");
                return Err(self.fatal.take().unwrap_or_else(|| {
                    Error::new(
                        SERVICES_DOWN,
                        format!("the services ended by themselves ({how})"),
                    )
                    .remedy(format!("read the end of {}", log.display()))
                }));
            }
        }
        self.fatal = None;
        self.is_dying = false;
        // A pause is of the process that was asked for it.
        self.paused = false;
        self.handled_since_start = false;
        self.reports_since_start = 0;
        self.status = "waiting for the services to start again".to_owned();
        self.setup.faults = self.dial.level();
        self.services = Services::start(&self.setup).await?;
        Ok(())
    }

    fn kill(&mut self) {
        // One at a time: the next only when the services were seen to work again.
        if self.killed_at.is_none() {
            self.killed_at = Some(Instant::now());
            self.is_dying = true;
            self.kills += 1;
            self.services.kill();
        }
    }

    async fn press(&mut self, key: Key) {
        let done = match key {
            Key::Kill => {
                self.kill();
                Ok(())
            }
            Key::Faults => {
                let level = self.dial.level().next();
                self.set_faults(level).await;
                Ok(())
            }
            Key::Pause => {
                self.paused = !self.paused;
                if self.paused {
                    self.admin.pause(PAYMENT).await
                } else {
                    self.admin.resume(PAYMENT).await
                }
            }
            Key::Redrive => self.redrive().await,
            Key::Redraw | Key::Quit => Ok(()),
        };
        if let Err(error) = done {
            self.status = error.to_string();
        }
    }

    async fn set_faults(&mut self, level: Level) {
        self.dial.set(level);
        self.services.tell(&Command::Faults { level }).await;
    }

    async fn redrive(&self) -> Result<()> {
        let mut last = None;
        for (subscription, ..) in &self.tally.progress.failure_groups {
            if last != Some(subscription) {
                self.admin.redrive_all(subscription).await?;
                last = Some(subscription);
            }
        }
        Ok(())
    }

    async fn quit(&mut self, phase: Phase, ending: Ending) -> Result<Phase> {
        let now = Instant::now();
        Ok(match phase {
            Phase::Running => {
                self.status =
                    "no new orders; waiting for those in flight (q again: now)".to_owned();
                self.services.tell(&Command::Hold).await;
                if self.paused {
                    self.press(Key::Pause).await;
                }
                Phase::Draining(now, ending)
            }
            Phase::Draining(..) => self.stop(ending).await,
            other => other,
        })
    }

    async fn stop(&mut self, ending: Ending) -> Phase {
        self.status = "waiting for the services to stop".to_owned();
        self.services.tell(&Command::Stop).await;
        Phase::Stopping(Instant::now(), ending)
    }

    async fn advance(&mut self, phase: Phase) -> Result<Phase> {
        let now = Instant::now();
        match phase {
            Phase::Running => {
                self.maybe_kill();
                if self.ends_by_itself() && self.is_complete() {
                    return Ok(self.stop(Ending::Complete).await);
                }
                let since = self.tally.last_end().unwrap_or(self.started);
                if self.options.ci && now - since > self.options.deadline {
                    return Ok(self.stop(Ending::Deadline).await);
                }
            }
            Phase::Draining(since, ending) => {
                let last = self.tally.last_end().unwrap_or(since).max(since);
                let stalled = now - last > QUIT_WAITS / 5 && now - since > QUIT_WAITS / 5;
                if self.tally.is_quiet() || stalled || now - since > QUIT_WAITS {
                    return Ok(self.stop(ending).await);
                }
            }
            Phase::Stopping(since, _) if now - since > STOP_WITHIN => self.services.kill(),
            Phase::Stopping(..) | Phase::Over(_) => {}
        }
        Ok(phase)
    }

    fn maybe_kill(&mut self) {
        let all_ended = self.tally.is_quiet();
        let works = self.handled_since_start || all_ended;
        let ended = self.tally.progress.ended();
        let Some(plan) = &mut self.plan else { return };
        if self.killed_at.is_none()
            && works
            && self.reports_since_start > 0
            && plan.is_due(ended, all_ended)
        {
            plan.take();
            self.kill();
        }
    }

    /// A file ends; made-up orders end in `--ci`. At a terminal a person ends it.
    fn ends_by_itself(&self) -> bool {
        let is_endless = matches!(self.prepared.orders, Orders::MadeUp(None));
        self.options.ci || (!self.show.is_screen() && !is_endless)
    }

    fn is_complete(&self) -> bool {
        let p = &self.tally.progress;
        let accepted = self.prepared.scan.as_ref().map_or(p.placed, |s| s.accepted);
        self.tally.is_quiet()
            && p.ended() == p.placed
            && p.placed >= accepted
            && self.killed_at.is_none()
            && self.plan.as_ref().is_some_and(KillPlan::is_done)
    }

    fn view(&self) -> View {
        let (orders_per_s, messages_per_s) = self.tally.rates();
        let progress = self.tally.progress.clone();
        let in_flight = progress.placed.saturating_sub(progress.ended());
        let lost = if self.tally.is_quiet() {
            in_flight.saturating_sub(progress.failures)
        } else {
            0
        };
        View {
            engine: format!("{} · {}", self.engine, self.durability),
            data: self.setup.dir.display().to_string(),
            status: self.status.clone(),
            faults: self.dial.level(),
            accepted: self.prepared.scan.as_ref().map(|s| s.accepted),
            money: self.server.totals(),
            orders_per_s,
            messages_per_s,
            kills: self.kills,
            recovery_ms: self.recovery_ms.last().copied(),
            lost,
            retries: self.tally.retries(),
            duplicates: self.tally.duplicates(),
            is_payment_paused: self.paused,
            progress,
        }
    }
}
