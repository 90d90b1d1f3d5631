//! Service names of TCP ports: the IANA registry, and a few names that are in
//! use where the registry has another one or none. Pure, embedded, read-only.
//!
//! `iana.tsv` is written by `cargo xtask services`; `de-facto.tsv` by hand.

use crate::ports::class::{ServiceOrigin, ServiceStatus};

mod table;

use table::{Row, Table, row_count};

const IANA_TEXT: &str = include_str!("iana.tsv");
const DE_FACTO_TEXT: &str = include_str!("de-facto.tsv");

static IANA: Table<{ row_count(IANA_TEXT) }> = Table::new(IANA_TEXT);
static DE_FACTO: Table<{ row_count(DE_FACTO_TEXT) }> = Table::new(DE_FACTO_TEXT);

/// One name of a port, or that it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name and where it comes from.
    pub service: Option<(&'static str, ServiceOrigin)>,
    /// What the registry says of the port, whatever the name's origin.
    pub status: ServiceStatus,
    /// What it is for; may be empty.
    pub description: &'static str,
}

/// The service name to show for `port`, and what the registry says of it.
pub fn lookup(port: u16) -> (Option<(&'static str, ServiceOrigin)>, ServiceStatus) {
    let (name, status) = IANA.lookup(port).unwrap_or(("", ServiceStatus::Unassigned));
    let service = match DE_FACTO.lookup(port) {
        Some((name, _)) => named(name, ServiceOrigin::DeFacto),
        None => named(name, ServiceOrigin::Iana),
    };
    (service, status)
}

/// Every name of `port`, the one to show first; one entry without a name for a
/// port that has none.
pub fn entries(port: u16) -> impl Iterator<Item = Entry> {
    let (_, status) = lookup(port);
    let entry = move |row: Row, origin| Entry {
        service: named(row.name, origin),
        status,
        description: row.description,
    };
    let mut de_facto = DE_FACTO
        .rows(port)
        .map(move |row| entry(row, ServiceOrigin::DeFacto))
        .peekable();
    let has_name = de_facto.peek().is_some();
    let iana = IANA
        .rows(port)
        .filter(move |row| !has_name || !row.name.is_empty())
        .map(move |row| entry(row, ServiceOrigin::Iana));
    de_facto.chain(iana)
}

fn named(name: &'static str, origin: ServiceOrigin) -> Option<(&'static str, ServiceOrigin)> {
    (!name.is_empty()).then_some((name, origin))
}

/// The ports named `name`, aliases and de-facto names included, whatever its
/// case; none for a name that is not known.
pub fn ports_named(name: &str) -> impl Iterator<Item = u16> {
    DE_FACTO
        .rows_named(name)
        .chain(IANA.rows_named(name))
        .flat_map(|row| row.ports)
}

/// The known name that `name` most likely is a misspelling of.
pub fn suggest(name: &str) -> Option<&'static str> {
    closest(name, DE_FACTO.names().chain(IANA.names()))
}

/// No name of anything is longer, and comparing takes as long as the word is.
const LONGEST_WORD: usize = 255;

/// The candidate that is the fewest typing mistakes away from `word`, the first
/// one of equals; `None` when more than a third of the letters would be wrong.
pub fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST_WORD {
        return None;
    }
    let word = word.to_ascii_lowercase();
    candidates
        .map(|candidate| {
            let mistakes = strsim::osa_distance(&word, &candidate.to_ascii_lowercase());
            (mistakes, candidate)
        })
        .filter(|(mistakes, _)| *mistakes <= word.len() / 3)
        .min_by_key(|(mistakes, _)| *mistakes)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use crate::ports::services::*;

    fn names(port: u16) -> Vec<&'static str> {
        entries(port)
            .filter_map(|entry| entry.service)
            .map(|(name, _)| name)
            .collect()
    }

    fn ports(name: &str) -> Vec<u16> {
        ports_named(name).collect()
    }

    #[test]
    fn well_known_services_have_their_names() {
        for (port, name) in [
            (22, "ssh"),
            (23, "telnet"),
            (80, "http"),
            (443, "https"),
            (465, "submissions"),
            (2049, "nfs"),
            (5432, "postgresql"),
            (6063, "x11"),
        ] {
            assert_eq!(
                lookup(port),
                (Some((name, ServiceOrigin::Iana)), ServiceStatus::Assigned),
                "{port}"
            );
        }
    }

    #[test]
    fn table_holds_the_whole_registry() {
        let named = (0..=u16::MAX)
            .filter(|&port| IANA.rows(port).any(|row| !row.name.is_empty()))
            .count();
        assert!(named > 5900, "{named}");
        for port in 0..=u16::MAX {
            assert_ne!(IANA.lookup(port), None, "{port}");
        }
    }

    #[test]
    fn nameless_ports_keep_their_status() {
        assert_eq!(lookup(0), (None, ServiceStatus::Reserved));
        assert_eq!(lookup(4), (None, ServiceStatus::Unassigned));
        assert_eq!(lookup(24), (None, ServiceStatus::Assigned));
        assert_eq!(lookup(50_000), (None, ServiceStatus::Unassigned));
    }

    #[test]
    fn de_facto_name_comes_before_the_registered_one() {
        assert_eq!(
            lookup(9200),
            (
                Some(("elasticsearch", ServiceOrigin::DeFacto)),
                ServiceStatus::Assigned
            )
        );
        assert_eq!(names(9200), ["elasticsearch", "wap-wsp"]);
    }

    #[test]
    fn de_facto_name_of_an_unassigned_port_is_its_only_entry() {
        let entries: Vec<_> = entries(10_250).collect();
        assert_eq!(
            entries,
            [Entry {
                service: Some(("kubelet", ServiceOrigin::DeFacto)),
                status: ServiceStatus::Unassigned,
                description: "Kubernetes kubelet API",
            }]
        );
    }

    #[test]
    fn de_facto_names_are_new_ones_and_fit_a_service_name() {
        for name in DE_FACTO.names() {
            assert_eq!(IANA.rows_named(name).next(), None, "{name}");
            assert!(name.len() <= 15, "{name}: longer than RFC 6335 allows");
        }
    }

    #[test]
    fn aliases_and_other_case_lead_to_the_port() {
        assert_eq!(names(80), ["http", "www", "www-http"]);
        for name in ["http", "WWW", "www-http"] {
            assert_eq!(ports(name), [80], "{name}");
        }
        assert_eq!(ports("kafka"), [9092]);
        assert_eq!(ports("x11").len(), 64);
        assert_eq!(ports("no-such-service"), [0_u16; 0]);
    }

    #[test]
    fn a_word_longer_than_any_name_is_like_none() {
        let near = "x".repeat(LONGEST_WORD);
        let name = format!("{near}y");
        assert_eq!(closest(&near, [&*name].into_iter()), Some(&*name));
        assert_eq!(closest(&name, [&*near].into_iter()), None);
    }

    #[test]
    fn misspelt_name_suggests_the_meant_one() {
        for (typed, meant) in [
            ("htps", "https"),
            ("shh", "ssh"),
            ("postgres", "postgresql"),
            ("telnte", "telnet"),
            ("elasticserch", "elasticsearch"),
            ("HTPP", "http"),
        ] {
            assert_eq!(suggest(typed), Some(meant), "{typed}");
        }
        assert_eq!(suggest("qqqqqq"), None);
        assert_eq!(suggest(""), None);
    }

    #[test]
    fn embedded_text_has_no_control_characters() {
        let text = IANA_TEXT.chars().chain(DE_FACTO_TEXT.chars());
        let mut control = text.filter(|char| char.is_control() && !"\t\n".contains(*char));
        assert_eq!(control.next(), None);
    }
}
