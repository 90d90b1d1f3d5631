//! The terminal, and the thread that draws on it. However it ends, the terminal is left as it
//! was found.

use std::{
    env,
    fs::File,
    io::{self, IsTerminal as _, Read as _, Seek as _, Stdout, Write as _},
    os::fd::OwnedFd,
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::tz::TimeZone;
use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        event::{
            self, DisableMouseCapture, EnableMouseCapture, Event, KeyCode, KeyEvent, KeyEventKind,
            KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
        },
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
    layout::{Position, Rect},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    io::Errno,
    stdio::dup2_stderr,
};
use signal_hook::{consts::SIGTSTP, low_level::raise};

use super::{
    ending, files,
    filter::find,
    replay::{Played, to_time},
    rules,
};
use crate::{
    base::{
        exit_code::{ExitCode, Failure, OrExit as _},
        zone,
    },
    commands::watch::stop::Stop,
    consume::{
        lines::color::ColorWhen,
        top::{
            Asks, Input, Model, Press, Shared, Ui, Wish, copied, export,
            view::{Look, draw},
        },
    },
};

/// A key is answered within this time.
const ANSWER: Duration = Duration::from_millis(40);
/// The end waits for the terminal no longer than this.
const PATIENCE: Duration = Duration::from_secs(2);
/// Drawing takes one part of the time in so many at most.
const SHARE: u32 = 10;

/// What is shown.
pub(super) enum Source {
    /// What is told as it happens.
    Live(Shared),
    /// What was told then.
    Recording(Box<Played>),
}

/// What the user wants of the screen from the start.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) color: ColorWhen,
    /// Flags have chosen what is seen.
    pub(super) has_flags: bool,
}

/// A screen that is drawn until it is closed.
pub(super) struct Screen {
    close: Arc<AtomicBool>,
    ended: Receiver<Vec<String>>,
    aside: Option<Aside>,
}

impl Screen {
    /// Takes the terminal, and shows there what `source` has. Where somebody there wants no more,
    /// or it is gone, it asks `stop` for the end.
    pub(super) fn open(source: Source, wanted: Wanted, stop: Stop) -> Result<Self, Failure> {
        let has_color = wanted.color.enabled(true, |name| env::var_os(name));
        let aside = Aside::begin().or_exit(ExitCode::OutputFailed)?;
        let terminal = match enter() {
            Ok(terminal) => terminal,
            Err(error) => {
                if let Some(aside) = aside {
                    aside.end();
                }
                return Err(error).or_exit(ExitCode::OutputFailed);
            }
        };
        restore_on_panic();
        let close = Arc::new(AtomicBool::new(false));
        let zone = zone::local();
        let mut ui = Ui::new(Box::new(find));
        if wanted.has_flags {
            ui.chosen_by_flags();
        }
        let mut drawing = Drawing {
            source,
            ui,
            look: Look::new(has_color, zone.clone()),
            zone,
            terminal,
            frozen: None,
            kept: Vec::new(),
        };
        let leaving = Leaving {
            close: Arc::clone(&close),
            stop,
        };
        let (end, ended) = channel();
        thread::Builder::new()
            .name("screen".to_owned())
            .spawn(move || {
                let leaving = leaving;
                // Where the terminal is gone, so is what there is to tell.
                let _ = drawing.run(&leaving.close);
                // Whoever waits for the end may end the process at once.
                drop(leaving);
                // Nobody waits for it any more where it took too long.
                let _ = end.send(drawing.kept);
            })
            .or_exit(ExitCode::OutputFailed)?;
        Ok(Self {
            close,
            ended,
            aside,
        })
    }

    /// Gives the terminal back, and then what was said meanwhile.
    pub(super) fn close(self) -> Result<(), Failure> {
        self.close.store(true, Ordering::Relaxed);
        // A terminal that takes nothing any more holds nobody up.
        let ended = self.ended.recv_timeout(PATIENCE);
        if let Some(aside) = self.aside {
            aside.end();
        }
        match ended {
            Ok(kept) => {
                let text = kept.join("\n");
                io::stdout()
                    .write_all(text.as_bytes())
                    .or_exit(ExitCode::OutputFailed)
            }
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Failure::new(
                ExitCode::OutputFailed,
                anyhow!("the view has failed: please report it"),
            )),
        }
    }
}

/// However the thread that draws ends, by a panic too, the terminal is given back, and so does
/// the run end.
struct Leaving {
    close: Arc<AtomicBool>,
    stop: Stop,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        leave();
        if !self.close.load(Ordering::Relaxed) {
            self.stop.ask();
        }
    }
}

/// Standard error, where it is the terminal that is drawn on: what is said there waits.
struct Aside {
    stderr: OwnedFd,
    said: File,
}

impl Aside {
    fn begin() -> io::Result<Option<Self>> {
        if !io::stderr().is_terminal() {
            return Ok(None);
        }
        let stderr = rustix::io::dup(io::stderr())?;
        let said = memfd_create("said", MemfdFlags::CLOEXEC)?;
        dup2_stderr(&said)?;
        Ok(Some(Self {
            stderr,
            said: File::from(said),
        }))
    }

    fn end(mut self) {
        if dup2_stderr(&self.stderr).is_err() {
            return;
        }
        let mut said = Vec::new();
        if self.said.rewind().is_ok() && self.said.read_to_end(&mut said).is_ok() {
            // Whoever closed the standard error output does not want to know.
            let _ = io::stderr().write_all(&said);
        }
    }
}

/// Takes the terminal, or leaves it as it was.
fn enter() -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    let entered = try_enter();
    if entered.is_err() {
        leave();
    }
    entered
}

fn try_enter() -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen, EnableMouseCapture)?;
    let mut terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
    // Empties the screen. `clear` would ask the terminal where its cursor is, and not every
    // terminal answers.
    let area = Rect::from((Position::ORIGIN, terminal.size()?));
    terminal.resize(area)?;
    Ok(terminal)
}

/// Leaves the terminal as it was found. What cannot be done there is nobody's to mend.
fn leave() {
    let _ = execute!(
        io::stdout(),
        DisableMouseCapture,
        LeaveAlternateScreen,
        Show
    );
    let _ = disable_raw_mode();
}

/// What a panic says is to be read.
fn restore_on_panic() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        leave();
        before(info);
    }));
}

/// What came from the terminal asks for.
enum Answer {
    Nothing,
    /// The screen as it is now.
    Changed,
    /// The end.
    Quit,
}

struct Drawing {
    source: Source,
    ui: Ui,
    look: Look,
    zone: TimeZone,
    terminal: Terminal<CrosstermBackend<Stdout>>,
    /// What is shown while it stays as it is.
    frozen: Option<Box<Model>>,
    /// What is printed at the end.
    kept: Vec<String>,
}

impl Drawing {
    fn run(&mut self, is_closed: &AtomicBool) -> io::Result<()> {
        while !is_closed.load(Ordering::Relaxed) {
            let took = self.draw()?;
            let pause = if self.ui.is_behind() {
                Duration::ZERO
            } else {
                self.ui.every().max(took * SHARE)
            };
            let next = Instant::now() + pause;
            // However long the last one took, a key is answered soon.
            while !is_closed.load(Ordering::Relaxed) {
                let left = next.saturating_duration_since(Instant::now());
                if has_input(left.min(ANSWER))? {
                    match self.answer()? {
                        Answer::Quit => return Ok(()),
                        Answer::Changed => {
                            self.draw()?;
                        }
                        Answer::Nothing => {}
                    }
                }
                if left.is_zero() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Draws, and says how long that took.
    fn draw(&mut self) -> io::Result<Duration> {
        let began = Instant::now();
        let Self {
            source,
            ui,
            look,
            terminal,
            ..
        } = self;
        let shared = match source {
            Source::Live(shared) => shared,
            Source::Recording(played) => {
                ui.set_bar(played.go_on());
                // The way to a time that is far off is not drawing.
                let began = Instant::now();
                let model = played.player.model();
                terminal.draw(|frame| draw(frame, ui, model, look, 0))?;
                return Ok(began.elapsed());
            }
        };
        ui.set_recorded(shared.recording());
        if let Some(ended) = shared.ended_recording() {
            ui.say(files::ended(&ended));
        }
        let live = shared.lock();
        if !ui.is_paused() {
            self.frozen = None;
        } else if self.frozen.is_none() {
            self.frozen = Some(Box::new(live.clone()));
        }
        let model = self.frozen.as_deref().unwrap_or(&live);
        let since = live.events() - model.events();
        terminal.draw(|frame| draw(frame, ui, model, look, since))?;
        Ok(began.elapsed())
    }

    /// Takes what has come from the terminal.
    fn answer(&mut self) -> io::Result<Answer> {
        let mut answer = Answer::Nothing;
        // What was typed ahead is answered at once.
        while has_input(Duration::ZERO)? {
            let event = event::read()?;
            if matches!(event, Event::Resize(..)) {
                answer = Answer::Changed;
            }
            // A mouse that moves asks for nothing.
            let Some(input) = input(&event) else {
                continue;
            };
            answer = Answer::Changed;
            if !self.ui.is_typing()
                && matches!(
                    input,
                    Input::Key(Press::Enter | Press::Char('P' | 'e' | 'c') | Press::Ctrl('k'))
                )
            {
                // What it is about is marked where keys before have moved it.
                self.draw()?;
            }
            match self.ui.take(input) {
                None => {}
                Some(Wish::Quit) => return Ok(Answer::Quit),
                Some(Wish::Suspend) => self.suspend()?,
                Some(wish) => self.fulfil(wish),
            }
        }
        Ok(answer)
    }

    fn fulfil(&mut self, wish: Wish) {
        match (wish, &mut self.source) {
            (Wish::Move(wanted), Source::Recording(played)) => played.player.take(wanted),
            (Wish::Answer(asks @ Asks::Time, text), Source::Recording(played)) => {
                match to_time(&text, &played.player.bar(), &self.zone) {
                    Ok(wanted) => played.player.take(wanted),
                    Err(problem) => self.ui.ask_again(asks, text, problem),
                }
            }
            (Wish::Propose(id, allows), _) => {
                self.with_model(|ui, model| rules::propose(ui, model, id, allows));
            }
            (Wish::End(_), Source::Recording(_)) => {
                self.ui
                    .say("a recording: what was open then is not to be ended now".into());
            }
            (Wish::End(id), Source::Live(_)) => {
                self.with_model(|ui, model| ending::ask(ui, model, id));
            }
            (Wish::Answer(asks @ (Asks::End(..) | Asks::EndReally(..)), text), _) => {
                self.end_connection(&asks, &text);
            }
            (Wish::Keep(text), _) if !self.kept.contains(&text) => self.kept.push(text),
            (Wish::Answer(Asks::WhatIf, text), _) => {
                self.with_model(|ui, model| rules::what_if(ui, model, text));
            }
            (Wish::Copy, _) => self.copy(),
            (Wish::Clear, Source::Live(shared)) => {
                shared.lock().clear();
                // What is frozen would show the counts of before.
                self.frozen = None;
            }
            (Wish::EndRecording, Source::Live(shared)) => shared.end_recording(),
            (Wish::Answer(asks @ (Asks::Record | Asks::Append(_)), text), Source::Live(shared)) => {
                files::record(shared, &mut self.ui, asks, text);
            }
            (Wish::Answer(asks @ (Asks::Export | Asks::Overwrite(_)), text), _) => {
                self.export(&asks, text);
            }
            _ => {}
        }
    }

    /// Writes what is shown to a file.
    fn export(&mut self, asks: &Asks, text: String) {
        let Some((path, form)) = files::named(&mut self.ui, asks, &text) else {
            return;
        };
        let zone = self.zone.clone();
        let exported = self.with_model(|ui, model| export(ui, model, form, &zone));
        files::write(&mut self.ui, asks, text, (&path, &exported));
    }

    /// Has the terminal keep the marked row: OSC 52.
    fn copy(&mut self) {
        let Some(row) = self.with_model(|ui, model| copied(ui, model)) else {
            return self.ui.say("that row is gone".to_owned());
        };
        let sequence = format!("\x1b]52;c;{}\x07", BASE64_STANDARD.encode(&row));
        let mut out = io::stdout();
        let written = out
            .write_all(sequence.as_bytes())
            .and_then(|()| out.flush());
        self.ui.say(match written {
            Ok(()) => format!("the terminal was told to copy: {row}"),
            Err(error) => error.to_string(),
        });
    }

    fn end_connection(&mut self, asks: &Asks, text: &str) {
        let Source::Live(shared) = &self.source else {
            return;
        };
        let found = ending::found(&shared.lock(), asks);
        let ended = ending::answered(&mut self.ui, found.as_ref(), asks, text);
        shared.lock().count_ended(ended);
    }

    /// With what is shown.
    fn with_model<T>(&mut self, ask: impl FnOnce(&mut Ui, &Model) -> T) -> T {
        let ui = &mut self.ui;
        match (&self.source, &self.frozen) {
            (_, Some(frozen)) => ask(ui, frozen),
            (Source::Live(shared), None) => ask(ui, &shared.lock()),
            (Source::Recording(played), None) => ask(ui, played.player.model()),
        }
    }

    fn suspend(&mut self) -> io::Result<()> {
        leave();
        // To this thread: it goes no further until somebody has all of them go on.
        raise(SIGTSTP)?;
        self.terminal = enter()?;
        Ok(())
    }
}

/// Waits for something from the terminal, a key or another size. One that is gone is an error:
/// crossterm would look at it for ever.
fn has_input(patience: Duration) -> io::Result<bool> {
    let stdin = io::stdin();
    let mut looked_at = [PollFd::new(&stdin, PollFlags::IN)];
    let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
    match poll(&mut looked_at, Some(&patience)) {
        // A signal, such as that of another size.
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let [stdin] = looked_at;
    if stdin
        .revents()
        .intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
    {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    event::poll(Duration::ZERO)
}

fn input(event: &Event) -> Option<Input> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => press(*key).map(Input::Key),
        Event::Mouse(MouseEvent {
            kind, column, row, ..
        }) => match kind {
            MouseEventKind::Down(MouseButton::Left) => Some(Input::Click(*column, *row)),
            MouseEventKind::ScrollUp => Some(Input::WheelUp),
            MouseEventKind::ScrollDown => Some(Input::WheelDown),
            _ => None,
        },
        _ => None,
    }
}

fn press(key: KeyEvent) -> Option<Press> {
    let has_control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char(c) if has_control => Press::Ctrl(c.to_ascii_lowercase()),
        KeyCode::Char(c) => Press::Char(c),
        KeyCode::F(number) => Press::F(number),
        KeyCode::Up => Press::Up,
        KeyCode::Down => Press::Down,
        KeyCode::Left => Press::Left,
        KeyCode::Right => Press::Right,
        KeyCode::PageUp => Press::PageUp,
        KeyCode::PageDown => Press::PageDown,
        KeyCode::Home => Press::Home,
        KeyCode::End => Press::End,
        KeyCode::Enter => Press::Enter,
        KeyCode::Esc => Press::Esc,
        KeyCode::Tab => Press::Tab,
        KeyCode::BackTab => Press::BackTab,
        KeyCode::Backspace => Press::Backspace,
        _ => return None,
    })
}
