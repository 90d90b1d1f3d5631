//! The rows that are shown, for a file: as JSON lines or as CSV.

use jiff::tz::TimeZone;

use super::{connection_sheet, listener_sheet, with_groups};
use crate::{
    base::sanitize::Escaped,
    consume::{
        Lines, Sink as _,
        history::told::{
            Csv,
            sheet::{Column, Fact, Sheet, SheetForm, column},
        },
        join::Connection,
        lines::json::Json,
        top::{
            model::{Group, Key, Mark, Model},
            ui::{RowId, Ui, View},
        },
    },
    events::record::Item,
};

/// In what form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Connections as the lines of their last events, as a run writes them; groups as objects.
    Json,
    /// With a line of names.
    Csv,
}

impl Form {
    /// The form that a file of this name has.
    pub fn of(name: &str) -> Option<Self> {
        let (_, kind) = name.rsplit_once('.')?;
        match &*kind.to_ascii_lowercase() {
            "json" | "jsonl" => Some(Self::Json),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }
}

/// What a file gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Its text.
    pub text: Vec<u8>,
    /// Rows in it.
    pub rows: usize,
}

/// The rows that are shown, in their order.
pub fn export(ui: &Ui, model: &Model, form: Form, zone: &TimeZone) -> Exported {
    let list = &ui.lists[ui.view.number()];
    let connections = match ui.view {
        View::Connections => connection_sheet(model, ui),
        View::Listeners => listener_sheet(model, ui),
        View::Processes | View::Services | View::Remotes | View::Policy | View::Health => {
            let exported = with_groups(ui.view, model, ui, |sheet| {
                let rows = sheet.in_order(list, model);
                Exported {
                    text: of_groups(ui.view, &rows, form, zone),
                    rows: rows.len(),
                }
            });
            return exported.unwrap_or_default();
        }
    };
    let rows = connections.in_order(list, model);
    Exported {
        text: of_connections(&rows, model, form, zone),
        rows: rows.len(),
    }
}

/// The marked row, or that of the connection that is told all about, as a line of text: what its
/// columns have on a wide screen.
pub fn copied(ui: &Ui, model: &Model) -> Option<String> {
    let list = &ui.lists[ui.view.number()];
    let connection = ui.connection_of(list).map(RowId::Connection);
    let marked = connection.as_ref().or(list.marked.as_ref())?;
    let ports = ui.ports;
    match ui.view {
        View::Connections => connection_sheet(model, ui).text_of(marked, model, ports),
        View::Listeners => listener_sheet(model, ui).text_of(marked, model, ports),
        View::Processes | View::Services | View::Remotes | View::Policy | View::Health => {
            with_groups(ui.view, model, ui, |sheet| {
                sheet.text_of(marked, model, ports)
            })
            .flatten()
        }
    }
}

fn of_connections(
    rows: &[&Connection<Mark>],
    model: &Model,
    form: Form,
    zone: &TimeZone,
) -> Vec<u8> {
    match form {
        Form::Json => {
            let (mut lines, mut json) = (Lines::default(), Json::new());
            if let Some(header) = &model.header {
                json.write(&mut lines, Item::Header(header));
            }
            for row in rows {
                json.write(&mut lines, Item::Event(&row.record));
            }
            lines.as_bytes().to_vec()
        }
        Form::Csv => {
            let mut text = Vec::new();
            let mut csv = Csv::new(Vec::new(), zone.clone());
            csv.begin(&mut text);
            for row in rows {
                csv.connection(&mut text, row);
            }
            text
        }
    }
}

/// What all groups have.
const SUMS: [Column; 7] = [
    column("connections"),
    column("open"),
    column("failed"),
    column("violations"),
    column("bytes_received"),
    column("bytes_sent"),
    column("last"),
];

fn of_groups(view: View, rows: &[&Group], form: Form, zone: &TimeZone) -> Vec<u8> {
    let own: &[Column] = match view {
        View::Processes => &[
            column("pid"),
            column("process"),
            column("user"),
            column("unit"),
        ],
        View::Services => &[column("direction"), column("port"), column("service")],
        View::Remotes => &[column("remote")],
        _ => &[column("rule"), column("verdict")],
    };
    let rows = rows.iter().map(|group| {
        let tally = &group.tally;
        let mut facts = facts(group);
        facts.extend(
            [
                tally.all,
                tally.open,
                tally.failed,
                tally.violations,
                tally.received,
                tally.sent,
            ]
            .map(Fact::number),
        );
        facts.push(Fact::time(group.last_ns, zone));
        facts
    });
    let sheet = Sheet {
        columns: own.iter().copied().chain(SUMS).collect(),
        rows: rows.collect(),
    };
    let form = match form {
        Form::Json => SheetForm::Json,
        Form::Csv => SheetForm::Csv,
    };
    sheet.write(form, &[])
}

/// What a group is of.
fn facts(group: &Group) -> Vec<Fact> {
    let text = |text: Option<&str>| Fact::text(text.map(str::to_owned));
    match &group.key {
        Key::Process(_) => {
            let owner = group.owner.as_ref();
            let name = owner.map(|owner| Escaped(owner.process_comm.as_bytes()).to_string());
            vec![
                owner.map_or(Fact::text(None), |owner| Fact::number(owner.pid.into())),
                Fact::text(name),
                text(group.process.user.as_deref()),
                text(group.process.unit.as_deref()),
            ]
        }
        Key::Service(is_outbound, port) => vec![
            text(Some(if *is_outbound { "out" } else { "in" })),
            port.map_or(Fact::text(None), |port| Fact::number(port.into())),
            text(group.service),
        ],
        Key::Remote(ip) => vec![Fact::text(Some(ip.to_canonical().to_string()))],
        Key::Network(first, prefix) => vec![Fact::text(Some(format!("{first}/{prefix}")))],
        Key::Rule(rule, allows) => vec![
            text(Some(rule.as_deref().unwrap_or("(default)"))),
            text(Some(if *allows { "allow" } else { "deny" })),
        ],
    }
}
