//! `port-monitor status`: which policy is in force, or how the service stands.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Context as _;

use super::{
    enforce::{self, InstanceArgs},
    told::written,
};
use crate::{
    base::{
        exit_code::{ExitCode, Failure, OrExit as _},
        sanitize::Escaped,
    },
    consume::socket::{
        self, Report,
        report::{AppliedMode, ConsumerReport, PolicyReport},
    },
};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    instance: InstanceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Tell how the service stands, which its [socket] says: what was seen and lost, and the
    /// account of each consumer
    #[arg(long, conflicts_with = "name")]
    service: bool,
    /// The socket of the service
    #[arg(
        long,
        value_name = "FILE",
        allow_hyphen_values = true,
        default_value = socket::PATH,
        requires = "service"
    )]
    socket: PathBuf,
}

/// Tells it.
pub fn run(args: &Args, mut out: impl Write) -> Result<ExitCode, Failure> {
    if !args.service {
        return enforce::status(&args.instance, args.json, out);
    }
    let report = socket::ask(&args.socket)
        .with_context(|| args.socket.display().to_string())
        .or_exit(ExitCode::CannotAttach)?;
    written(if args.json {
        serde_json::to_writer(&mut out, &report)
            .map_err(Into::into)
            .and_then(|()| writeln!(out))
    } else {
        write(&report, &mut out)
    })
}

/// What may have come from elsewhere, as it can be shown.
const fn text(text: &str) -> Escaped<'_> {
    Escaped(text.as_bytes())
}

fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let Report {
        version,
        pid,
        host,
        kernel,
        backend,
        blind_spots,
        unproven,
        began,
        policy,
        events,
        consumers,
    } = report;
    writeln!(out, "service    port-monitor {}, pid {pid}", text(version))?;
    writeln!(out, "since      {}", began.strftime("%F %T UTC"))?;
    writeln!(out, "host       {}, kernel {}", text(host), text(kernel))?;
    writeln!(out, "backend    {}", text(backend))?;
    for (what, sentences) in [("not seen   ", blind_spots), ("not proven ", unproven)] {
        for sentence in sentences {
            writeln!(out, "{what}{}", text(sentence))?;
        }
    }
    if let Some(policy) = policy {
        write_policy(policy, out)?;
    }
    let lost = events.lost;
    writeln!(
        out,
        "events     seen {}, filtered {}, lost {}",
        events.seen,
        events.filtered,
        lost.total()
    )?;
    for (cause, count) in [
        ("the ring was full", lost.ring_full),
        ("programs were skipped", lost.program_skipped),
        ("not of this version", lost.undecodable),
        ("owner not known in time", lost.owner_late),
    ] {
        if count > 0 {
            writeln!(out, "lost       {count}: {cause}")?;
        }
    }
    write_consumers(consumers, out)
}

fn write_policy(policy: &PolicyReport, out: &mut impl Write) -> io::Result<()> {
    let PolicyReport {
        file,
        sha256: _,
        loaded,
        applied,
    } = policy;
    let does = match applied {
        Some(applied) if applied.mode == AppliedMode::Enforce => "enforces",
        _ => "observes",
    };
    let loaded = loaded.strftime("%F %T UTC");
    writeln!(out, "{does:<10} {}, read {loaded}", text(file))?;
    let Some(applied) = applied else {
        return Ok(());
    };
    if !applied.in_force {
        writeln!(
            out,
            "not held   it is not in force: see `port-monitor status`"
        )?;
    }
    if applied.refused {
        writeln!(out, "refused    what its file says now: see the journal")?;
    }
    Ok(())
}

fn write_consumers(consumers: &[ConsumerReport], out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:<10} {:>11} {:>11} {:>11} {:>11}  WAITING",
        "CONSUMER", "DELIVERED", "TAKEN", "HIDDEN", "DROPPED"
    )?;
    for consumer in consumers {
        write!(
            out,
            "{:<10} {:>11} {:>11} {:>11} {:>11}  {}",
            text(&consumer.name).to_string(),
            consumer.delivered,
            consumer.taken,
            consumer.hidden,
            consumer.dropped.total(),
            consumer.waiting
        )?;
        match consumer.room {
            Some(room) => writeln!(out, " of {room}")?,
            None => writeln!(out)?,
        }
    }
    for consumer in consumers {
        if let Some(error) = &consumer.error {
            writeln!(out, "failed     {}: {}", text(&consumer.name), text(error))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::{
        commands::status::*,
        consume::socket::report::{AppliedReport, DroppedReport, Events, Lost},
    };

    fn consumer(name: &str, room: Option<u64>, error: Option<&str>) -> ConsumerReport {
        ConsumerReport {
            name: name.to_owned(),
            delivered: 1_230,
            taken: 1_000,
            hidden: 200,
            dropped: DroppedReport {
                queue_full: 20,
                failed: 7,
                unfinished: 3,
            },
            waiting: 4,
            room,
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn text_has_all_that_the_report_has_and_nothing_hostile() {
        let report = Report {
            version: "0.1.0".to_owned(),
            pid: 812,
            host: "web1".to_owned(),
            kernel: "6.12.117".to_owned(),
            backend: "fentry".to_owned(),
            blind_spots: vec!["MPTCP".to_owned()],
            unproven: vec!["an \x1b[2Jend".to_owned()],
            began: "2026-11-26T08:00:01Z".parse().unwrap(),
            policy: Some(PolicyReport {
                file: "/etc/port-monitor/policy.toml".to_owned(),
                sha256: "00".repeat(32),
                loaded: "2026-11-26T08:00:00Z".parse().unwrap(),
                applied: None,
            }),
            events: Events {
                seen: 1_236,
                filtered: 2,
                lost: Lost {
                    ring_full: 0,
                    program_skipped: 1,
                    undecodable: 0,
                    owner_late: 3,
                },
            },
            consumers: vec![
                consumer("output", None, None),
                consumer("history", Some(32_768), Some("disk full\n")),
            ],
        };
        let mut out = Vec::new();
        write(&report, &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        service    port-monitor 0.1.0, pid 812
        since      2026-11-26 08:00:01 UTC
        host       web1, kernel 6.12.117
        backend    fentry
        not seen   MPTCP
        not proven an \x1b[2Jend
        observes   /etc/port-monitor/policy.toml, read 2026-11-26 08:00:00 UTC
        events     seen 1236, filtered 2, lost 4
        lost       1: programs were skipped
        lost       3: owner not known in time
        CONSUMER     DELIVERED       TAKEN      HIDDEN     DROPPED  WAITING
        output            1230        1000         200          30  4
        history           1230        1000         200          30  4 of 32768
        failed     history: disk full\n
        ");
    }

    #[test]
    fn a_policy_that_is_applied_is_told_as_it_stands() {
        let told = |applied| {
            let policy = PolicyReport {
                file: "p.toml".to_owned(),
                sha256: String::new(),
                loaded: "2026-11-26T08:00:00Z".parse().unwrap(),
                applied,
            };
            let mut out = Vec::new();
            write_policy(&policy, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let enforced = AppliedReport {
            mode: AppliedMode::Enforce,
            in_force: true,
            refused: false,
        };
        let read = "p.toml, read 2026-11-26 08:00:00 UTC\n";
        assert_eq!(told(Some(enforced)), format!("enforces   {read}"));
        let mode = AppliedMode::Observe;
        let observed = AppliedReport { mode, ..enforced };
        assert_eq!(told(Some(observed)), format!("observes   {read}"));
        let told = told(Some(AppliedReport {
            in_force: false,
            refused: true,
            ..enforced
        }));
        let (first, rest) = told.split_once('\n').unwrap();
        assert_eq!(format!("{first}\n"), format!("enforces   {read}"));
        insta::assert_snapshot!(rest, @r"
        not held   it is not in force: see `port-monitor status`
        refused    what its file says now: see the journal
        ");
    }
}
