//! The lines of a recording of `-o json`, in a file or a pipe, compressed as old output files are
//! or not.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Cursor, Read as _},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;

use crate::base::exit_code::Failure;

/// Has every line taken, in its order. What one fails of names its place.
pub(super) fn each_line(
    recording: &Path,
    mut take: impl FnMut(&str) -> Result<(), String>,
) -> Result<(), Failure> {
    let source: Box<dyn io::Read> = if recording == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(recording).map_err(|error| refusal(recording, &error))?)
    };
    let mut lines = unpacked(source).map_err(|error| refusal(recording, &error))?;
    let mut text = String::new();
    for number in 1.. {
        if !next_line(&mut lines, &mut text).map_err(|error| refusal(recording, &error))? {
            break;
        }
        take(&text).map_err(|error| {
            let place = format!("{}:{number}", recording.display());
            Failure::usage(format!("{place}: {error}"))
        })?;
    }
    Ok(())
}

/// Many times what the longest line takes. A small file may unpack to a line that no memory
/// holds.
const MAX_LINE: u64 = 1 << 20;

/// What files begin with that something else has compressed, and what reads them.
const OTHERS: [(&[u8], &str); 3] = [
    (b"\x28\xb5\x2f\xfd", "zstd -dc"),
    (b"\xfd7zX", "xz -dc"),
    (b"BZh", "bzip2 -dc"),
];

/// The lines of a recording that may be compressed, as old output files are.
fn unpacked(mut source: impl io::Read + 'static) -> io::Result<Box<dyn BufRead>> {
    let mut magic = Vec::new();
    source.by_ref().take(4).read_to_end(&mut magic)?;
    let other = OTHERS.iter().find(|(begin, _)| magic.starts_with(begin));
    if let Some((_, reader)) = other {
        let text = format!("it is compressed: `{reader} FILE` unpacks it");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let is_gzip = magic.starts_with(b"\x1f\x8b");
    let whole = Cursor::new(magic).chain(source);
    Ok(if is_gzip {
        Box::new(BufReader::new(MultiGzDecoder::new(BufReader::new(whole))))
    } else {
        Box::new(BufReader::new(whole))
    })
}

/// Reads the next line; false where there is none.
fn next_line(lines: &mut impl BufRead, text: &mut String) -> io::Result<bool> {
    text.clear();
    lines.take(MAX_LINE + 1).read_line(text)?;
    if text.len() as u64 > MAX_LINE {
        let text = "a line of it is longer than 1 MiB, so it is not one of `-o json`";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(!text.is_empty())
}

/// The recording cannot be used.
pub(super) fn refusal(recording: &Path, error: &dyn fmt::Display) -> Failure {
    Failure::usage(format!("read {}: {error}", recording.display()))
}
