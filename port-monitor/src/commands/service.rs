//! `port-monitor service`: look up ports and service names.

use std::{
    fs,
    io::{self, BufWriter, Write},
    ops::RangeInclusive,
};

use serde::Serialize;

use super::told::written;
use crate::{
    base::exit_code::{ExitCode, Failure},
    events::record::PortClass,
    pipeline::classify::{EPHEMERAL_RANGE_FILE, parse_port_range},
    ports::{
        port_set::PortSet,
        services::{self, Entry},
    },
};

/// Arguments of `service`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Ports, ranges, service names, port classes: 443, 8000-8100, ssh, well-known
    #[arg(required = true, value_name = "QUERY")]
    queries: Vec<PortSet>,
    /// Print one JSON object a line for each name of each port
    #[arg(long)]
    json: bool,
}

/// Prints what is known of the ports asked for to `out`.
pub fn run(args: &Args, out: impl Write) -> Result<ExitCode, Failure> {
    // Without the file the answer is not known, which is not the same as no.
    let ephemeral_range = fs::read_to_string(EPHEMERAL_RANGE_FILE)
        .ok()
        .and_then(|text| parse_port_range(&text));
    let ports: Vec<_> = args
        .queries
        .iter()
        .flat_map(PortSet::ranges)
        .flatten()
        .map(|port| Facts::of(port, ephemeral_range.as_ref()))
        .collect();
    let out = BufWriter::new(out);
    written(if args.json {
        write_json(&ports, out)
    } else {
        write_table(&ports, out)
    })
}

/// What is known of one port.
#[derive(Debug)]
struct Facts {
    port: u16,
    class: PortClass,
    /// Whether this host gives the port to clients, if that is known.
    ephemeral: Option<bool>,
    entries: Vec<Entry>,
}

impl Facts {
    fn of(port: u16, ephemeral_range: Option<&RangeInclusive<u16>>) -> Self {
        Self {
            port,
            class: PortClass::of(port),
            ephemeral: ephemeral_range.map(|range| range.contains(&port)),
            entries: services::entries(port).collect(),
        }
    }

    /// Whether `next` is the port after this one, and differs in nothing else.
    fn continues(&self, next: &Self) -> bool {
        self.port.checked_add(1) == Some(next.port)
            && self.class == next.class
            && self.ephemeral == next.ephemeral
            && self.entries == next.entries
    }
}

/// Prints a line for each name of a port, or of a run of ports that differ in
/// nothing but their number.
fn write_table(ports: &[Facts], mut out: impl Write) -> io::Result<()> {
    let header = [
        "PORT",
        "CLASS",
        "NAME",
        "ORIGIN",
        "STATUS",
        "EPHEMERAL",
        "DESCRIPTION",
    ];
    write_row(&mut out, header)?;
    for run in ports.chunk_by(Facts::continues) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            continue;
        };
        let ports = if first.port == last.port {
            first.port.to_string()
        } else {
            format!("{}-{}", first.port, last.port)
        };
        let ephemeral = first
            .ephemeral
            .map_or("?", |ephemeral| if ephemeral { "yes" } else { "no" });
        for entry in &first.entries {
            let (name, origin) = entry
                .service
                .map_or(("-", "-"), |(name, origin)| (name, origin.name()));
            let columns = [
                &ports,
                first.class.name(),
                name,
                origin,
                entry.status.name(),
                ephemeral,
                entry.description,
            ];
            write_row(&mut out, columns)?;
        }
    }
    out.flush()
}

fn write_row(out: &mut impl Write, columns: [&str; 7]) -> io::Result<()> {
    let [port, class, name, origin, status, ephemeral, description] = columns;
    let row = format!(
        "{port:<11}  {class:<10}  {name:<15}  {origin:<8}  {status:<10}  {ephemeral:<9}  {description}"
    );
    writeln!(out, "{}", row.trim_end())
}

/// One line of JSON; what is not known or does not exist is null.
#[derive(Serialize)]
struct Line {
    port: u16,
    class: &'static str,
    name: Option<&'static str>,
    origin: Option<&'static str>,
    status: &'static str,
    ephemeral: Option<bool>,
    description: Option<&'static str>,
}

/// Prints a JSON object a line for each name of each port.
fn write_json(ports: &[Facts], mut out: impl Write) -> io::Result<()> {
    for facts in ports {
        for entry in &facts.entries {
            let line = Line {
                port: facts.port,
                class: facts.class.name(),
                name: entry.service.map(|(name, _)| name),
                origin: entry.service.map(|(_, origin)| origin.name()),
                status: entry.status.name(),
                ephemeral: facts.ephemeral,
                description: Some(entry.description).filter(|text| !text.is_empty()),
            };
            serde_json::to_writer(&mut out, &line)?;
            writeln!(out)?;
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use crate::commands::service::*;

    fn table(query: &str, ephemeral_range: Option<&RangeInclusive<u16>>) -> String {
        let ports: Vec<_> = query
            .parse::<PortSet>()
            .unwrap()
            .ranges()
            .flatten()
            .map(|port| Facts::of(port, ephemeral_range))
            .collect();
        let mut out = Vec::new();
        write_table(&ports, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn run_of_like_ports_is_one_line_and_ends_where_the_ephemeral_range_does() {
        insta::assert_snapshot!(table("48557-65535", Some(&(32768..=60999))), @r"
        PORT         CLASS       NAME             ORIGIN    STATUS      EPHEMERAL  DESCRIPTION
        48557-48618  registered  -                -         unassigned  yes
        48619        registered  iqobject         iana      assigned    yes        iqobject
        48620-48652  registered  -                -         unassigned  yes
        48653        registered  robotraconteur   iana      assigned    yes        Robot Raconteur transport
        48654-48999  registered  -                -         unassigned  yes
        49000        registered  matahari         iana      assigned    yes        Matahari Broker
        49001        registered  nusrp            iana      assigned    yes        Nuance Unity Service Request Protocol
        49002-49149  registered  -                -         unassigned  yes
        49150        registered  inspider         iana      assigned    yes        InSpider System
        49151        registered  -                -         reserved    yes
        49152-60999  dynamic     -                -         unassigned  yes
        61000-61615  dynamic     -                -         unassigned  no
        61616        dynamic     activemq         de-facto  unassigned  no         Apache ActiveMQ OpenWire
        61617-65535  dynamic     -                -         unassigned  no
        ");
    }

    #[test]
    fn unknown_ephemeral_range_is_not_taken_for_a_no() {
        insta::assert_snapshot!(table("ssh", None), @r"
        PORT         CLASS       NAME             ORIGIN    STATUS      EPHEMERAL  DESCRIPTION
        22           well-known  ssh              iana      assigned    ?          The Secure Shell (SSH) Protocol
        ");
    }

    #[test]
    fn run_is_interrupted_by_a_de_facto_name() {
        insta::assert_snapshot!(table("4200-4299", Some(&(32768..=60999))), @r"
        PORT         CLASS       NAME             ORIGIN    STATUS      EPHEMERAL  DESCRIPTION
        4200-4221    registered  vrml-multi-use   iana      assigned    no         VRML Multi User Systems
        4222         registered  nats             de-facto  assigned    no         NATS client
        4222         registered  vrml-multi-use   iana      assigned    no         VRML Multi User Systems
        4223-4299    registered  vrml-multi-use   iana      assigned    no         VRML Multi User Systems
        ");
    }
}
