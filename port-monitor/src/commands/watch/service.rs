//! `--from-service`: what the service sees, instead of a run of our own. Its socket tells events
//! as JSON lines; what is done with them is what a run of our own does.

use std::{
    mem,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use clap::ArgGroup;
use tokio::{
    io::AsyncReadExt as _,
    net::UnixStream,
    signal::unix::{Signal, SignalKind, signal},
    time::{Interval, MissedTickBehavior, interval},
};

use super::{
    args,
    kept::keeps,
    session::sleep,
    stop::{StopSignals, Wish, exit_on_next_signal, heard},
};
use crate::{
    base::{
        exit_code::{ExitCode, Failure, OrExit as _},
        sanitize::Escaped,
    },
    commands::told::note,
    consume::{
        FanOut,
        consumer::{END_GRACE, Stats},
        counted::Counted,
        lines::json::record::{Records, loss, policy},
        socket,
    },
    events::{
        compat::{Read, read},
        record::Summary,
        wire::Line,
    },
    host::clock::{self, WallClock},
    kernel::filters::Filters,
};

/// What names who judges.
pub(super) const JUDGED: &str = "judged";
/// How often what is held back is looked at.
const CHECK_PERIOD: Duration = Duration::from_millis(500);
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes of a line: more is none.
const LINE_BYTES: usize = 1 << 20;

/// Whose events are shown.
#[derive(Debug, clap::Args)]
#[command(
    next_help_heading = "Service",
    group = ArgGroup::new(JUDGED).multiple(true).args(["policy", "from_service"])
)]
#[group(skip)]
pub(super) struct Args {
    /// Show what the service sees from now on: without root, and without loading programs
    ///
    /// SOCKET is the file that its [socket] names. Filters apply to what its own let through,
    /// and its policy judges. Where it ends, so does this, with exit code 3.
    #[arg(
        long,
        value_name = "SOCKET",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = socket::PATH,
        conflicts_with_all = OF_A_RUN
    )]
    from_service: Option<PathBuf>,
}

/// Flags of what only a run of our own does, or what the service does already.
const OF_A_RUN: [&str; 21] = [
    "policy",
    "tells_how_called",
    "progress",
    "history",
    "metrics",
    "metrics_file",
    "alert_journal",
    "alert_command",
    "socket",
    "backend",
    "ring_size",
    "latency",
    "max_connections",
    "bpf_log",
    "test_fault",
    "test_program",
    "test_listeners",
    "btf",
    "command",
    "history_keep",
    "history_max_size",
];

impl Args {
    /// The socket of the service, if its events are shown.
    pub(super) fn socket(&self) -> Option<&Path> {
        self.from_service.as_deref()
    }
}

/// Shows the events of the service that answers at `path`.
pub(super) async fn watch(args: &args::Args, path: &Path) -> Result<ExitCode, Failure> {
    let filters = args.filters()?;
    let consumers = args.consumers()?;
    let on_hangup = args.output.destination.on_hangup();
    // From here on a stop signal leads to an orderly end.
    let signals = StopSignals::new(on_hangup).or_exit(ExitCode::CannotAttach)?;
    let attendance = Attendance::begin(path, filters, consumers, signals, args.duration)?;
    let (end, summary) = attendance.run().await?;
    end.tell(path);
    Ok(match args.exit_code(&summary) {
        ExitCode::Ok if end != End::Wished => ExitCode::CannotAttach,
        code => code,
    })
}

/// Why no more events come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands) enum End {
    /// Somebody wants no more.
    Wished,
    /// The service has come to its end.
    Over,
    /// The service is gone, or does not tell this client any more.
    Gone,
}

/// A client of the service, until its end.
pub(in crate::commands) struct Attendance {
    stream: UnixStream,
    /// What was read and is not a whole line yet.
    text: Vec<u8>,
    story: Story,
    signals: StopSignals,
    began: Instant,
    duration: Option<Duration>,
}

/// What the service tells, and who takes it.
struct Story {
    records: Records,
    filters: Filters,
    consumers: FanOut,
    counted: Counted,
    is_over: bool,
}

impl End {
    /// Says why, where nobody wished it.
    pub(in crate::commands) fn tell(self, path: &Path) {
        let told = match self {
            Self::Wished => return,
            Self::Over => "the service has ended",
            Self::Gone => "the service is gone, or has given this client up",
        };
        note(format_args!("{}: {told}", path.display()));
    }
}

impl Attendance {
    /// Asks the service that answers at `path` for its events, of which `consumers` take those
    /// that `filters` keep.
    pub(in crate::commands) fn begin(
        path: &Path,
        filters: Filters,
        consumers: FanOut,
        signals: StopSignals,
        duration: Option<Duration>,
    ) -> Result<Self, Failure> {
        let attended = socket::attend(path)
            .with_context(|| path.display().to_string())
            .or_exit(ExitCode::CannotAttach)?;
        let (welcome, text, stream) = attended;
        if !welcome.filters.is_empty() {
            let flags = welcome.filters.join(" ");
            note(format_args!(
                "the service has only what its own filters let through: {}",
                Escaped(flags.as_bytes())
            ));
        }
        stream
            .set_nonblocking(true)
            .or_exit(ExitCode::CannotAttach)?;
        Ok(Self {
            stream: UnixStream::from_std(stream).or_exit(ExitCode::CannotAttach)?,
            text,
            story: Story {
                records: Records::default(),
                filters,
                consumers,
                counted: Counted::default(),
                is_over: false,
            },
            signals,
            began: Instant::now(),
            duration,
        })
    }

    /// Goes on until somebody wants no more, or the service tells no more.
    pub(in crate::commands) async fn run(mut self) -> Result<(End, Summary), Failure> {
        let end = self.attend().await?;
        let summary = self.story.finish(self.began.elapsed())?;
        Ok((end, summary))
    }

    async fn attend(&mut self) -> Result<End, Failure> {
        let is_on_terminal = self.story.consumers.shown().is_on_terminal();
        let resized = is_on_terminal.then(|| signal(SignalKind::window_change()));
        let mut resized = resized.transpose().or_exit(ExitCode::CannotAttach)?;
        let mut check = interval(CHECK_PERIOD);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Some may have come with the answer.
        let text = mem::take(&mut self.text);
        self.take(&text)?;
        loop {
            if self.story.consumers.shown().is_done() {
                return Ok(End::Wished);
            }
            if self.story.is_over {
                return Ok(End::Over);
            }
            if let Some(end) = self.wake(&mut check, &mut resized).await? {
                return Ok(end);
            }
        }
    }

    async fn wake(
        &mut self,
        check: &mut Interval,
        resized: &mut Option<Signal>,
    ) -> Result<Option<End>, Failure> {
        let left = self.duration;
        let left = left.map(|limit| limit.saturating_sub(self.began.elapsed()));
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        tokio::select! {
            biased;
            wish = self.signals.recv() => match wish {
                Wish::Stop => {
                    exit_on_next_signal(self.signals.on_hangup(), None);
                    return Ok(Some(End::Wished));
                }
                Wish::Reopen | Wish::Reload => self.story.consumers.reopen(),
            },
            () = sleep(left) => return Ok(Some(End::Wished)),
            () = heard(resized) => self.story.check(),
            _ = check.tick() => self.story.check(),
            count = self.stream.read_buf(&mut chunk) => match count {
                Ok(1..) => self.take(&chunk)?,
                Ok(0) => return Ok(Some(End::Gone)),
                Err(error) => {
                    log::debug!("read from the service: {error}");
                    return Ok(Some(End::Gone));
                }
            },
        }
        Ok(None)
    }

    /// Takes the lines that are whole by now.
    fn take(&mut self, chunk: &[u8]) -> Result<(), Failure> {
        self.text.extend_from_slice(chunk);
        let text = mem::take(&mut self.text);
        let (lines, rest) = match text.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => text.split_at(end + 1),
            None => (&[][..], &text[..]),
        };
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            self.story.take(line)?;
        }
        if rest.len() > LINE_BYTES {
            return Err(strange("a line of it is longer than 1 MiB"));
        }
        self.text = rest.to_vec();
        self.story.consumers.flush();
        Ok(())
    }
}

/// The service tells what is no event of ours.
fn strange(why: impl std::fmt::Display) -> Failure {
    let error = anyhow!("what the service tells cannot be read: {why}");
    Failure::new(ExitCode::CannotAttach, error)
}

impl Story {
    fn take(&mut self, line: &[u8]) -> Result<(), Failure> {
        let text = std::str::from_utf8(line).map_err(strange)?;
        let line = match read(text).map_err(strange)? {
            Read::Line(line) => *line,
            Read::Unknown(kind) => {
                log::debug!("the service tells of a kind that is not known: {kind}");
                self.counted.events += 1;
                self.counted.unknown += 1;
                return Ok(());
            }
        };
        match line {
            Line::Start(start) => {
                let header = self.records.header(start);
                self.consumers.begin(&header);
            }
            Line::Connection(line) => {
                self.counted.events += 1;
                match self.records.record(&line) {
                    Some(record) if keeps(&self.filters, &record) => self.consumers.take(&record),
                    Some(_) => self.counted.filtered += 1,
                    None => self.counted.unknown += 1,
                }
            }
            Line::Policy(line) => {
                if let Some((file, loaded)) = policy(&line) {
                    self.consumers.judged_by(file, loaded);
                }
            }
            Line::Loss(line) => {
                if let Some(loss) = loss(&line) {
                    self.counted.lose(&loss);
                    self.consumers.lose(&loss);
                }
            }
            Line::Summary(_) => self.is_over = true,
            // Only an audit has them.
            Line::Listener(_) => {}
        }
        Ok(())
    }

    fn check(&mut self) {
        self.consumers.tick(&Stats {
            wall_ns: now_ns(),
            ..Stats::default()
        });
    }

    fn finish(mut self, duration: Duration) -> Result<Summary, Failure> {
        let consumers = self.consumers.accounts(END_GRACE);
        self.check();
        let violations = self.consumers.shown().violations();
        let ended = (now_ns(), duration);
        let summary = self
            .counted
            .summary("service", ended, consumers, violations);
        match self.consumers.end(&summary) {
            Err(error) if error.exit_code() != ExitCode::Ok => {
                Err(Failure::new(error.exit_code(), error))
            }
            _ => Ok(summary),
        }
    }
}

fn now_ns() -> i128 {
    WallClock::sample().wall_ns(clock::boot_ns())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consume::{
        Lines, Shown, Sink as _,
        lines::{json::Json, sample},
        output::writer::Output,
    };
    use crate::events::record::{Item, Loss, LossCause};

    /// What a service tells.
    fn told(items: &[Item<'_>]) -> Vec<u8> {
        let mut lines = Lines::default();
        let mut json = Json::new();
        for item in items {
            json.write(&mut lines, *item);
        }
        lines.as_bytes().to_vec()
    }

    fn story(filters: Filters) -> Story {
        let output = Output::start("nowhere".to_owned(), std::io::sink()).unwrap();
        Story {
            records: Records::default(),
            filters,
            consumers: FanOut::new(Shown::new(Box::new(Json::new()), output)),
            counted: Counted::default(),
            is_over: false,
        }
    }

    #[test]
    fn all_that_the_service_tells_is_in_the_account() {
        let (header, connected, closed) = (sample::header(), sample::connected(), sample::closed());
        let losses: Vec<_> = [
            LossCause::RingFull,
            LossCause::ProgramSkipped,
            LossCause::OutputSlow,
            LossCause::Undecodable,
            LossCause::OwnerLate,
        ]
        .into_iter()
        .zip(1..)
        .map(|(cause, lost)| Loss {
            cause,
            lost,
            total: lost,
            ..sample::loss()
        })
        .collect();
        let mut items = vec![Item::Header(&header), Item::Event(&connected)];
        items.extend(losses.iter().map(Item::Loss));
        items.push(Item::Event(&closed));
        let mut text = told(&items);
        let strange = told(&[Item::Event(&connected)]);
        let strange = String::from_utf8(strange).unwrap();
        text.extend(
            strange
                .replace("\"action\":\"connected\"", "\"action\":\"sleep\"")
                .bytes(),
        );
        let kept = connected.event.owner.unwrap().pid;
        let mut story = story(Filters {
            pids: vec![kept],
            direction: Some(connected.event.direction()),
            family: None,
            ..Filters::default()
        });
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            story.take(line).ok().unwrap();
        }
        assert!(!story.is_over);
        let summary = story.finish(Duration::from_secs(1)).ok().unwrap();
        assert!(summary.adds_up() && summary.has_losses());
        assert_eq!((summary.received, summary.seen()), (3, 3 + 15));
        assert_eq!(summary.lost(), 15 + 1);
        assert_eq!(summary.shown + summary.filtered(), 2);
    }

    #[test]
    fn the_end_of_the_service_is_the_end_and_what_is_no_line_is_told() {
        let mut story = story(Filters::default());
        story
            .take(&told(&[Item::Summary(&sample::summary())]))
            .ok()
            .unwrap();
        assert!(story.is_over);
        let failure = story.take(b"hello\n").err().unwrap();
        assert_eq!(failure.code, ExitCode::CannotAttach);
        let text = failure.error.to_string();
        assert!(
            text.starts_with("what the service tells cannot be read: "),
            "{text}"
        );
    }
}
