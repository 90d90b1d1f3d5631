//! Which module of a crate leads to which: no way leads back, and between the rooms there
//! are only the arrows that are listed here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::Result;

use super::{
    modules::{Modules, Path},
    source::{Finding, SourceFile},
};

/// A crate whose modules are held to an order.
struct House {
    /// Where its modules are, with a slash at the end.
    root: &'static str,
    /// Folders whose files are modules of their own: a folder that is no room is one module
    /// with all that is in it.
    rooms: &'static [&'static str],
    /// What the modules of each room may use besides their own room.
    arrows: &'static [(&'static str, &'static [&'static str])],
}

const HOUSES: [House; 2] = [PROGRAM, EBPF];

const PROGRAM: House = House {
    root: "port-monitor/src/",
    rooms: &[
        "base",
        "ports",
        "host",
        "events",
        "kernel",
        "pipeline",
        "policy",
        "policy::text",
        "policy::rules",
        "policy::analysis",
        "policy::tables",
        "policy::export",
        "consume",
        "consume::lines",
        "consume::output",
        "commands",
    ],
    arrows: &[
        ("cli", &["base", "commands"]),
        (
            "commands",
            &[
                "base", "consume", "events", "host", "kernel", "pipeline", "policy", "ports",
            ],
        ),
        ("consume", &["base", "events", "host", "ports"]),
        (
            "dispatch",
            &["base", "cli", "commands", "consume", "logging"],
        ),
        ("events", &["base", "ports"]),
        (
            "fuzz",
            &["commands", "events", "host", "kernel", "pipeline", "policy"],
        ),
        ("host", &["base", "events", "ports"]),
        ("kernel", &["base", "events", "host", "policy", "ports"]),
        (
            "pipeline",
            &["base", "consume", "events", "host", "policy", "ports"],
        ),
        ("policy", &["base", "events", "host", "ports"]),
        ("ports", &["base"]),
        ("usage", &["base", "cli", "consume", "ports"]),
    ],
};

const EBPF: House = House {
    root: "port-monitor-ebpf/src/",
    rooms: &["maps", "read", "judge", "report", "monitor", "enforce"],
    arrows: &[
        ("account", &["globals", "maps"]),
        ("enforce", &["judge", "read", "report"]),
        ("judge", &["account", "globals", "maps", "read"]),
        (
            "monitor",
            &["account", "globals", "judge", "maps", "read", "report"],
        ),
        ("read", &["account", "globals"]),
        ("report", &["account", "globals", "maps", "read"]),
    ],
};

/// The page that shows the rooms.
const PAGE: &str = "ARCHITECTURE.md";

/// Modules and those they lead to.
type Arrows = BTreeMap<String, BTreeSet<String>>;

pub(super) fn modules_do_not_lead_back(files: &[SourceFile]) -> Vec<Finding> {
    of_every_house(files, |house, modules| {
        let mut findings = Vec::new();
        for circle in circles(modules) {
            let names: Vec<_> = circle.iter().map(String::as_str).collect();
            findings.push(house.finding(format!("modules lead in a circle: {}", names.join(", "))));
        }
        findings
    })
}

pub(super) fn rooms_use_what_they_may(files: &[SourceFile]) -> Vec<Finding> {
    of_every_house(files, |house, modules| {
        let mut findings = Vec::new();
        let mut used = BTreeSet::new();
        for (from, to) in arrows(modules) {
            let (room, other) = (first(&from), first(&to));
            if room == other {
                continue;
            }
            used.insert((room.to_owned(), other.to_owned()));
            if !house.allows(room, other) {
                let text = format!("{from} uses {to}: {room} must not use {other}");
                findings.push(house.finding(text));
            }
        }
        for (room, others) in house.arrows {
            for other in *others {
                if !used.contains(&((*room).to_owned(), (*other).to_owned())) {
                    let text = format!("{room} does not use {other}: take that out of the list");
                    findings.push(house.finding(text));
                }
            }
        }
        findings
    })
}

/// The page shows the rooms as they are.
pub(super) fn the_page_shows_the_rooms(files: &[SourceFile]) -> Vec<Finding> {
    let is_shown = match (drawn(files), files.iter().find(|file| file.path == PAGE)) {
        (Ok(drawn), Some(page)) => page.text.contains(&drawn),
        _ => false,
    };
    let finding = || Finding {
        path: PAGE.to_owned(),
        line: 0,
        text: "show the rooms as `cargo xtask tidy` prints them".to_owned(),
    };
    (!is_shown).then(finding).into_iter().collect()
}

/// The rooms of both crates and what they use.
pub(super) fn drawn(files: &[SourceFile]) -> Result<String> {
    let mut text = String::new();
    for house in &HOUSES {
        writeln!(text, "{}", house.root.trim_end_matches('/'))?;
        let mut rooms = Arrows::new();
        for (from, to) in arrows(&house.modules(files)?) {
            let others = rooms.entry(first(&from).to_owned()).or_default();
            if first(&from) != first(&to) {
                others.insert(first(&to).to_owned());
            }
        }
        for (room, others) in rooms {
            let others: Vec<_> = others.iter().map(String::as_str).collect();
            let arrow = if others.is_empty() { "" } else { " → " };
            writeln!(text, "  {room}{arrow}{}", others.join(", "))?;
        }
    }
    Ok(text)
}

impl House {
    /// Its modules and those they lead to. The root, which names all, is none of them.
    fn modules(&self, files: &[SourceFile]) -> Result<Arrows> {
        let modules = Modules::of(files, self.root)?;
        let mut arrows = Arrows::new();
        for (from, used) in modules.uses() {
            let from = self.module(from);
            for to in used.into_iter().map(|to| self.module(to)) {
                if from != to && !from.is_empty() && !to.is_empty() {
                    arrows.entry(from.clone()).or_default().insert(to);
                }
            }
        }
        Ok(arrows)
    }

    /// The module that a file belongs to.
    fn module(&self, path: &Path) -> String {
        let lengths = 1..=path.len();
        let names = lengths.map(|length| path.get(..length).unwrap_or_default().join("::"));
        let mut longest = String::new();
        for name in names {
            let is_room = self.rooms.contains(&&*name);
            longest = name;
            if !is_room {
                break;
            }
        }
        longest
    }

    fn allows(&self, room: &str, other: &str) -> bool {
        let mut arrows = self.arrows.iter();
        arrows.any(|(from, to)| *from == room && to.contains(&other))
    }

    fn finding(&self, text: String) -> Finding {
        Finding {
            path: self.root.to_owned(),
            line: 0,
            text,
        }
    }
}

fn of_every_house(
    files: &[SourceFile],
    look: impl Fn(&House, &Arrows) -> Vec<Finding>,
) -> Vec<Finding> {
    let of = |house: &House| match house.modules(files) {
        Ok(modules) => look(house, &modules),
        Err(error) => vec![house.finding(format!("{error:#}"))],
    };
    HOUSES.iter().flat_map(of).collect()
}

fn arrows(modules: &Arrows) -> impl Iterator<Item = (String, String)> {
    modules
        .iter()
        .flat_map(|(from, others)| others.iter().map(move |to| (from.clone(), to.clone())))
}

/// The room of a module.
fn first(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

/// The sets of modules that can all be reached from each other.
fn circles(modules: &Arrows) -> BTreeSet<BTreeSet<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> = modules
        .keys()
        .map(|from| (from, reached_from(modules, from)))
        .collect();
    let circle = |from: &String| -> BTreeSet<String> {
        let all = reached.get(from).into_iter().flatten();
        let back = |to: &&&String| {
            let others = reached.get(**to);
            others.is_some_and(|others| others.contains(from))
        };
        all.filter(back).map(|name| (*name).clone()).collect()
    };
    modules
        .keys()
        .map(circle)
        .filter(|circle| !circle.is_empty())
        .collect()
}

fn reached_from<'m>(modules: &'m Arrows, from: &str) -> BTreeSet<&'m String> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&String> = modules.get(from).into_iter().flatten().collect();
    while let Some(module) = next.pop() {
        if reached.insert(module) {
            next.extend(modules.get(module).into_iter().flatten());
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUSE: House = House {
        root: "a/src/",
        rooms: &["up", "down"],
        arrows: &[("up", &["down"])],
    };

    fn found(files: &[(&str, &str)]) -> (Arrows, usize) {
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| SourceFile::new(format!("a/src/{path}"), *text))
            .collect();
        let modules = HOUSE.modules(&files).unwrap();
        let circles = circles(&modules).len();
        (modules, circles)
    }

    fn leads(arrows: &Arrows, from: &str, to: &str) -> bool {
        arrows.get(from).is_some_and(|others| others.contains(to))
    }

    #[test]
    fn imports_paths_and_macros_are_uses() {
        for text in [
            "use crate::down::b::Item;",
            "use super::super::down::b::{self}; fn f() { b::g(); }",
            "use crate::{up::c, down::{b}}; fn f() -> b::Item {}",
            "fn f() { crate::down::b::g(); }",
            "fn f() { assert!(g(crate::down::b::IS)); }",
            "use crate::down::b::*;",
            "use crate::down::Item;",
        ] {
            let files = [
                ("up/a.rs", text),
                ("up/c.rs", ""),
                ("down/mod.rs", "pub mod b; pub use b::Item;"),
                ("down/b.rs", ""),
            ];
            let (arrows, circles) = found(&files);
            assert!(leads(&arrows, "up::a", "down::b"), "{text}: {arrows:?}");
            assert_eq!(circles, 0, "{text}");
        }
    }

    #[test]
    fn what_is_only_for_tests_is_no_use() {
        for text in [
            "#[cfg(test)] mod tests { use crate::down::b::Item; }",
            "#[cfg(test)] fn f() { crate::down::b::g(); }",
            "// use crate::down::b;",
            "const A: &str = \"crate::down::b::g\";",
            "pub(in crate::down::b) fn f() {}",
        ] {
            let files = [("up/a.rs", text), ("down/b.rs", "")];
            assert!(found(&files).0.is_empty(), "{text}");
        }
    }

    #[test]
    fn a_circle_is_found_however_long() {
        let files = [
            ("up/a.rs", "use super::b::X;"),
            ("up/b.rs", "use crate::down::c::X;"),
            ("down/c.rs", "use crate::up::a::X;"),
        ];
        assert_eq!(found(&files).1, 1);
    }

    #[test]
    fn a_folder_that_is_no_room_is_one_module() {
        let files = [
            ("up/a/mod.rs", "mod part; use part::X;"),
            ("up/a/part.rs", "use super::Y;"),
        ];
        assert_eq!(found(&files), (Arrows::new(), 0));
    }
}
