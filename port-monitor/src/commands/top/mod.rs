//! `port-monitor top`: the live view, of a run of its own or of the service's, or of a recording.

mod ending;
mod files;
mod filter;
mod replay;
mod rules;
mod screen;

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use self::screen::{Screen, Source, Wanted};
use super::{
    load,
    told::note,
    watch::{
        self,
        args::{KernelArgs, Selection},
        service::{Attendance, End},
        session::{self, Session},
        stop::{EarlyStop, StopSignals},
    },
};
use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    consume::{
        FanOut, Lines, Shown, Sink,
        consumer::{Kinds, Needs},
        lines::color::ColorWhen,
        output::{args::OnHangup, writer::Output},
        socket,
        top::{Shared, Top},
    },
    events::record::{Header, Item},
    host::clock,
    kernel::filters::Filters,
    pipeline::Pipeline,
};

/// How often the kernel is asked what open connections have carried, and a service how it stands.
const LOOK: Duration = Duration::from_secs(1);

/// Flags of `top`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Judge every connection by this policy, and mark violations
    #[arg(
        long,
        value_name = "FILE",
        allow_hyphen_values = true,
        help_heading = "Policy"
    )]
    policy: Option<PathBuf>,
    /// Look at what the service sees from now on: without root, and without loading programs
    ///
    /// SOCKET is the file that its [socket] names. Filters apply to what its own let through,
    /// and its policy judges.
    #[arg(
        long,
        value_name = "SOCKET",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = socket::PATH,
        conflicts_with_all = ["policy", "replay", "backend", "ring_size", "latency", "max_connections", "bpf_log", "test_fault", "test_program", "test_listeners", "btf"],
        help_heading = "Service"
    )]
    attach: Option<PathBuf>,
    /// Play a recording of `-o json`: without root, and without loading programs
    ///
    /// FILE is what --output-file or --record wrote, compressed by gzip or not. Filters apply to
    /// what is in it, and its own policy has judged.
    #[arg(
        long,
        value_name = "FILE",
        allow_hyphen_values = true,
        conflicts_with_all = ["policy", "backend", "ring_size", "latency", "max_connections", "bpf_log", "test_fault", "test_program", "test_listeners", "btf"],
        help_heading = "Recording"
    )]
    replay: Option<PathBuf>,
    /// When to use colours
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Screen"
    )]
    color: ColorWhen,
    #[command(flatten)]
    kernel: KernelArgs,
}

impl Args {
    fn wanted(&self, filters: &Filters) -> Wanted {
        Wanted {
            color: self.color,
            has_flags: !filters.keep_all(),
        }
    }
}

/// What of a run nobody looks at: all of it is in the view.
struct Nothing;

impl Sink for Nothing {
    fn write(&mut self, _: &mut Lines, _: Item<'_>) {}
}

/// Runs the live view.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Failure::usage(
            "top draws on a terminal, and standard input or output is none: \
             use `port-monitor`, or `port-monitor -o json`",
        ));
    }
    match (&args.attach, &args.replay) {
        (_, Some(path)) => {
            let filters = args.selection.filters()?;
            let wanted = args.wanted(&filters);
            session::block_on(replay::run(path, filters, wanted))
        }
        (Some(path), None) => session::block_on(attached(args, path)),
        (None, None) => session::block_on(live(args)),
    }
}

/// All events go to the view alone.
fn consumers(shared: &Shared) -> Result<(FanOut, Needs), Failure> {
    let needs = Needs {
        kinds: Kinds::ALL,
        allowed: true,
        peers: true,
    };
    let nobody = Needs {
        kinds: Kinds::from_iter([]),
        allowed: false,
        peers: false,
    };
    let output = Output::start("the view".to_owned(), io::sink());
    let output = output.or_exit(ExitCode::OutputFailed)?;
    let shown = Shown::new(Box::new(Nothing), output).only(nobody, None);
    let mut consumers = FanOut::new(shown.beside_others());
    let top = Top::new(shared.clone(), needs);
    consumers
        .add(Box::new(top))
        .or_exit(ExitCode::OutputFailed)?;
    Ok((consumers, needs))
}

async fn live(args: &Args) -> Result<ExitCode, Failure> {
    let filters = args.selection.filters()?;
    let wanted = args.wanted(&filters);
    let policy = args.policy.as_deref().map(load::load).transpose()?;
    let shared = Shared::default();
    let (consumers, needs) = consumers(&shared)?;
    let mut settings = args.kernel.settings(needs.kinds.iter().collect(), filters);
    settings.policy = policy.as_ref().and_then(watch::for_kernel);
    // From here on a stop signal leads to an orderly end.
    let signals = StopSignals::new(OnHangup::Stop).or_exit(ExitCode::CannotAttach)?;
    let (kernel, records) = EarlyStop::new(OnHangup::Stop)?.start(settings, None)?;
    let policy_loaded = policy.as_ref().map(watch::loaded);
    let mut pipeline = Pipeline::new(policy.map(Arc::new), consumers);
    pipeline.pair_ends();
    let wall_ns = pipeline.wall_ns(clock::boot_ns());
    let header = Header {
        policy_loaded,
        ..watch::header(&kernel, args.policy.as_deref(), wall_ns)
    };
    pipeline.consumers().begin(&header);
    let stop = signals.stop();
    let session = Session::new(None, kernel, records, pipeline, None, signals)?;
    let screen = Screen::open(Source::Live(shared), wanted, stop)?;
    let ended = session.tell_progress(Some(LOOK)).run().await;
    let closed = screen.close();
    let summary = ended?;
    closed?;
    if summary.has_losses() {
        note(format_args!(
            "{} of {} events were lost: see `port-monitor doctor`",
            summary.lost(),
            summary.seen()
        ));
    }
    Ok(ExitCode::Ok)
}

async fn attached(args: &Args, path: &Path) -> Result<ExitCode, Failure> {
    let filters = args.selection.filters()?;
    let wanted = args.wanted(&filters);
    let shared = Shared::default();
    let (consumers, _) = consumers(&shared)?;
    let signals = StopSignals::new(OnHangup::Stop).or_exit(ExitCode::CannotAttach)?;
    let stop = signals.stop();
    let attendance = Attendance::begin(path, filters, consumers, signals, None)?;
    let asking = ask_service(path.to_owned(), shared.clone())?;
    let screen = Screen::open(Source::Live(shared), wanted, stop)?;
    let ended = attendance.run().await;
    drop(asking);
    let closed = screen.close();
    let (end, _) = ended?;
    closed?;
    end.tell(path);
    Ok(if end == End::Wished {
        ExitCode::Ok
    } else {
        ExitCode::CannotAttach
    })
}

/// Asks the service how it stands, once a second until what this returns is dropped. Where it
/// does not answer, what it said last is shown on.
fn ask_service(path: PathBuf, shared: Shared) -> Result<Sender<()>, Failure> {
    let (asking, is_over) = channel();
    thread::Builder::new()
        .name("ask-service".to_owned())
        .spawn(move || {
            loop {
                match socket::ask(&path) {
                    Ok(report) => shared.lock().hear_of_service(report),
                    Err(error) => log::debug!("how the service stands: {error}"),
                }
                if is_over.recv_timeout(LOOK) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })
        .or_exit(ExitCode::CannotAttach)?;
    Ok(asking)
}
