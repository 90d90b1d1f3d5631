//! `cargo xtask services`: write the TCP part of the IANA service registry as
//! the table that `port_monitor::ports::services` embeds.
//!
//! The registry's data comes from the crate `iana-service`, so `Cargo.lock`
//! says which snapshot it is, and `cargo update -p iana-service` takes a newer
//! one. Only xtask depends on it: linked into the program it costs megabytes.

use std::{fmt::Write as _, fs, ops::RangeInclusive, path::Path};

use anyhow::{Context as _, Result, ensure};
use iana_service::{
    Record,
    service_names_port_numbers::{REGISTRIES, UPDATED},
};

/// The committed table, below the workspace's root.
const TABLE: &str = "port-monitor/src/ports/services/iana.tsv";

/// Ports in use under another name than the registry's first one, which is
/// what event lines show. Both names are registered, so both are found.
const PREFERRED: [(u16, &str); 2] = [(465, "submissions"), (2049, "nfs")];

/// Arguments of `cargo xtask services`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail if the committed table is not the registry's
    #[arg(long)]
    check: bool,
}

/// Writes the table, or checks the committed one.
pub(crate) fn run(args: &Args) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(TABLE);
    let table = format!(
        "# The TCP part of the IANA Service Name and Transport Protocol Port Number\n\
         # Registry of {UPDATED} (CC0-1.0). Written by `cargo xtask services`: do not edit.\n\
         # port\tname\tdescription\tstatus (assigned when absent)\n{}",
        rows(&registry())?
    );
    if args.check {
        let committed = fs::read_to_string(&path).with_context(|| format!("read {TABLE}"))?;
        ensure!(
            committed == table,
            "{TABLE} is not the registry of {UPDATED}: run `cargo xtask services`"
        );
        return Ok(());
    }
    fs::write(&path, table).with_context(|| format!("write {TABLE}"))
}

/// What a port is registered for; one row of the table.
#[derive(Debug, PartialEq, Eq)]
struct Service {
    name: &'static str,
    description: String,
    status: &'static str,
}

fn registry() -> Vec<&'static Record> {
    REGISTRIES
        .iter()
        .flat_map(|registry| registry.records)
        .collect()
}

/// The rows of the table: they cover every port once, in ascending order, but
/// for further names of a port, which follow the one to show.
fn rows(records: &[&Record]) -> Result<String> {
    let mut ports = vec![Vec::new(); usize::from(u16::MAX) + 1];
    for record in records {
        for port in numbers(record)?.into_iter().flatten() {
            ports[usize::from(port)].push(*record);
        }
    }
    let services: Vec<Vec<Service>> = (0..=u16::MAX)
        .zip(&ports)
        .map(|(port, records)| services(port, records))
        .collect();
    let mut rows = String::new();
    let mut first = 0;
    for run in services.chunk_by(PartialEq::eq) {
        let last = first + run.len() - 1;
        let ports = if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        };
        for service in run.first().into_iter().flatten() {
            let Service {
                name,
                description,
                status,
            } = service;
            let row = format!("{ports}\t{name}\t{description}\t{status}");
            writeln!(rows, "{}", row.trim_end())?;
        }
        first = last + 1;
    }
    Ok(rows)
}

/// The ports of a record; `None` for a name that has no port.
fn numbers(record: &Record) -> Result<Option<RangeInclusive<u16>>> {
    let Some(text) = record.field("number").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let parse = |number: &str| -> Result<u16> {
        number
            .parse()
            .with_context(|| format!("registry record with the port number `{text}`"))
    };
    Ok(Some(parse(first)?..=parse(last)?))
}

/// What the registry says of a port over TCP, the name to show first.
fn services(port: u16, records: &[&Record]) -> Vec<Service> {
    // Those for no transport in particular hold for all that have none of
    // their own.
    let for_protocol = |protocol| {
        records
            .iter()
            .filter(move |record| record.field("protocol") == protocol)
    };
    let has_own = for_protocol(Some("tcp")).next().is_some();
    let mut services: Vec<_> = for_protocol(has_own.then_some("tcp"))
        .map(|record| (rank(port, record), service(record)))
        .collect();
    services.sort_by_key(|(rank, _)| *rank);
    if services.iter().any(|(_, service)| !service.name.is_empty()) {
        services.retain(|(_, service)| !service.name.is_empty());
    }
    if services.is_empty() {
        return vec![Service {
            name: "",
            description: String::new(),
            status: "unassigned",
        }];
    }
    services.into_iter().map(|(_, service)| service).collect()
}

/// The order of a port's names: the preferred one, then as registered, then
/// those whose note says that they only stand in for another.
fn rank(port: u16, record: &Record) -> u8 {
    let name = record.field("name").unwrap_or_default();
    let note = record
        .field("note")
        .unwrap_or_default()
        .to_ascii_lowercase();
    if PREFERRED.contains(&(port, name)) {
        0
    } else if ["alias", "duplicate", "historic"]
        .iter()
        .any(|word| note.contains(word))
    {
        2
    } else {
        1
    }
}

fn service(record: &Record) -> Service {
    let name = record.field("name").unwrap_or_default();
    // Of the name it replaced, which has a row of its own.
    let description = record
        .field("description")
        .unwrap_or_default()
        .split("IANA assigned this well-formed service name")
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let status = if name.is_empty() {
        status(&description)
    } else {
        ""
    };
    Service {
        name,
        description: if description.eq_ignore_ascii_case(status) {
            String::new()
        } else {
            description
        },
        status,
    }
}

/// The status of a port without a name, which only its description tells.
fn status(description: &str) -> &'static str {
    let description = description.to_ascii_lowercase();
    let withdrawn = ["de-registered", "removed", "deprecated", "de-com", "decom"];
    if description.contains("unassigned")
        || withdrawn.iter().any(|word| description.starts_with(word))
    {
        "unassigned"
    } else if description.starts_with("reserved") {
        "reserved"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(records: &[Record]) -> String {
        rows(&records.iter().collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn every_port_is_in_exactly_one_group_of_rows() {
        let table = rows(&registry()).unwrap();
        let mut next = 0_u32;
        let mut group = "";
        for row in table.lines() {
            let (ports, _) = row.split_once('\t').unwrap();
            if ports == group {
                continue;
            }
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            assert_eq!(first.parse::<u32>().unwrap(), next, "{row}");
            next = last.parse::<u32>().unwrap() + 1;
            group = ports;
        }
        assert_eq!(next, 65536);
    }

    #[test]
    fn preferred_names_are_registered_and_lead_their_port() {
        let table = rows(&registry()).unwrap();
        for (port, name) in PREFERRED {
            let first = table
                .lines()
                .find(|row| row.starts_with(&format!("{port}\t")))
                .unwrap();
            assert_eq!(first.split('\t').nth(1), Some(name));
        }
    }

    #[test]
    fn alias_follows_the_name_it_stands_for() {
        let records = [
            Record {
                fields: &[
                    ("name", "www"),
                    ("number", "80"),
                    ("protocol", "tcp"),
                    ("note", "This is a duplicate of the \"http\" service"),
                ],
            },
            Record {
                fields: &[("name", "http"), ("number", "80"), ("protocol", "tcp")],
            },
        ];
        assert!(table(&records).contains("\n80\thttp\n80\twww\n81-65535\t"));
    }

    #[test]
    fn tcp_record_hides_the_one_for_any_transport_and_udp_does_not_count() {
        let records = [
            Record {
                fields: &[("number", "7000-7010"), ("description", "Reserved")],
            },
            Record {
                fields: &[("name", "x"), ("number", "7005"), ("protocol", "tcp")],
            },
            Record {
                fields: &[("name", "y"), ("number", "9"), ("protocol", "udp")],
            },
        ];
        assert_eq!(
            table(&records),
            "0-6999\t\t\tunassigned\n7000-7004\t\t\treserved\n7005\tx\n\
             7006-7010\t\t\treserved\n7011-65535\t\t\tunassigned\n"
        );
    }

    #[test]
    fn status_of_a_nameless_port_is_read_from_its_description() {
        assert_eq!(status("Unassigned [was netstat]"), "unassigned");
        assert_eq!(status("(unassigned) Possibly assigned"), "unassigned");
        assert_eq!(status("Removed"), "unassigned");
        assert_eq!(status("Reserved - IANA"), "reserved");
        assert_eq!(status("any private mail system"), "");
    }

    #[test]
    fn description_is_one_line_without_the_remark_on_the_old_name() {
        let record = Record {
            fields: &[
                ("name", "sql-net"),
                (
                    "description",
                    "Oracle\n SQL*NET\nIANA assigned this well-formed service name as a replacement for \"sql*net\".",
                ),
            ],
        };
        assert_eq!(service(&record).description, "Oracle SQL*NET");
    }
}
