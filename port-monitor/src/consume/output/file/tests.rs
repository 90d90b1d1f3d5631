//! What is in the files, whoever moves, empties or keeps them.

use std::{fs, io::Read as _, path::Path};

use flate2::read::GzDecoder;
use tempfile::TempDir;

use crate::consume::output::file::*;

fn dir() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    (dir, path)
}

/// Writes all of it, as the thread of the output does.
fn write(log: &Log, text: &str) {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let written = log.write(rest).unwrap();
        rest = &rest[written..];
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn unpacked(path: &Path) -> String {
    let mut text = String::new();
    let mut file = GzDecoder::new(File::open(path).unwrap());
    file.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn an_emptied_file_begins_with_the_next_line() {
    let (_dir, path) = dir();
    let log = Log::open(&path, None).unwrap();
    write(&log, "one\ntwo\n");
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(0)
        .unwrap();
    write(&log, "three\n");
    assert_eq!(text(&path), "three\n");
}

#[test]
fn what_was_there_stays_and_a_torn_line_is_ended() {
    let (_dir, path) = dir();
    fs::write(&path, "whole\ntorn").unwrap();
    write(&Log::open(&path, None).unwrap(), "new\n");
    assert_eq!(text(&path), "whole\ntorn\nnew\n");
}

#[test]
fn a_file_that_was_moved_is_left_when_asked() {
    let (dir, path) = dir();
    let old = dir.path().join("old");
    let log = Log::open(&path, None).unwrap();
    write(&log, "one\n");
    fs::rename(&path, &old).unwrap();
    write(&log, "two\n");
    log.reopen();
    write(&log, "three\n");
    assert_eq!(text(&old), "one\ntwo\n");
    assert_eq!(text(&path), "three\n");
}

#[test]
fn a_line_is_never_in_two_files() {
    let (dir, path) = dir();
    let old = dir.path().join("old");
    let log = Log::open(&path, None).unwrap();
    write(&log, "be");
    fs::rename(&path, &old).unwrap();
    log.reopen();
    write(&log, "gun\n");
    write(&log, "next\n");
    assert_eq!(text(&old), "begun\n");
    assert_eq!(text(&path), "next\n");
}

#[test]
fn a_file_that_cannot_be_opened_again_is_written_to_on() {
    let (dir, path) = dir();
    let old = dir.path().join("old");
    let log = Log::open(&path, None).unwrap();
    fs::rename(&path, &old).unwrap();
    fs::create_dir(&path).unwrap();
    log.reopen();
    write(&log, "line\n");
    assert_eq!(text(&old), "line\n");
}

#[test]
fn full_files_are_kept_compressed_and_the_oldest_goes() {
    let (_dir, path) = dir();
    let limits = Limits { size: 8, keep: 2 };
    let log = Log::open(&path, Some(limits)).unwrap();
    write(&log, "aa1\naa2\nbb1\nbb2\n");
    // A line that is longer than a file may be.
    write(&log, "cccccccccc\n");
    // What has room is written at once, and nothing else.
    assert!(log.write_at_once(b"dd1\n").is_err());
    write(&log, "dd1\n");
    assert_eq!(log.write_at_once(b"dd2\ndd3\n").unwrap(), 4);
    drop(log);
    let kept = |number| unpacked(&path.with_extension(format!("{number}.gz")));
    assert_eq!(text(&path), "dd1\ndd2\n");
    assert_eq!([kept(1), kept(2)], ["cccccccccc\n", "bb1\nbb2\n"]);
    let mode = fs::metadata(path.with_extension("1.gz")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    let names = fs::read_dir(path.parent().unwrap()).unwrap();
    assert_eq!(names.count(), 3);
}

#[test]
fn a_directory_that_takes_no_name_loses_no_line() {
    let (_dir, path) = dir();
    let limits = Limits { size: 8, keep: 1 };
    let log = Log::open(&path, Some(limits)).unwrap();
    fs::create_dir(path.with_extension("1")).unwrap();
    fs::write(path.with_extension("1").join("x"), "").unwrap();
    write(&log, "aa1\naa2\nbb1\nbb2\ncc1\ncc2\n");
    assert_eq!(text(&path), "aa1\naa2\nbb1\nbb2\ncc1\ncc2\n");
}
