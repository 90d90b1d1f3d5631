//! What the monitor and a verdict cost, beside what others cost: measured here, put
//! together by `cargo xtask bench`.
//!
//! In a guest of one processor whose clock counts instructions, a nanosecond is an
//! executed instruction, so that the figures do not depend on what else this machine
//! does. Those that are compared take turns within one boot.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::Result;
use serde_json::json;

use crate::{enforce, flood, lab::Lab, process::say};

mod cost;
mod loader;
mod promptness;
mod scale;
mod tool;
mod verdict;
#[cfg(feature = "top")]
mod view;

pub(crate) use self::loader::{Args as LoaderArgs, run as run_loader};

/// From the boot to the first measurement, at least.
const SETTLING: Duration = Duration::from_secs(4);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(value_enum)]
    what: What,
    /// The port-monitor that is measured
    #[arg(long)]
    program: PathBuf,
    /// Runs of each, one after the other in turn
    #[arg(long, default_value_t = 7)]
    runs: u32,
    /// Only what goals of costs for each connection are about
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// A monitor of connections
    Monitor,
    /// What a monitor loses, on several processors
    Flood,
    /// A verdict on each connect
    Verdict,
    /// Many connections, filters and rules
    Scale,
    /// The live view
    #[cfg(feature = "top")]
    Top,
}

/// What measurements need.
#[derive(Debug)]
struct Bench {
    lab: Lab,
    runs: u32,
}

/// Measures, a line for each figure.
pub(crate) fn run(args: &Args) -> Result<()> {
    enforce::use_own_bpf_fs()?;
    let bench = Bench {
        lab: Lab::new(&args.program, false)?,
        runs: args.runs,
    };
    // What a system does after its start, and what only its first connections cost.
    thread::sleep(SETTLING);
    flood::connect(&flood::Args::of_one_thread(cost::CONNECTIONS))?;
    match args.what {
        What::Monitor if args.quick => cost::measure_quickly(&bench),
        What::Monitor => {
            cost::measure(&bench)?;
            promptness::measure(&bench)
        }
        What::Flood => cost::measure_losses(&bench),
        What::Verdict if args.quick => verdict::measure_quickly(&bench),
        What::Verdict => verdict::measure(&bench),
        What::Scale => scale::measure(&bench),
        #[cfg(feature = "top")]
        What::Top => view::measure(&bench),
    }
}

/// Of whom figures are, and which run of it.
#[derive(Clone, Copy, Debug)]
struct Row<'a> {
    group: &'a str,
    subject: &'a str,
    run: u32,
}

impl Row<'_> {
    /// Tells one figure.
    fn tell(&self, metric: &str, unit: &str, value: f64) -> Result<()> {
        let Self {
            group,
            subject,
            run,
        } = self;
        let figure = json!({
            "group": group, "subject": subject, "metric": metric, "unit": unit, "run": run,
            "value": value,
        });
        say(&format!("BENCH {figure}"))
    }
}

/// A count as a figure.
#[expect(
    clippy::cast_precision_loss,
    reason = "no figure has more than 53 bits that tell anything"
)]
const fn figure(count: u64) -> f64 {
    count as f64
}

/// So much for each of `count`.
fn each(total: u64, count: u64) -> f64 {
    figure(total) / figure(count)
}
