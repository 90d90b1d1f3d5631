//! Trees in which one thing changes.

use crate::tidy::layout::*;

const EVENT: &str = "
macro_rules! abi_version { () => { 6 }; }
/// A record.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Record {
    /// What.
    pub kind: u8,
    pub rest: [u8; REST],
}
pub const REST: usize = 3;
numbered! {
    /// Kinds.
    pub enum Kind: u8 {
        /// One.
        Connect = 1,
    }
}
impl Record { fn f(&self) -> u8 { self.kind } }
";
const GENERATION: &str = "
use crate::Far;
pub const GENERATION_ABI: u32 = 5;
pub struct Header { pub a: u32, pub far: Far }
";
const OTHER: &str = "
pub struct Denial { a: u8 } pub struct Mask(pub u64); pub struct Ends; pub struct PageV4;
pub struct PageV6; pub struct Far { pub near: Near } pub type Near = u32;
";
const MAP: &str = "
#[map(name = \"pm_state\")] pub(crate) static STATE: Array<u64> = Array::with(1, 0);
#[map(name = \"pm_events\")] pub(crate) static EVENTS: Ring = Ring::with(1);
#[map(name = \"pm_rules\")] pub(crate) static RULES: Array<Header> = Array::with(N, 0);
#[map(name = \"pm_pids\")] pub(crate) static PIDS: Array<u8> = Array::with(1, 0);
";

/// The work tree with one piece of text in place of another, wherever it is.
fn tree(from: &str, to: &str) -> Vec<SourceFile> {
    let all = [EVENT, GENERATION, OTHER, MAP];
    assert!(from.is_empty() || all.iter().any(|text| text.contains(from)));
    let changed = |text: &str| match from {
        "" => text.to_owned(),
        _ => text.replace(from, to),
    };
    vec![
        SourceFile::new(LAYOUTS[0].file, changed(EVENT)),
        SourceFile::new(LAYOUTS[1].file, changed(GENERATION)),
        SourceFile::new(format!("{COMMON}other.rs"), changed(OTHER)),
        SourceFile::new(format!("{MAPS}mod.rs"), changed(MAP)),
        SourceFile::new(PINNED, "const POLICY_MAPS: [&str; 1] = [\"pm_rules\"];"),
    ]
}

/// The findings where the record is of the tree as it was.
fn findings(from: &str, to: &str) -> Vec<String> {
    let before = tree("", "");
    let mut record = HEAD.to_owned();
    for layout in &LAYOUTS {
        let State { number, digest } = layout.state(&before).unwrap();
        writeln!(record, "{} {number} {digest}", layout.number).unwrap();
    }
    let mut files = tree(from, to);
    files.push(SourceFile::new(RECORD, record));
    let findings = layouts_that_change_have_a_new_number(&files).into_iter();
    findings.map(|finding| finding.text).collect()
}

#[test]
fn comments_form_derives_and_functions_are_no_layout() {
    for (from, to) in [
        ("", ""),
        ("/// What.", "/// What it is.\n// And why."),
        ("/// One.", "/// One and only."),
        ("(Clone, Copy)", "(Clone, Copy, Debug)"),
        (
            "{ pub a: u32, pub far: Far }",
            "{\n    pub a: u32,\n    pub far: Far,\n}",
        ),
        ("self.kind", "self.kind + 1"),
        ("pub struct Far", "pub(crate) struct Far"),
        // A map that is not pinned.
        ("Array<u8>", "Array<u16>"),
    ] {
        assert_eq!(findings(from, to), Vec::<String>::new(), "{from} → {to}");
    }
}

#[test]
fn changes_of_a_layout_want_its_number_raised() {
    for (from, to, number) in [
        ("pub kind: u8", "pub kind: u16", "abi_version"),
        (
            "pub kind: u8,",
            "pub kind: u8, pub more: u8,",
            "abi_version",
        ),
        ("REST: usize = 3", "REST: usize = 7", "abi_version"),
        ("Connect = 1", "Connect = 2", "abi_version"),
        ("#[repr(C)]", "", "abi_version"),
        ("pub a: u32", "pub a: u64", "GENERATION_ABI"),
        ("Mask(pub u64)", "Mask(pub u32)", "GENERATION_ABI"),
        // Through a struct of another file, and an alias in it.
        ("Near = u32", "Near = u16", "GENERATION_ABI"),
        ("Array<Header>", "HashMap<u32, Header>", "GENERATION_ABI"),
        ("Ring::with(1)", "Ring::with(2)", "GENERATION_ABI"),
    ] {
        let found = findings(from, to);
        let advice = format!("raise `{number}`");
        assert!(
            matches!(&found[..], [one] if one.contains(&advice)),
            "{from} → {to}: {found:?}"
        );
    }
}

#[test]
fn a_raised_number_is_to_be_noted() {
    let found = findings("=> { 6 }", "=> { 7 }");
    assert!(
        matches!(&found[..], [one] if one.contains("is 7: run")),
        "{found:?}"
    );
}

#[test]
fn what_is_named_and_not_there_is_told() {
    let found = findings("pm_rules", "pm_rulez");
    assert!(
        matches!(&found[..], [one] if one.contains("pm_rules")),
        "{found:?}"
    );
}
