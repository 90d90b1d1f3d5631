//! `port-monitor serve`: the monitor as a service. It takes its flags from a file, shows
//! nothing but what belongs into a journal, and gives the events to the consumers that the
//! file asks for.

pub(crate) mod config;
mod enforce;
mod exports;
mod policy;
mod reload;

use std::{
    io::Write,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
    time::Duration,
};

use port_monitor_common::event::EventKind;
use tokio::sync::mpsc::unbounded_channel;

use self::{
    config::{Beside, Config},
    enforce::Enforcing,
    exports::Exports,
    policy::Judges,
    reload::{Asked, Reloader},
};
use crate::{
    base::{
        exit_code::{ExitCode, Failure, OrExit as _},
        zone,
    },
    commands::{
        enforce::{ApplyArgs, follow::Ready},
        load,
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
    let config = Config::load(&args.config)?;
    if args.check {
        config.observed().map(load::load).transpose()?;
        config.enforced().map(super::enforce::check).transpose()?;
    }
    if config.consumers().next().is_none() {
        note(format_args!(
            "{}: no section asks for a consumer: events are counted and kept nowhere",
            args.config.display()
        ));
    }
    if args.check {
        return check(&config, Stdout::lock());
    }
    let law = Law::read(&config)?;
    session::block_on(serve(config, law))
}

/// What events are judged by.
struct Law {
    policy: Option<Arc<Policy>>,
    /// To be applied too.
    ready: Option<Ready>,
}

impl Law {
    fn read(config: &Config) -> Result<Self, Failure> {
        let ready = |path| Ready::read(&ApplyArgs::of_service(path));
        let ready = config.enforced().map(ready).transpose()?;
        let observed = config.observed().map(load::load).transpose()?;
        let enforced = ready.as_ref().map(|ready| Arc::clone(ready.policy()));
        Ok(Self {
            policy: observed.map(Arc::new).or(enforced),
            ready,
        })
    }
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

async fn serve(config: Config, law: Law) -> Result<ExitCode, Failure> {
    let needs = needs(&config);
    let Law { policy, ready } = law;
    let (requests, requested) = unbounded_channel();
    let (policy_requests, policies) = unbounded_channel();
    let events = Events::new(requests.clone(), needs.kinds, config.filters());
    let mut exports = Exports::default();
    let beside = Beside::new(&exports, events);
    let consumers = consumers(&config, &beside)?;
    exports.change(&config)?;
    let mut settings = config.watch.settings(config.watch.filters()?, needs);
    settings.policy = policy.as_deref().and_then(watch::for_kernel);
    settings.policy_changes = true;
    let watchdog = Watchdog::start().or_exit(ExitCode::CannotAttach)?;
    // From here on a stop signal leads to an orderly end.
    let signals = StopSignals::new(OnHangup::Reload).or_exit(ExitCode::CannotAttach)?;
    let (mut kernel, records) = EarlyStop::new(OnHangup::Reload)?.start(settings, None)?;
    // Before consumers are told of a run: it does not begin where the policy cannot be applied.
    let (asks, asked) = channel();
    let enforce = |ready| Enforcing::start(ready, asks.clone(), &beside.enforced);
    let enforcing = ready.map(enforce).transpose()?;
    let policy_loaded = policy.as_deref().map(watch::loaded);
    let judge = kernel.take_judge();
    let judges = policy.clone();
    let judges = judges.map(|policy| Judges::new(policy, judge, policy_requests));
    let mut pipeline = pipeline(&config, needs, policy, consumers);
    let wall_ns = pipeline.wall_ns(clock::boot_ns());
    let header = Header {
        policy_loaded,
        ..watch::header(&kernel, config.policy(), wall_ns)
    };
    pipeline.consumers().begin(&header);
    let session = Session::new(None, kernel, records, pipeline, None, signals)?;
    let session = session.tell_progress(config.watch.progress);
    let status = status(&config, header.backend);
    systemd::ready(&format!("{status}; {}", consumers_of(&config)));
    let reloader = Reloader {
        config,
        exports,
        judges,
        enforcing: enforcing.clone(),
        beside,
        status,
        requests,
    };
    let reloader = reloader.start(asked).or_exit(ExitCode::CannotAttach)?;
    let requests = Requests {
        consumers: requested,
        policies,
    };
    let session = session.attended_by(attendant(watchdog, asks), requests, DRAIN);
    let ran = session.run().await;
    enforcing.iter().for_each(Enforcing::end);
    let is_incomplete = ran?.is_incomplete();
    reloader.wait(DRAIN);
    Ok(if is_incomplete {
        ExitCode::OutputFailed
    } else {
        ExitCode::Ok
    })
}

/// What consumers may ask for: who joins later asks for no more than this.
fn needs(config: &Config) -> Needs {
    Needs {
        kinds: whole(config.watch.kinds(SinkKind::Json)),
        allowed: true,
        peers: true,
    }
}

/// What the service manager shows besides the consumers.
fn status(config: &Config, backend: &str) -> String {
    let enforced = config.enforced();
    let enforced = enforced.map(|path| format!(", enforcing {}", path.display()));
    format!("watching by {backend}{}", enforced.unwrap_or_default())
}

/// Who tells the service manager how it goes, and has the configuration read again.
fn attendant(watchdog: Watchdog, reloads: Sender<Asked>) -> Attendant {
    Box::new(move |news| match news {
        News::GoesOn => watchdog.feed(),
        News::Reload => {
            // The reloader is there as long as it can be asked.
            let _ = reloads.send(Asked::Reload);
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
    if config.enforced().is_some() {
        pipeline.apply_policies();
    }
    // Without their ends connections would never be forgotten.
    if needs.kinds.has(EventKind::Close) {
        pipeline.pair_ends();
    }
    pipeline
}

/// What belongs into a journal, and what the configuration asks for.
fn consumers(config: &Config, beside: &Beside) -> Result<FanOut, Failure> {
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
        for consumer in config.open(section, beside)? {
            all.add(consumer).or_exit(ExitCode::OutputFailed)?;
        }
    }
    Ok(all)
}
