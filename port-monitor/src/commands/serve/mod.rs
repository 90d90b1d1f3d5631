//! `port-monitor serve`: the monitor as a service. It takes its flags from a file, shows
//! nothing but what belongs into a journal, and gives the events to the consumers that the
//! file asks for.

pub(crate) mod config;
mod exports;
mod policy;
mod reload;

use std::{
    io::Write,
    path::PathBuf,
    sync::{Arc, mpsc::Sender},
    time::Duration,
};

use port_monitor_common::event::EventKind;
use tokio::sync::mpsc::unbounded_channel;

use self::{config::Config, exports::Exports, policy::Judges, reload::Reloader};
use crate::{
    base::{
        exit_code::{ExitCode, Failure, OrExit as _},
        zone,
    },
    commands::{
        systemd::{self, Watchdog},
        told::{note, written},
        watch::{
            self,
            session::{self, Attendant, News, Requests, Session},
            stop::{EarlyStop, StopSignals},
        },
    },
    consume::{
        FanOut, Shown, SinkKind,
        consumer::Needs,
        consumers::whole,
        export::Board,
        lines::table::{Options, Table},
        output::{args::OnHangup, stdout::Stdout, target::Target, writer::Output},
        socket::Events,
    },
    events::record::Header,
    host::clock,
    pipeline::Pipeline,
    policy::Policy,
};

/// How long the end waits for consumers. The unit's `TimeoutStopSec` is longer.
const DRAIN: Duration = Duration::from_secs(10);

/// Flags of `serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to watch, and who takes the events; SIGHUP reads it again
    #[arg(
        long,
        value_name = "FILE",
        allow_hyphen_values = true,
        default_value = "/etc/port-monitor/port-monitor.toml"
    )]
    config: PathBuf,
    /// Say whether the configuration, and the policy it names, are right, and end
    #[arg(long)]
    check: bool,
}

/// Runs the service.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let (config, policy) = Config::load(&args.config)?;
    if config.consumers().next().is_none() {
        note(format_args!(
            "{}: no section asks for a consumer: events are counted and kept nowhere",
            args.config.display()
        ));
    }
    if args.check {
        return check(&config, Stdout::lock());
    }
    session::block_on(serve(config, policy))
}

fn check(config: &Config, mut out: impl Write) -> Result<ExitCode, Failure> {
    let path = config.path().display();
    written(writeln!(out, "{path}: ok, {}", consumers_of(config)))
}

/// The consumers, in words.
fn consumers_of(config: &Config) -> String {
    let names: Vec<_> = config.consumers().collect();
    let text = if names.is_empty() {
        "no consumer".to_owned()
    } else {
        format!("consumers: {}", names.join(", "))
    };
    let (_, exports) = config.exports();
    if exports.is_empty() {
        return text;
    }
    let names: Vec<&str> = exports.keys().map(String::as_str).collect();
    format!("{text}; exports: {}", names.join(", "))
}

async fn serve(config: Config, policy: Option<Policy>) -> Result<ExitCode, Failure> {
    let filters = config.watch.filters()?;
    // Who joins later asks for no more than this.
    let needs = Needs {
        kinds: whole(config.watch.kinds(SinkKind::Json)),
        allowed: true,
        peers: true,
    };
    let policy = policy.map(Arc::new);
    let (requests, requested) = unbounded_channel();
    let (policy_requests, policies) = unbounded_channel();
    let events = Events::new(requests.clone(), needs.kinds, config.filters());
    let mut exports = Exports::default();
    let consumers = consumers(&config, exports.board(), &events)?;
    exports.change(&config)?;
    let mut settings = config.watch.settings(filters, needs);
    settings.policy = policy.as_deref().and_then(watch::for_kernel);
    settings.policy_changes = true;
    let watchdog = Watchdog::start().or_exit(ExitCode::CannotAttach)?;
    // From here on a stop signal leads to an orderly end.
    let signals = StopSignals::new(OnHangup::Reload).or_exit(ExitCode::CannotAttach)?;
    let (mut kernel, records) = EarlyStop::new(OnHangup::Reload)?.start(settings, None)?;
    let policy_loaded = policy.as_deref().map(watch::loaded);
    let judge = kernel.take_judge();
    let judges = policy.clone();
    let judges = judges.map(|policy| Judges::new(policy, judge, policy_requests));
    let mut pipeline = pipeline(&config, needs, policy, consumers);
    let wall_ns = pipeline.wall_ns(clock::boot_ns());
    let header = Header {
        policy_loaded,
        ..watch::header(&kernel, config.watch.policy.policy.as_deref(), wall_ns)
    };
    pipeline.consumers().begin(&header);
    let session = Session::new(None, kernel, records, pipeline, None, signals)?;
    let session = session.tell_progress(config.watch.progress);
    let status = format!("watching by {}", header.backend);
    systemd::ready(&format!("{status}; {}", consumers_of(&config)));
    let started = Reloader {
        config,
        exports,
        judges,
        events,
        status,
        requests,
    }
    .start();
    let (reloads, reloader) = started.or_exit(ExitCode::CannotAttach)?;
    let requests = Requests {
        consumers: requested,
        policies,
    };
    let session = session.attended_by(attendant(watchdog, reloads), requests, DRAIN);
    let summary = session.run().await?;
    reloader.wait(DRAIN);
    Ok(if summary.is_incomplete() {
        ExitCode::OutputFailed
    } else {
        ExitCode::Ok
    })
}

/// Who tells the service manager how it goes, and has the configuration read again.
fn attendant(watchdog: Watchdog, reloads: Sender<()>) -> Attendant {
    Box::new(move |news| match news {
        News::GoesOn => watchdog.feed(),
        News::Reload => {
            // The reloader is there as long as it can be asked.
            let _ = reloads.send(());
        }
        News::Ends => systemd::stopping(),
    })
}

/// From events to the consumers.
fn pipeline(
    config: &Config,
    needs: Needs,
    policy: Option<Arc<Policy>>,
    consumers: FanOut,
) -> Pipeline {
    let mut pipeline = Pipeline::new(policy, consumers);
    if config.watch.tells_how_called {
        pipeline.tell_args();
    }
    // Without their ends connections would never be forgotten.
    if needs.kinds.has(EventKind::Close) {
        pipeline.pair_ends();
    }
    pipeline
}

/// What belongs into a journal, and what the configuration asks for.
fn consumers(config: &Config, board: &Arc<Board>, events: &Events) -> Result<FanOut, Failure> {
    let table = Table::new(Options {
        width: None,
        color: false,
        verbose: false,
        aggregate: false,
        fields: Vec::new(),
        zone: zone::local(),
    });
    let target = Target::stderr().or_exit(ExitCode::OutputFailed)?;
    let output = Output::to(target).or_exit(ExitCode::OutputFailed)?;
    let violations = Needs {
        kinds: config.watch.kinds(SinkKind::Json),
        allowed: false,
        peers: false,
    };
    let journal = Shown::new(Box::new(table.without_heading()), output);
    let mut all = FanOut::new(journal.only(violations, None).beside_others());
    for section in config.consumers() {
        for consumer in config.open(section, board, events)? {
            all.add(consumer).or_exit(ExitCode::OutputFailed)?;
        }
    }
    Ok(all)
}
