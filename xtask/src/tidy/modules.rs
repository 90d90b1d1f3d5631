//! The modules of a crate and what each names of the others, as its text says it: imports,
//! paths in code, and paths within macros. What is compiled for tests alone is left out.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, ImplItem, Item, ItemUse, Meta, UseTree, Visibility,
    visit::{self, Visit},
};

use super::source::SourceFile;

/// The names of a module from the crate's root on; the root itself has none.
pub(super) type Path = Vec<String>;

/// The modules of one crate.
#[derive(Debug, Default)]
pub(super) struct Modules {
    all: BTreeMap<Path, Module>,
}

#[derive(Debug, Default)]
struct Module {
    /// What it imports for itself, by the name it has here.
    imports: Vec<(String, Path)>,
    /// What it hands on, by the name it has here.
    exports: BTreeMap<String, Path>,
    /// Paths in its code.
    paths: Vec<Path>,
}

impl Modules {
    /// Of the files below `root`, which ends in a slash.
    pub(super) fn of(files: &[SourceFile], root: &str) -> Result<Self> {
        let mut sources = BTreeMap::new();
        for file in files.iter().filter(|file| file.has_extension("rs")) {
            if let Some(path) = file.path.strip_prefix(root).and_then(module_path) {
                sources.insert(path, file);
            }
        }
        let names: BTreeSet<Path> = sources.keys().cloned().collect();
        let mut all = BTreeMap::new();
        for (path, file) in sources {
            let syntax =
                syn::parse_file(&file.text).with_context(|| format!("parse {}", file.path))?;
            let mut reader = Reader {
                here: &path,
                names: &names,
                module: Module::default(),
            };
            reader.visit_file(&syntax);
            let module = reader.module;
            all.insert(path, module);
        }
        Ok(Self { all })
    }

    /// Each module with those whose items it names.
    pub(super) fn uses(&self) -> BTreeMap<&Path, BTreeSet<&Path>> {
        let uses_of = |(here, module): (_, &Module)| {
            let mut used = BTreeSet::new();
            for (_, path) in &module.imports {
                // The import of a module counts by what is named through it.
                if !self.all.contains_key(path) {
                    used.extend(self.resolve(path, 0));
                }
            }
            for path in &module.paths {
                let first = path.first().map(String::as_str);
                let import = module
                    .imports
                    .iter()
                    .find(|(name, _)| Some(&**name) == first);
                let whole = match import {
                    Some((_, import)) => {
                        let rest = path.iter().skip(1);
                        import.iter().chain(rest).cloned().collect()
                    }
                    None => path.clone(),
                };
                used.extend(self.resolve(&whole, 0));
            }
            used.remove(here);
            (here, used)
        };
        self.all.iter().map(uses_of).collect()
    }

    /// The module that has the item of this path, behind all that hand it on.
    fn resolve(&self, path: &[String], depth: usize) -> Option<&Path> {
        /// More than any item is handed on.
        const DEEPEST: usize = 8;
        let length = (0..=path.len()).rev().find(|&length| {
            self.all
                .contains_key(path.get(..length).unwrap_or_default())
        })?;
        let (at, rest) = path.split_at(length);
        let (found, module) = self.all.get_key_value(at)?;
        let target = rest.first().and_then(|name| module.exports.get(name));
        match target {
            Some(target) if depth < DEEPEST => {
                let rest = rest.iter().skip(1);
                let whole: Path = target.iter().chain(rest).cloned().collect();
                self.resolve(&whole, depth + 1)
            }
            _ => Some(found),
        }
    }
}

/// The module that a file is, by its path below the crate's root; none for files of tests
/// and for the start of a program beside a library.
fn module_path(file: &str) -> Option<Path> {
    let mut parts: Path = file
        .strip_suffix(".rs")?
        .split('/')
        .map(str::to_owned)
        .collect();
    if parts.iter().any(|part| part == "tests") {
        return None;
    }
    if parts.last().is_some_and(|last| last == "mod") || matches!(file, "lib.rs" | "main.rs") {
        parts.pop();
    }
    Some(parts)
}

/// Reads one file.
struct Reader<'a> {
    here: &'a Path,
    names: &'a BTreeSet<Path>,
    module: Module,
}

impl Reader<'_> {
    /// From the crate's root on, where it begins at this crate or at a module of this one's.
    fn absolute(&self, path: &[String]) -> Option<Path> {
        let first = path.first()?;
        let rest = |skip| path.iter().skip(skip).cloned();
        match &**first {
            "crate" => Some(rest(1).collect()),
            "self" => Some(self.here.iter().cloned().chain(rest(1)).collect()),
            "super" => {
                let ups = path.iter().take_while(|part| *part == "super").count();
                let above = self.here.len().saturating_sub(ups);
                let above = self.here.iter().take(above).cloned();
                Some(above.chain(rest(ups)).collect())
            }
            _ => {
                let mut child = self.here.clone();
                child.push(first.clone());
                let is_child = self.names.contains(&child);
                is_child.then(|| self.here.iter().cloned().chain(rest(0)).collect())
            }
        }
    }

    fn import(&mut self, tree: &UseTree, before: &mut Path, is_handed_on: bool) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.import(&path.tree, before, is_handed_on);
                before.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, before, is_handed_on);
                }
            }
            UseTree::Glob(_) => self.imported(before, None, is_handed_on),
            UseTree::Name(name) => {
                let mut path = before.clone();
                if name.ident != "self" {
                    path.push(name.ident.to_string());
                }
                let last = path.last().cloned();
                self.imported(&path, last, is_handed_on);
            }
            UseTree::Rename(rename) => {
                let mut path = before.clone();
                if rename.ident != "self" {
                    path.push(rename.ident.to_string());
                }
                self.imported(&path, Some(rename.rename.to_string()), is_handed_on);
            }
        }
    }

    fn imported(&mut self, path: &[String], name: Option<String>, is_handed_on: bool) {
        let Some(path) = self.absolute(path) else {
            return;
        };
        match name {
            Some(name) if is_handed_on => {
                self.module.exports.insert(name, path);
            }
            Some(name) => self.module.imports.push((name, path)),
            // All that a module has: as if one of its items were named.
            None => self.module.paths.push(path),
        }
    }

    fn named(&mut self, path: Path) {
        if path.len() < 2 {
            return;
        }
        let path = self.absolute(&path).unwrap_or(path);
        self.module.paths.push(path);
    }

    /// The paths in the text of a macro's call.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path = Path::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if path.is_empty() || colons == 2 => {
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Ident(ident) => {
                    self.named(std::mem::replace(&mut path, vec![ident.to_string()]));
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.named(std::mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.named(path);
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes: &[Attribute] = match item {
            Item::Const(item) => &item.attrs,
            Item::Enum(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Static(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => &[],
        };
        if !attributes.iter().any(is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let is_tested = match item {
            ImplItem::Fn(item) => item.attrs.iter().any(is_for_tests),
            _ => false,
        };
        if !is_tested {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let is_handed_on = !matches!(item.vis, Visibility::Inherited);
        self.import(&item.tree, &mut Path::new(), is_handed_on);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts = path.segments.iter().map(|part| part.ident.to_string());
        self.named(parts.collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        visit::visit_macro(self, call);
        self.tokens(call.tokens.clone());
    }

    // Where an item may be seen from is no use of the module there.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

/// `#[cfg(test)]`, or a part of it.
fn is_for_tests(attribute: &Attribute) -> bool {
    match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => list
            .tokens
            .to_string()
            .split_whitespace()
            .any(|word| word == "test"),
        _ => false,
    }
}
