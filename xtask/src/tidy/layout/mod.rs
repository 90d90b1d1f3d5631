//! Layouts that two programs share have a number, which is raised when they change: that of
//! records on the wire, and that of pinned maps, which an older program may have left.
//!
//! A layout is every declaration that it is made of, without what is not part of it:
//! comments, derives, functions and form. Its digest is kept beside its number in
//! `xtask/layouts.txt`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
};

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::source::{Finding, SourceFile};
use crate::{ebpf, paths};

const RECORD: &str = "xtask/layouts.txt";
const HEAD: &str =
    "# Written by `cargo xtask layouts`: the number of each layout, and its digest.\n";
const COMMON: &str = "port-monitor-common/src/";
const MAPS: &str = "port-monitor-ebpf/src/maps/";
/// Where the names of the maps of policies are, which are pinned.
const PINNED: &str = "port-monitor/src/kernel/object.rs";
/// Those that are pinned beside them.
const PINNED_BESIDE: [&str; 2] = ["pm_state", "pm_events"];

/// A layout with a number.
struct Numbered {
    /// The constant or macro that has the number.
    number: &'static str,
    /// The file with the number, all of whose declarations are part of the layout.
    file: &'static str,
    /// Declarations of other files that are.
    beside: &'static [&'static str],
    /// And the pinned maps.
    has_maps: bool,
}

const LAYOUTS: [Numbered; 2] = [
    Numbered {
        number: "abi_version",
        file: "port-monitor-common/src/event.rs",
        beside: &[],
        has_maps: false,
    },
    Numbered {
        number: "GENERATION_ABI",
        file: "port-monitor-common/src/generation.rs",
        beside: &["Denial", "Mask", "Ends", "PageV4", "PageV6"],
        has_maps: true,
    },
];

/// How to note what has changed.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Every byte is where it was and means what it did: names or the text have changed
    #[arg(long)]
    same_layout: bool,
}

/// What `cargo xtask layouts` does: notes the numbers and digests.
pub(crate) fn write(args: &Args) -> Result<()> {
    let files = super::work_tree()?;
    let before = recorded(&files);
    let mut text = HEAD.to_owned();
    for layout in &LAYOUTS {
        let now = layout.state(&files)?;
        let is_changed = before
            .get(layout.number)
            .is_some_and(|before| before.number == now.number && before.digest != now.digest);
        if is_changed && !args.same_layout {
            bail!("{}", layout.advice());
        }
        writeln!(text, "{} {} {}", layout.number, now.number, now.digest)?;
    }
    fs::write(paths::workspace().join(RECORD), text).with_context(|| format!("write {RECORD}"))
}

/// The rule of `tidy`.
pub(super) fn layouts_that_change_have_a_new_number(files: &[SourceFile]) -> Vec<Finding> {
    let before = recorded(files);
    let mut findings = Vec::new();
    for layout in &LAYOUTS {
        let Some(file) = files.iter().find(|file| file.path == layout.file) else {
            continue;
        };
        match (before.get(layout.number), layout.state(files)) {
            (_, Err(error)) => findings.push(file.finding(format!("{error:#}"))),
            (Some(before), Ok(now)) if *before == now => {}
            (Some(before), Ok(now)) if before.number == now.number => {
                findings.push(file.finding(layout.advice()));
            }
            (_, Ok(now)) => findings.push(file.finding(format!(
                "{} is {}: run `cargo xtask layouts`, which notes it",
                layout.number, now.number
            ))),
        }
    }
    findings
}

/// A layout at one time.
#[derive(Debug, PartialEq, Eq)]
struct State {
    number: u64,
    digest: String,
}

/// What is noted, by the name of the number.
fn recorded(files: &[SourceFile]) -> BTreeMap<&str, State> {
    let record = files.iter().find(|file| file.path == RECORD);
    let lines = record.map_or("", |record| &record.text).lines();
    lines
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (name, number, digest) = (words.next()?, words.next()?, words.next()?);
            let number = number.parse().ok()?;
            let digest = digest.to_owned();
            Some((name, State { number, digest }))
        })
        .collect()
}

impl Numbered {
    fn advice(&self) -> String {
        let Self { number, file, .. } = self;
        format!(
            "a layout has changed: raise `{number}` in {file} and run `cargo xtask layouts`; where \
             every byte is where it was and means what it did, run `cargo xtask layouts \
             --same-layout`"
        )
    }

    fn state(&self, files: &[SourceFile]) -> Result<State> {
        let items = items(files)?;
        let mut wanted: Vec<&Item> = Vec::new();
        wanted.extend(items.iter().filter(|item| item.file == self.file));
        for name in self.beside {
            let named = |item: &&Item| item.names.iter().any(|own| own == name);
            let item = items.iter().find(named);
            wanted.push(item.with_context(|| format!("there is no {name}"))?);
        }
        if self.has_maps {
            for map in pinned(files)? {
                let is_map = |item: &&Item| item.file.starts_with(MAPS) && item.text.contains(&map);
                let item = items.iter().find(is_map);
                wanted.push(item.with_context(|| format!("there is no map {map}"))?);
            }
        }
        let number = number(files, self)?;
        // The number itself is no part of what it numbers.
        let parts: BTreeSet<&str> = closed(wanted, &items)
            .into_iter()
            .filter(|item| !item.names.iter().any(|name| name == self.number))
            .map(|item| item.text.as_str())
            .collect();
        let text: Vec<&str> = parts.into_iter().collect();
        Ok(State {
            number,
            digest: ebpf::digest_of(text.join("\n").as_bytes()),
        })
    }
}

/// With all that these are declared by.
fn closed<'i>(mut wanted: Vec<&'i Item>, items: &'i [Item]) -> Vec<&'i Item> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    while let Some(item) = wanted.pop() {
        if !seen.insert(&item.text) {
            continue;
        }
        all.push(item);
        for used in &item.uses {
            let mut named = items.iter().filter(|other| other.names.contains(used));
            let near = named.clone().find(|other| other.file == item.file);
            wanted.extend(near.or_else(|| named.next()));
        }
    }
    all
}

/// The quoted names of the maps that are pinned.
fn pinned(files: &[SourceFile]) -> Result<Vec<String>> {
    let file = files.iter().find(|file| file.path == PINNED);
    let text = &file.with_context(|| format!("there is no {PINNED}"))?.text;
    let (_, list) = text.split_once("POLICY_MAPS").context("no POLICY_MAPS")?;
    let (list, _) = list.split_once("];").context("no end of POLICY_MAPS")?;
    let quoted = |name: &str| format!("\"{name}\"");
    let names = list.split('"').skip(1).step_by(2);
    Ok(names.chain(PINNED_BESIDE).map(quoted).collect())
}

/// The number in the file of a layout.
fn number(files: &[SourceFile], layout: &Numbered) -> Result<u64> {
    let file = files.iter().find(|file| file.path == layout.file);
    let file = file.with_context(|| format!("there is no {}", layout.file))?;
    let mut tokens = Vec::new();
    flatten(
        file.text.parse().map_err(|error| unreadable(&error))?,
        &mut tokens,
    );
    let mut tokens = tokens
        .into_iter()
        .skip_while(|token| token != layout.number);
    let number = tokens.find_map(|token| token.parse().ok());
    number.with_context(|| format!("there is no {}", layout.number))
}

fn unreadable(error: &proc_macro2::LexError) -> anyhow::Error {
    anyhow::anyhow!("read the declarations: {error}")
}

/// A declaration.
#[derive(Debug, Default)]
struct Item {
    file: String,
    /// Several where a macro declares them.
    names: Vec<String>,
    /// Names in it.
    uses: BTreeSet<String>,
    /// All of it that matters, a token after the other.
    text: String,
}

/// What declares no layout.
const NO_LAYOUT: [&str; 6] = ["impl", "fn", "mod", "use", "trait", "macro_rules"];

/// The declarations of the files in which layouts are.
fn items(files: &[SourceFile]) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for file in files {
        let is_in = |folder: &&str| file.path.starts_with(*folder) && file.has_extension("rs");
        if ![COMMON, MAPS].iter().any(is_in) {
            continue;
        }
        let tokens: TokenStream = file.text.parse().map_err(|error| unreadable(&error))?;
        let mut item = Vec::new();
        for token in tokens {
            let begins = item.iter().find_map(keyword).unwrap_or_default();
            // A constant may have braces in its value.
            let is_value = ["const", "static", "type"].contains(&begins.as_str());
            let ends = match &token {
                TokenTree::Punct(punct) => punct.as_char() == ';',
                TokenTree::Group(group) => group.delimiter() == Delimiter::Brace && !is_value,
                _ => false,
            };
            item.push(token);
            if ends {
                items.extend(read(&file.path, std::mem::take(&mut item)));
            }
        }
    }
    Ok(items)
}

/// What a declaration begins with.
fn keyword(token: &TokenTree) -> Option<String> {
    match token {
        TokenTree::Ident(ident) if *ident != "pub" && *ident != "unsafe" => Some(ident.to_string()),
        _ => None,
    }
}

fn read(file: &str, tokens: Vec<TokenTree>) -> Option<Item> {
    let begins = tokens.iter().find_map(keyword)?;
    let after = tokens.iter().filter_map(keyword).nth(1);
    // A function may be constant; an assertion has no name.
    let is_none = after
        .as_deref()
        .is_some_and(|word| word == "fn" || word == "_");
    if NO_LAYOUT.contains(&begins.as_str()) || is_none {
        return None;
    }
    let mut words = Vec::new();
    flatten(tokens.into_iter().collect(), &mut words);
    let pairs = || words.windows(2);
    let is_macro = pairs().any(|pair| pair[0] == begins && pair[1] == "!");
    let names = if is_macro {
        let enums = pairs().filter(|pair| pair[0] == "enum");
        let enums: Vec<String> = enums.map(|pair| pair[1].clone()).collect();
        let constants = pairs().filter(|pair| pair[1] == "=");
        if enums.is_empty() {
            constants.map(|pair| pair[0].clone()).collect()
        } else {
            enums
        }
    } else {
        after.into_iter().collect()
    };
    Some(Item {
        file: file.to_owned(),
        names,
        uses: words.iter().cloned().collect(),
        text: words.join(" "),
    })
}

/// Every token, without attributes that are not part of a layout, visibility, and commas
/// that only form puts before an end.
fn flatten(tokens: TokenStream, words: &mut Vec<String>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                // That of a whole file has another sign between.
                let is_sign = |token: &TokenTree| matches!(token, TokenTree::Punct(_));
                let _ = tokens.next_if(is_sign);
                match tokens.next() {
                    Some(TokenTree::Group(group)) if is_layout(&group.stream()) => {
                        flatten(group.stream(), words);
                    }
                    _ => {}
                }
            }
            TokenTree::Ident(ident) if ident == "pub" => {
                let is_narrowed = |token: &TokenTree| {
                    matches!(token, TokenTree::Group(group)
                        if group.delimiter() == Delimiter::Parenthesis)
                };
                // `pub(crate)`; the field of a tuple has its type in parentheses of its own.
                if tokens.peek().is_some_and(is_narrowed) {
                    tokens.next();
                }
            }
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                words.push(open.to_owned());
                flatten(group.stream(), words);
                if words.last().is_some_and(|word| word == ",") {
                    words.pop();
                }
                words.push(close.to_owned());
            }
            other => words.push(other.to_string()),
        }
    }
}

/// Attributes that say how something lies in memory, or which map it is.
fn is_layout(attribute: &TokenStream) -> bool {
    let first = attribute.clone().into_iter().next();
    let name = first.map(|token| token.to_string()).unwrap_or_default();
    ["repr", "map", "btf_map"].contains(&name.as_str())
}

#[cfg(test)]
mod tests;
