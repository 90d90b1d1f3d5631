//! `--replay`: a recording, played.

use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{civil, tz::TimeZone};

use super::screen::{Screen, Source, Wanted};
use crate::{
    base::{
        exit_code::{ExitCode, Failure, OrExit as _},
        time::{at, date},
    },
    commands::{
        recording::{each_line, refusal},
        watch::{kept::keeps, stop::StopSignals},
    },
    consume::{
        lines::json::record::{Records, loss, policy},
        output::args::OnHangup,
        top::{
            Told,
            replay::{Bar, Entry, Move, Player, Recording},
        },
    },
    events::{
        compat::{Read, read},
        record::{Header, Process, Record},
        wire::Line,
    },
    kernel::filters::Filters,
};

/// Events of a recording at most: they are all in memory.
const MAX_EVENTS: usize = 2_000_000;

/// Taking what is told between two times takes no longer at once.
const AT_ONCE: Duration = Duration::from_millis(30);
/// Time that passes between two looks at most: while the terminal is away, a recording waits.
const LONGEST: Duration = Duration::from_secs(1);

/// Plays the recording until somebody wants no more.
pub(super) async fn run(
    path: &Path,
    filters: Filters,
    wanted: Wanted,
) -> Result<ExitCode, Failure> {
    if path == Path::new("-") {
        return Err(Failure::usage(
            "--replay -: keys are read from standard input: name a file",
        ));
    }
    let recording = load(path, &filters)?;
    let player = Player::new(recording);
    let player = player.ok_or_else(|| refusal(path, &"nothing is in it"))?;
    let mut signals = StopSignals::new(OnHangup::Stop).or_exit(ExitCode::CannotAttach)?;
    let source = Source::Recording(Box::new(Played::new(player)));
    let screen = Screen::open(source, wanted, signals.stop())?;
    signals.stopped().await;
    screen.close()?;
    Ok(ExitCode::Ok)
}

/// Reads a recording: of its events, those that `filters` keep.
fn load(path: &Path, filters: &Filters) -> Result<Recording, Failure> {
    let mut recording = Recording::new(path.display().to_string());
    let mut records = Records::default();
    let mut shared = Processes::default();
    let mut begun: Option<Header> = None;
    each_line(path, |text| {
        let line = match read(text).map_err(|error| error.to_string())? {
            Read::Line(line) => *line,
            Read::Unknown(_) => {
                recording.pass_over();
                return Ok(());
            }
        };
        match line {
            Line::Start(start) => {
                let header = begun.insert(records.header(start));
                recording.push(Entry::Start(Box::new(header.clone())));
            }
            Line::Policy(line) => match (&mut begun, policy(&line)) {
                (Some(header), Some((file, loaded))) => {
                    header.wall_ns = loaded.wall_ns;
                    header.policy = Some(file);
                    header.policy_loaded = Some(loaded);
                    recording.push(Entry::Policy(Box::new(header.clone())));
                }
                _ => recording.pass_over(),
            },
            Line::Connection(line) => match records.record(&line) {
                Some(record) if keeps(filters, &record) => {
                    recording.push(Entry::Event(shared.of(record)));
                }
                Some(_) => {}
                None => recording.pass_over(),
            },
            Line::Loss(line) => match loss(&line) {
                Some(loss) => recording.push(Entry::Loss(loss)),
                None => recording.pass_over(),
            },
            Line::Summary(line) => {
                let facts = line.port_monitor;
                let told = Told {
                    seen: facts.seen,
                    filtered: facts.filtered,
                    lost: facts.lost,
                };
                recording.push(Entry::End(line.timestamp.0, told));
            }
            // Only an audit has them.
            Line::Listener(_) => {}
        }
        if recording.events() > MAX_EVENTS {
            return Err(format!(
                "more than {MAX_EVENTS} events do not fit into memory: \
                 filter them, as by --remote or --pid, or cut the recording into parts"
            ));
        }
        Ok(())
    })?;
    if recording.events() == 0 {
        return Err(refusal(path, &nothing(&recording)));
    }
    Ok(recording)
}

fn nothing(recording: &Recording) -> String {
    match recording.unknown() {
        0 => "no event in it that the filters keep, so nothing would be shown".to_owned(),
        unknown => format!(
            "no event in it that can be shown; {unknown} lines are not known, or tell too little"
        ),
    }
}

/// Processes that have events before, so that each is there once.
#[derive(Default)]
struct Processes(HashMap<(u32, u64), Arc<Process>>);

impl Processes {
    fn of(&mut self, mut record: Record) -> Record {
        let owner = record.event.owner.as_ref();
        let key = owner.map_or((0, 0), |owner| (owner.pid, owner.start_ns));
        let known = self
            .0
            .entry(key)
            .or_insert_with(|| Arc::clone(&record.process));
        if **known == *record.process {
            record.process = Arc::clone(known);
        } else {
            *known = Arc::clone(&record.process);
        }
        record
    }
}

/// A recording that is played as time passes.
pub(super) struct Played {
    pub(super) player: Player,
    last: Instant,
}

impl Played {
    fn new(player: Player) -> Self {
        Self {
            player,
            last: Instant::now(),
        }
    }

    /// Goes on to the time that is to be shown now, or some way to it.
    pub(super) fn go_on(&mut self) -> Bar {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.last).min(LONGEST);
        self.last = now;
        self.player.pass(passed);
        self.player.approach(|| now.elapsed() < AT_ONCE);
        self.player.bar()
    }
}

/// The move to a time as somebody types it: a time of day, a span on or back, or a part of the
/// whole.
pub(super) fn to_time(text: &str, bar: &Bar, zone: &TimeZone) -> Result<Move, String> {
    let text = text.trim();
    let whole = bar.end_ns - bar.begin_ns;
    if let Some(percent) = text.strip_suffix('%') {
        let percent: Result<u8, _> = percent.trim().parse();
        return match percent {
            Ok(percent @ ..=100) => Ok(Move::To(bar.begin_ns + whole * i128::from(percent) / 100)),
            _ => Err("write 0% to 100%".to_owned()),
        };
    }
    if let Some(seconds) = span(text) {
        return seconds.map(Move::By);
    }
    let time = text.parse::<civil::Time>();
    let time = time.map_err(|_| "write 12:30, +90s, -5m or 50%".to_owned())?;
    // A recording may go over midnight: the nearest one that is in it.
    let days = [bar.now_ns, bar.begin_ns, bar.end_ns].map(|ns| date(ns, zone));
    let times = days.into_iter().filter_map(|day| at(day, time, zone));
    let within = times.filter(|ns| (bar.begin_ns - 1_000_000_000..=bar.end_ns).contains(ns));
    let nearest = within.min_by_key(|ns| (ns - bar.now_ns).abs());
    nearest
        .map(Move::To)
        .ok_or_else(|| format!("{time} is not in the recording"))
}

/// Seconds on, or back: `+90s`, `-5m`, `+2h`.
fn span(text: &str) -> Option<Result<i64, String>> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (number, unit) = match rest.strip_suffix(['s', 'm', 'h']) {
        Some(number) if rest.ends_with('m') => (number, 60),
        Some(number) if rest.ends_with('h') => (number, 3_600),
        Some(number) => (number, 1),
        None => (rest, 1),
    };
    let number: Result<u32, _> = number.trim().parse();
    Some(match number {
        Ok(number) => Ok(sign * unit * i64::from(number)),
        Err(_) => Err("write +90s, -5m or +2h".to_owned()),
    })
}

#[cfg(test)]
mod tests;
