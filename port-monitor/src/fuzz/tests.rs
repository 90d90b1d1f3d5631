//! Each target on its corpus, and on what a moment's work makes of that.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

use crate::{base::seeded::Random, fuzz::*};

/// Inputs that are made up for each target: the same ones each time, so that it is not left
/// to chance whether these tests pass. `cargo xtask fuzz` looks for others.
const MADE_UP: usize = 20_000;

/// How long a target runs on them at most.
const MOMENT: Duration = Duration::from_secs(1);

/// Inputs grow no longer.
const LONGEST: usize = 4_096;

/// Numbers at which parsers go wrong.
const NUMBERS: [u32; 8] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff0,
    0xffff_ffff,
];

/// Bytes that mean something to some parser.
const SPECIAL: [u8; 24] = *b"\0\x01\x7f\x80\xff \t\n\r\"'\\[]{}()=:,./-";

/// The inputs of a target that are kept.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let entries = fs::read_dir(dir.join(name)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs a target; what it fails with is told with the input, as Rust writes it.
fn run(target: Target, input: &[u8]) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    assert!(
        outcome.is_ok(),
        "{} failed, as said above, with b\"{}\"",
        target.name,
        input.escape_ascii()
    );
}

/// Another input, made of one of the corpus.
fn changed(corpus: &[Vec<u8>], random: &Random) -> Vec<u8> {
    let mut input = corpus[random.index(corpus.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.index(input.len() + 1);
        let end = (at + random.index(17)).min(input.len());
        let number = random.one_of(&NUMBERS).to_ne_bytes();
        match random.below(8) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..end)),
            2 => input.insert(at, random.one_of(&SPECIAL)),
            3 if at < end => input[at] = random.one_of(&SPECIAL),
            4 if at < end => input[at] ^= 1 << random.below(8),
            5 if at + 4 <= input.len() => input[at..at + 4].copy_from_slice(&number),
            6 => {
                let part = input[at..end].repeat(1 + random.index(9));
                input.splice(at..at, part);
            }
            _ => {
                let other = &corpus[random.index(corpus.len())];
                let from = random.index(other.len() + 1);
                let to = (from + random.index(65)).min(other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
        }
        input.truncate(LONGEST);
    }
    input
}

fn fuzz(name: &str) {
    let target = *TARGETS.iter().find(|target| target.name == name).unwrap();
    let corpus = corpus(name);
    for whole in &corpus {
        run(target, whole);
        for length in 0..whole.len().min(LONGEST) {
            run(target, &whole[..length]);
        }
    }
    let random = Random::new(0);
    let begin = Instant::now();
    for _ in 0..MADE_UP {
        if begin.elapsed() > MOMENT {
            break;
        }
        run(target, &changed(&corpus, &random));
    }
}

#[test]
fn every_corpus_is_of_a_target() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(found, names);
}

/// One test a target, so that they run beside each other and fail by name.
macro_rules! tests {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                fuzz($name);
            }
        )*

        #[test]
        fn every_target_has_a_test() {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$($name),*]);
        }
    };
}

tests! {
    btf: "btf",
    cases: "cases",
    kernel_text: "kernel-text",
    mounts: "mounts",
    netlink: "netlink",
    networks: "networks",
    policy: "policy",
    process: "process",
    record: "record",
    recording: "recording",
    words: "words",
}
