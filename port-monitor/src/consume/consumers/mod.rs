//! The consumers beside what is shown, and the flags that ask for them. To add one: a file
//! here, and below its flag and its line in [`Args::open`].

mod recording;

use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, TypedValueParser as _};

use self::recording::Recording;
use super::{
    consumer::{Consumer, Kinds},
    output::args::new_path,
};
use crate::base::exit_code::Failure;

/// What asks for consumers.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Output")]
pub struct Args {
    /// Write every event as JSON lines to FILE too, beside whatever is shown
    ///
    /// What it has more than the table or --violations show counts as filtered there. FILE is
    /// appended to, and may be a named pipe. If it cannot be written, or its reader is too
    /// slow, nothing else suffers: the account says what is missing there.
    #[arg(
        long,
        value_name = "FILE",
        allow_hyphen_values = true,
        value_parser = PathBufValueParser::new().try_map(file)
    )]
    record: Option<PathBuf>,
}

/// The path of a file, which the standard output is not.
fn file(path: PathBuf) -> Result<PathBuf, &'static str> {
    if path == Path::new("-") {
        return Err("not a file: -o json writes to standard output");
    }
    new_path(path)
}

impl Args {
    /// One of them tells events in JSON.
    pub(crate) const fn tell_json(&self) -> bool {
        self.record.is_some()
    }

    /// Makes them, of events of these `kinds`. What is shown is in `shown`, or on standard
    /// output.
    pub fn open(
        &self,
        kinds: Kinds,
        shown: Option<&Path>,
    ) -> Result<Vec<Box<dyn Consumer>>, Failure> {
        let mut consumers: Vec<Box<dyn Consumer>> = Vec::new();
        if let Some(path) = &self.record {
            consumers.push(Box::new(Recording::open(path, kinds, shown)?));
        }
        Ok(consumers)
    }
}
