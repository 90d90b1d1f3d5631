//! `port-monitor doctor`: what this kernel and this process's privileges allow,
//! found by trying; each backend is attached, proved and detached again.

use std::{borrow::Cow, fs, io::Write, path::Path};

use serde::Serialize;

use crate::{
    base::{
        exit_code::{ExitCode, Failure},
        sanitize::Escaped,
    },
    consume::{
        lines::table::plural,
        socket::{self, AskError, report::ConsumerReport},
    },
    events::record::Failed,
    host::{cgroup::CgroupTree, process::v1_hierarchies},
    kernel::{self, Backend, Kernel, KernelError, SelfTest, Settings, filters::Filters, preflight},
};

/// Flags of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Everything `doctor` found.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    kernel: String,
    checks: Vec<Check>,
    backends: Vec<Tried>,
    /// The backend that `--backend auto` takes.
    auto: Option<&'static str>,
}

/// One condition.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    found: String,
    /// What to do, when it is not ok.
    remedy: Option<&'static str>,
}

/// A backend, tried.
#[derive(Debug, Serialize)]
struct Tried {
    name: &'static str,
    /// Why it cannot be used; `None` when it works.
    refused: Option<String>,
    /// What it cannot see.
    blind_spots: Vec<String>,
    /// What the self-test could not prove, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unproven: Vec<String>,
    /// What failed in the kernel during the self-test.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<KernelFailure>,
    /// The loaded programs and their verified instructions, where the kernel
    /// counts them (Linux 5.16).
    programs: Vec<Program>,
}

/// Calls that the kernel did not answer as they should be.
#[derive(Debug, Serialize)]
struct KernelFailure {
    site: &'static str,
    errno: Cow<'static, str>,
    count: u64,
}

#[derive(Debug, Serialize)]
struct Program {
    name: String,
    verified_instructions: Option<u32>,
}

/// Tries everything and prints what it found; exit 3 when no backend works.
pub fn run(args: &Args, mut out: impl Write) -> Result<ExitCode, Failure> {
    let report = examine();
    let code = if report.auto.is_some() {
        ExitCode::Ok
    } else {
        ExitCode::CannotAttach
    };
    let written = if args.json {
        serde_json::to_writer(&mut out, &report)
            .map_err(Into::into)
            .and_then(|()| writeln!(out))
    } else {
        print(&report, &mut out)
    };
    super::told::written(written)?;
    Ok(code)
}

fn examine() -> Report {
    let mut self_test = SelfTest::default();
    let backends: Vec<_> = Backend::ALL
        .into_iter()
        .map(|backend| {
            let tried = try_backend(backend, self_test.clone());
            // What did not come to one backend's self-test will not come to the next.
            if !tried.unproven.is_empty() {
                self_test.patience = SelfTest::BRIEF;
            }
            tried
        })
        .collect();
    let auto = backends.iter().find(|backend| backend.refused.is_none());
    Report {
        version: env!("CARGO_PKG_VERSION"),
        kernel: kernel::kernel_release(),
        checks: checks(),
        auto: auto.map(|backend| backend.name),
        backends,
    }
}

fn checks() -> Vec<Check> {
    let missing = preflight::Capabilities::current().missing();
    let lockdown = preflight::lockdown();
    let btf = fs::metadata(kernel::SYSTEM_BTF);
    vec![
        Check {
            name: "privilege",
            ok: missing.is_empty(),
            found: if missing.is_empty() {
                "enough".to_owned()
            } else {
                format!("no {}", missing.join(", no "))
            },
            remedy: Some("run it with sudo"),
        },
        Check {
            name: "kernel BTF",
            ok: btf.is_ok(),
            found: btf.map_or_else(
                |error| error.to_string(),
                |file| format!("{} bytes", file.len()),
            ),
            remedy: Some("boot a kernel with CONFIG_DEBUG_INFO_BTF, or use --btf FILE"),
        },
        Check {
            name: "lockdown",
            ok: lockdown.as_deref() != Some("confidentiality"),
            found: lockdown.unwrap_or_else(|| "none".to_owned()),
            remedy: Some("boot with lockdown=integrity or none"),
        },
        Check {
            name: "pid namespace",
            ok: preflight::in_host_pid_namespace(),
            found: fs::read_link("/proc/self/ns/pid")
                .unwrap_or_default()
                .display()
                .to_string(),
            remedy: Some("run it on the host, or in a container with --pid=host"),
        },
        cgroups(),
        sysctl("kernel.perf_event_paranoid"),
        sysctl("kernel.unprivileged_bpf_disabled"),
        service(socket::ask(Path::new(socket::PATH))),
    ]
}

/// How the service stands, if it runs.
fn service(asked: Result<socket::Report, AskError>) -> Check {
    let wrong = asked.as_ref().is_ok_and(|report| {
        let is_wrong =
            |consumer: &ConsumerReport| consumer.error.is_some() || consumer.dropped.total() > 0;
        report.events.lost.total() > 0 || report.consumers.iter().any(is_wrong)
    });
    let found = match asked {
        Ok(report) => {
            let began = report.began.strftime("%F %T UTC");
            let mut found = format!("pid {}, by {} since {began}", report.pid, report.backend);
            let lost = report.events.lost.total();
            if lost > 0 {
                found = format!("{found}; events lost: {lost}");
            }
            for consumer in report.consumers {
                let missing = consumer.dropped.total();
                if missing > 0 {
                    found = format!("{found}; {}: {missing} events missing", consumer.name);
                }
                if let Some(error) = consumer.error {
                    found = format!("{found}; {}: {error}", consumer.name);
                }
            }
            Escaped(found.as_bytes()).to_string()
        }
        Err(AskError::Nobody) => format!("nobody answers at {}", socket::PATH),
        Err(error) => format!("{}: {error}", socket::PATH),
    };
    Check {
        name: "service",
        ok: !wrong,
        found,
        remedy: Some("see `port-monitor status --service`, and the journal of the service"),
    }
}

/// Where units and containers are looked for.
fn cgroups() -> Check {
    let proc = Path::new("/proc");
    let v1 = v1_hierarchies(proc);
    let tree = CgroupTree::find(proc);
    let is_mounted = tree.is_some();
    let mut found = tree.map_or_else(
        || "not mounted".to_owned(),
        |tree| tree.mount().display().to_string(),
    );
    if !v1.is_empty() {
        found = format!("{found}; version 1 has {}", v1.join(", "));
    }
    Check {
        name: "cgroup v2",
        ok: is_mounted && v1.is_empty(),
        found,
        remedy: Some(if v1.is_empty() {
            "mount cgroup2: without it there are no units, containers or --cgroup"
        } else {
            "boot with systemd.unified_cgroup_hierarchy=1: of version 1, units and containers are \
             read while the process lives, and --unit and --cgroup do not see them"
        }),
    }
}

/// A setting worth knowing; no value of it stands in the way of root.
fn sysctl(name: &'static str) -> Check {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let value = fs::read_to_string(path);
    Check {
        name,
        ok: true,
        found: value.map_or_else(|error| error.to_string(), |value| value.trim().to_owned()),
        remedy: None,
    }
}

/// Attaches a backend that keeps nothing, proves it, and detaches it.
fn try_backend(backend: Backend, self_test: SelfTest) -> Tried {
    let settings = Settings {
        backend: Some(backend),
        filters: Filters {
            tree: true,
            ..Filters::default()
        },
        max_connections: kernel::MIN_MAX_CONNECTIONS,
        self_test,
        ..Settings::default()
    };
    let program = |(name, verified_instructions)| Program {
        name,
        verified_instructions,
    };
    match Kernel::start(&settings) {
        Ok((kernel, _)) => Tried {
            name: backend.name(),
            refused: None,
            blind_spots: kernel.blind_spots().to_vec(),
            unproven: kernel.unproven().to_vec(),
            failures: kernel.counters().failures().iter().map(failure).collect(),
            programs: kernel.programs().into_iter().map(program).collect(),
        },
        Err(error) => Tried {
            name: backend.name(),
            refused: Some(reason(&error)),
            blind_spots: Vec::new(),
            unproven: Vec::new(),
            failures: Vec::new(),
            programs: Vec::new(),
        },
    }
}

fn failure(failed: &Failed) -> KernelFailure {
    KernelFailure {
        site: failed.site.name(),
        errno: failed.errno_name(),
        count: failed.count,
    }
}

/// Why a backend is refused; the report names backend and kernel already.
fn reason(error: &KernelError) -> String {
    match error {
        KernelError::Backend { refusal, .. } => refusal.reason().to_owned(),
        error => error.to_string(),
    }
}

fn print(report: &Report, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(
        out,
        "port-monitor {} on kernel {}\n",
        report.version, report.kernel
    )?;
    for check in &report.checks {
        let mark = if check.ok { "ok" } else { "NO" };
        writeln!(out, "{mark}  {:<34} {}", check.name, check.found)?;
        if let (false, Some(remedy)) = (check.ok, check.remedy) {
            writeln!(out, "      {remedy}")?;
        }
    }
    for backend in &report.backends {
        writeln!(out)?;
        let name = backend.name;
        if let Some(reason) = &backend.refused {
            writeln!(out, "NO  backend {name}: {reason}")?;
        } else {
            let proved = if backend.unproven.is_empty() {
                "proved"
            } else {
                "proved in part"
            };
            writeln!(
                out,
                "ok  backend {name}: attached, and {proved} on loopback"
            )?;
        }
        for sentence in &backend.unproven {
            writeln!(out, "      not proven: {sentence}")?;
        }
        for blind_spot in &backend.blind_spots {
            writeln!(out, "      cannot see: {blind_spot}")?;
        }
        for failure in &backend.failures {
            let KernelFailure { site, errno, count } = failure;
            let times = plural(*count, "time");
            writeln!(
                out,
                "      failed in the kernel: {site}, {errno}, {count} {times}"
            )?;
        }
        for program in &backend.programs {
            if let Some(count) = program.verified_instructions {
                writeln!(
                    out,
                    "      {:<16} {count} verified instructions",
                    program.name
                )?;
            }
        }
    }
    match report.auto {
        Some(name) => writeln!(out, "\n--backend auto takes {name}."),
        None => writeln!(out, "\nNo backend works here."),
    }
}
